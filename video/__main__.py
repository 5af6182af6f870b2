"""`python -m video COMMAND`: record, convert, info, encode."""

from video.front_door import run_commands

run_commands(
    ["video.record.record", "video.convert.convert", "video.info.info", "video.latents.encode"],
    "python -m video",
)
