"""What a policy would have seen in a clip: the same as an environment would have shown it."""

from collections.abc import Sequence

from einops import rearrange
from torch import Tensor

from policy.observations import Observation, Shapes
from video.datamodule import ClipDataModule
from video.errors import DatasetError


def clip_shapes(data: ClipDataModule, wanted: Sequence[str] | None = None) -> Shapes:
    """Keys and shapes of the observations that a data module's clips hold.

    Args:
        data: it has been set up.
        wanted: of "latents", "pixels" and "state"; None: the pictures, and the state where every
            dataset that is trained on has it.

    Raises:
        DatasetError: one that the clips do not hold.
    """
    views, (height, width) = len(data.cameras), data.frame_size
    shapes: Shapes = {}
    if data.latent_shape is not None:
        shapes["latents"] = (views, *data.latent_shape)
    else:
        shapes["pixels"] = (height, width, 3) if views == 1 else (views, height, width, 3)
    without = [
        str(part.dataset.path)
        for part in data.train_clips.parts
        if "state" not in part.dataset.columns or not part.labelled[part.episodes].all()
    ]
    if not without:
        shapes["state"] = (data.state_dim,)
    if wanted is None:
        return shapes
    for key in wanted:
        if key not in shapes:
            reason = {
                "state": f"the robot's state is not known in all of {', '.join(without)}",
                "latents": "data.autoencoder is not set, so there are pixels",
                "pixels": "data.autoencoder is set, so there are latents",
            }.get(key, "there is no such thing")
            raise DatasetError(
                f"model.observations has {key!r}, but {reason}. These clips offer {list(shapes)}."
            )
    if not wanted:
        raise DatasetError(f"model.observations is empty; these clips offer {list(shapes)}.")
    return {key: shapes[key] for key in wanted}


def observation_of(batch: dict[str, Tensor], data: ClipDataModule, shapes: Shapes) -> Observation:
    """The observations in the first frames of a batch of clips.

    Args:
        batch: see `ClipDataset.__getitem__`.
        data: where it comes from.
        shapes: which observations.
    """
    observation: Observation = {}
    for key in shapes:
        if key == "state":
            assert data.state_normalizer is not None
            observation[key] = data.state_normalizer.denormalize(batch["state"][:, 0])
        elif key == "latents":
            observation[key] = batch["latents"][:, 0]
        else:
            pixels = rearrange(batch["frames"][:, 0], "b v c h w -> b v h w c")
            observation[key] = pixels if len(shapes[key]) == 4 else pixels[:, 0]
    return observation
