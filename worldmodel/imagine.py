"""`python -m worldmodel imagine`: imagined rollouts beside the real video, to look at.

Or, with `--dataset`, the imagined video as a dataset of its own, to label and train on.
"""

from pathlib import Path
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import UInt8
from torch import Tensor

from video.episodes import Episode
from video.errors import DatasetError
from video.pictures import write_side_by_side, write_strip
from video.writer import DatasetWriter
from worldmodel.held_out import HeldOut, read_held_out
from worldmodel.rollout import rollout
from worldmodel.world_model import WorldModel

Query = Literal["forward_dynamics", "video_generation"]

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
    device: str = "cpu",
) -> list[Path]:
    """Imagine held-out episodes from their first frame.

    Args:
        model: folder of a saved world model.
        data: dataset to take first frames and actions from.
        split: one of its splits.
        query: with the recorded actions (forward_dynamics), without any (video_generation), or
            both, which is the default.
        horizon: frames to imagine.
        episodes: how many episodes, spread evenly over the split.
        steps: sampler steps; 1 with actions and 8 without by default.
        seed: of the noise.
        out: folder for the files; `imagined` beside the model by default.
        dataset: write the imagined video to this native dataset instead of pictures.
        device: where to compute.

    Returns:
        The files or the dataset that were written.
    """
    world_model = WorldModel.from_pretrained(model, device)
    held_out = read_held_out(world_model, data, split, horizon + 1, episodes)
    if dataset is not None:
        written = [write_dataset(world_model, held_out, query, horizon, steps, seed, dataset)]
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


@torch.inference_mode()
def imagined_frames(
    model: WorldModel,
    held_out: HeldOut,
    query: Query,
    horizon: int,
    steps: int | None = None,
    seed: int = 0,
) -> UInt8[Tensor, "episodes horizon views 3 height width"]:
    """Decoded rollouts of one query from every episode's first frame.

    Raises:
        DatasetError: forward dynamics over data without actions.
    """
    with_actions = query == "forward_dynamics"
    if with_actions and not held_out.action_mask.any():
        raise DatasetError(
            "these episodes have no actions, so forward dynamics has nothing to go by. "
            "Use --query video_generation."
        )
    latents = rollout(
        model.network,
        held_out.latents[:, :1],
        held_out.actions if with_actions else None,
        horizon,
        torch.Generator(held_out.latents.device).manual_seed(seed),
        action_mask=held_out.action_mask if with_actions else None,
        steps=steps or (1 if with_actions else 8),
    )
    return model.decode(latents)


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


def write_dataset(
    model: WorldModel,
    held_out: HeldOut,
    query: Query | None,
    horizon: int,
    steps: int | None,
    seed: int,
    path: Path,
) -> Path:
    """Write imagined episodes as a native dataset, with the actions that they were given, if any.

    Without actions (video generation, the default here) the dataset is action-free.
    """
    query = query or "video_generation"
    imagined = imagined_frames(model, held_out, query, horizon, steps, seed)
    writer = DatasetWriter(path, model.fps)
    for row, episode in enumerate(held_out.episodes):
        if row in writer.finished:
            continue
        clip = torch.cat((held_out.frames[row, :1], imagined[row]))
        frames = {
            camera: rearrange(clip[:, view], "t c h w -> t h w c").contiguous().numpy()
            for view, camera in enumerate(model.cameras)
        }
        actions, mask = None, None
        if query == "forward_dynamics" and model.action_normalizer is not None:
            padded = torch.nn.functional.pad(held_out.actions[row, :horizon], (0, 0, 0, 1))
            actions = model.action_normalizer.denormalize(padded).numpy()
            mask = torch.nn.functional.pad(held_out.action_mask[row, :horizon], (0, 1)).numpy()
        notes = {"imagined_by": query, "source_episode": episode, "seed": seed}
        writer.add(
            row,
            Episode(
                frames, actions=actions, action_mask=mask, task=held_out.tasks[row], notes=notes
            ),
        )
    return writer.finalize()


def _possible(held_out: HeldOut) -> list[Query]:
    """Both queries where there are actions, else the one that needs none."""
    both: list[Query] = ["forward_dynamics", "video_generation"]
    return both if held_out.action_mask.any() else both[1:]


def _beside(frames: UInt8[Tensor, "t views 3 height width"]) -> UInt8[Tensor, "t 3 height wide"]:
    """All views of a frame beside each other."""
    return rearrange(frames, "t v c h w -> t c h (v w)")
