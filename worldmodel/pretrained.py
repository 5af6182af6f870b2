"""Going on from a saved world model: its weights, if new data mean the same by their numbers."""

from inspect import signature
from pathlib import Path

import numpy as np

from video.datamodule import ClipDataModule
from video.errors import DatasetError
from video.statistics import Normalizer
from worldmodel.uwm import UWM
from worldmodel.world_model import WorldModel, require_world_model

TOLERANCE = 1e-3
"""Largest difference of the actions' bounds, as a share of their range."""


def load_weights(network: UWM, folder: Path, data: ClipDataModule) -> Normalizer | None:
    """Put the weights of a saved world model into a network of the same sizes.

    Args:
        network: takes them.
        folder: of the saved world model.
        data: what it will be trained on.

    Returns:
        What the robot's state means by its numbers to these weights, also where the new data go a
        little beyond what that was measured on; None if the network goes by no state.

    Raises:
        DatasetError: no world model, or one of other sizes, latents, frame rate, cameras, actions.
    """
    model = WorldModel.from_pretrained(require_world_model(folder))
    differences = other_sizes(sizes_of(model.network), network)
    assert data.autoencoder is not None
    if model.autoencoder.fingerprint != data.autoencoder.fingerprint:
        differences.append("its latents are of another autoencoder than data.autoencoder")
    if abs(model.fps - data.fps) > 0.01:
        differences.append(f"it saw {model.fps:g} frames a second, these data have {data.fps:g}")
    if len(model.cameras) != len(data.cameras):
        differences.append(f"it saw {list(model.cameras)}, these data show {list(data.cameras)}")
    if not _alike(model.action_normalizer, data.action_normalizer):
        differences.append(
            f"its actions fill {_bounds(model.action_normalizer)}, those of these data "
            f"{_bounds(data.action_normalizer)}; train on its own data as well, so that the ranges "
            "agree"
        )
    if differences:
        raise DatasetError(
            f"{folder} is not what this run can go on from: {'; '.join(differences)}. Change the "
            "configuration, or leave out model.start_from."
        )
    network.load_state_dict(model.network.state_dict())
    return model.state_normalizer if network.state_dim else None


def sizes_of(network: UWM) -> dict:
    """The network's constructor arguments."""
    return {key: value for key, value in network.config.items() if not key.startswith("_")}


def other_sizes(saved: dict, network: UWM) -> list[str]:
    """In which of its constructor arguments a network differs from a saved one.

    What was saved before an argument was there had its default.
    """
    arguments = signature(UWM.__init__).parameters.items()
    defaults = {name: each.default for name, each in arguments if each.default != each.empty}
    saved = defaults | saved
    return [
        f"{key} is {saved.get(key)!r} there and {own!r} here"
        for key, own in sizes_of(network).items()
        if saved.get(key) != own
    ]


def _alike(one: Normalizer | None, other: Normalizer | None) -> bool:
    if one is None or other is None:
        return one is other
    if one.low.shape != other.low.shape:
        return False
    room = TOLERANCE * (one.high - one.low)
    low, high = np.abs(one.low - other.low), np.abs(one.high - other.high)
    return bool((low <= room).all() and (high <= room).all())


def _bounds(normalizer: Normalizer | None) -> str:
    if normalizer is None:
        return "nothing (there are none)"
    return f"{normalizer.low.round(3).tolist()} to {normalizer.high.round(3).tolist()}"
