"""What a policy sees: a dict of tensors, made of what an environment or a batch of clips gives.

Pictures are of any kind: latents `(V, C, h, w)`, or pixels as environments have them, uint8
`(H, W, 3)` or `(V, H, W, 3)`. Whatever has one dimension is a vector, such as the robot's state in
the data's units. Nothing is normalised here; the network's encoder does that.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

Observation = dict[str, Tensor]
"""By key, batch first; pixels uint8, everything else float32."""

Shapes = dict[str, tuple[int, ...]]
"""By key, the shape of one environment's observation."""

PLAIN = "observation"
"""Key of an observation that is no dictionary."""


def shapes_of(space: spaces.Space) -> Shapes:
    """Keys and shapes of one environment's observations.

    Args:
        space: a Box, or a Dict of them; `VectorEnv.single_observation_space`.

    Raises:
        ValueError: a space of another kind.
    """
    boxes = space.spaces if isinstance(space, spaces.Dict) else {PLAIN: space}
    for key, box in boxes.items():
        if not isinstance(box, spaces.Box):
            raise ValueError(
                f"observation {key!r} is {box}, but policies see Box spaces and Dicts of them. "
                "Flatten it with a gymnasium wrapper."
            )
    return {key: tuple(box.shape) for key, box in boxes.items() if box.shape is not None}


def as_observation(
    given: Any, shapes: Mapping[str, tuple[int, ...]], device: torch.device | str = "cpu"
) -> Observation:
    """What an environment returned, as tensors on a device.

    Args:
        given: an array, or a dict of arrays, with a row an environment. A policy that needs a
            single key takes an array for it, whatever that key is called. What it does not need is
            left out.
        shapes: what the policy needs.
        device: where its network is.

    Raises:
        ValueError: a key that is missing, or of another shape.
    """
    if not isinstance(given, Mapping):
        key = next(iter(shapes)) if len(shapes) == 1 else PLAIN
        given = {key: given}
    missing = [key for key in shapes if key not in given]
    if missing:
        raise ValueError(
            f"the policy needs {sorted(shapes)}, but these observations have {sorted(given)} only. "
            "The environments of this project show the robot's state with state=True, and latents "
            "or pixels by obs_type."
        )
    observation = {}
    for key, shape in shapes.items():
        values = torch.as_tensor(np.asarray(given[key]), device=device)
        if tuple(values.shape[1:]) != tuple(shape):
            raise ValueError(
                f"observation {key!r} is {tuple(values.shape[1:])}, but the policy was trained on "
                f"{tuple(shape)}"
            )
        observation[key] = values if values.dtype == torch.uint8 else values.float()
    return observation


def rows_of(observation: Observation) -> int:
    """How many environments it is of."""
    return len(next(iter(observation.values())))
