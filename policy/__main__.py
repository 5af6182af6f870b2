"""`python -m policy COMMAND`."""

from video.front_door import run_commands

if __name__ == "__main__":
    run_commands(["policy.evaluate.evaluate", "policy.compare.compare"], "python -m policy")
