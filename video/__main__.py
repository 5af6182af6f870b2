"""`python -m video COMMAND`: record, convert, info, shift, encode."""

from video.front_door import run_commands

run_commands(
    [
        "video.record.record",
        "video.convert.convert",
        "video.info.info",
        "video.shift.shift",
        "video.latents.encode",
    ],
    "python -m video",
)
