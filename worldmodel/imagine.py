"""`python -m worldmodel imagine`: imagined rollouts beside the real video, to look at.

Or, with `--dataset`, the imagined video as a dataset of its own, to label and train on.
"""

from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import UInt8
from torch import Tensor

from video.errors import DatasetError
from video.pictures import write_side_by_side, write_strip
from worldmodel.held_out import HeldOut, read_held_out
from worldmodel.imagined_video import Query, imagined_frames, write_dataset
from worldmodel.world_model import WorldModel

STRIP_FRAMES = (0, 1, 4, 8, 12, 16, 24, 32)


def imagine(
    model: Path,
    data: Path,
    split: str = "test",
    query: Query | None = None,
    horizon: int = 32,
    episodes: int = 12,
    steps: int | None = None,
    seed: int = 0,
    out: Path | None = None,
    dataset: Path | None = None,
    dreams: int = 1,
    device: str = "cpu",
) -> list[Path]:
    """Imagine held-out episodes from their first frame.

    Args:
        model: folder of a saved world model.
        data: dataset to take first frames and actions from.
        split: one of its splits.
        query: with the recorded actions (forward_dynamics), without any (video_generation), or
            together with actions that the model chooses (joint). By default pictures are of the
            first two, a dataset is of video_generation.
        horizon: frames to imagine.
        episodes: how many episodes, spread evenly over the split.
        steps: sampler steps; 1 with actions and 8 without by default.
        seed: of the noise.
        out: folder for the files; `imagined` beside the model by default.
        dataset: write the imagined video to this native dataset instead of pictures. Only those
            of forward_dynamics have actions.
        dreams: how many episodes of the dataset begin at each first frame.
        device: where to compute.

    Returns:
        The files or the dataset that were written.

    Raises:
        DatasetError: several dreams, but no dataset to write them to.
    """
    if dreams < 1 or (dreams > 1 and dataset is None):
        raise DatasetError(f"--dreams {dreams} must be at least 1, and needs --dataset.")
    world_model = WorldModel.from_pretrained(model, device)
    held_out = read_held_out(world_model, data, split, horizon + 1, episodes)
    if dataset is not None:
        query = query or "video_generation"
        written = [
            write_dataset(world_model, held_out, query, horizon, steps, seed, dreams, dataset)
        ]
    else:
        folder = out or Path(model).parent / "imagined"
        written = []
        queries: list[Query] = [query] if query else _possible(held_out)
        for name in queries:
            frames = imagined_frames(world_model, held_out, name, horizon, steps, seed)
            written += write_pictures(world_model, held_out, frames, folder, name)
    for path in written:
        print(path)
    return written


def write_pictures(
    model: WorldModel,
    held_out: HeldOut,
    imagined: UInt8[Tensor, "episodes horizon views 3 height width"],
    folder: Path,
    name: str,
) -> list[Path]:
    """Write one mp4 with all episodes and one strip, real beside imagined.

    The first frame, which is given, counts as real on both sides.
    """
    real = [_beside(frames) for frames in held_out.frames[:, : imagined.shape[1] + 1]]
    dreamt = [
        _beside(torch.cat((first[:1], rest)))
        for first, rest in zip(held_out.frames, imagined, strict=True)
    ]
    video, strip = folder / f"{name}.mp4", folder / f"{name}.png"
    write_side_by_side(video, real, dreamt, model.fps)
    rows = []
    for episode, task, true, guess in zip(
        held_out.episodes, held_out.tasks, real, dreamt, strict=True
    ):
        rows += [(f"{task} {episode}: real", true), ("imagined", guess)]
    write_strip(strip, rows, [i for i in STRIP_FRAMES if i <= imagined.shape[1]])
    return [video, strip]


def _possible(held_out: HeldOut) -> list[Query]:
    """Both queries where there are actions, else the one that needs none."""
    both: list[Query] = ["forward_dynamics", "video_generation"]
    return both if held_out.action_mask.any() else both[1:]


def _beside(frames: UInt8[Tensor, "t views 3 height width"]) -> UInt8[Tensor, "t 3 height wide"]:
    """All views of a frame beside each other."""
    return rearrange(frames.cpu(), "t v c h w -> t c h (v w)")
