"""`python -m worldmodel COMMAND`."""

from video.front_door import run_commands

if __name__ == "__main__":
    run_commands(
        [
            "worldmodel.imagine.imagine",
            "worldmodel.evaluate.evaluate",
            "worldmodel.evaluate_heads.evaluate_heads",
            "worldmodel.evaluate_round_trip.evaluate_round_trip",
        ],
        "python -m worldmodel",
    )
