"""`python -m inverse_dynamics COMMAND`."""

from video.front_door import run_commands

if __name__ == "__main__":
    run_commands(
        [
            "inverse_dynamics.evaluate.evaluate",
            "inverse_dynamics.calibrate.calibrate",
            "inverse_dynamics.ensemble.ensemble",
            "inverse_dynamics.label.label",
            "inverse_dynamics.mask_video.mask",
        ],
        "python -m inverse_dynamics",
    )
