"""What reads actions off video: one protocol, whichever network is behind it.

An inverse dynamics model and a world model's own inverse dynamics query are both such. A saved one
is a folder whose description (a JSON file at its top) names its class, so that whoever reads,
labels or checks video need not know which it is:

    "action_model": "inverse_dynamics.model.InverseDynamicsModel"
"""

import hashlib
import json
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float, UInt8
from torch import Tensor, nn

from video.calibration import Calibration
from video.errors import DatasetError
from video.safe_files import reading_model
from video.statistics import Normalizer

CLASS_KEY = "action_model"
"""The description's key for the class's import path."""


class Estimate(NamedTuple):
    """Actions and how sure they are, normalised.

    Attributes:
        mean: median of a number or an angle (in half turns); 2 p - 1 of a binary dimension that is
            high with probability p.
        spread: scale of a number's or an angle's distribution; standard deviation of a binary
            dimension. What it is worth is for a `Calibration` to say.
    """

    mean: Float[Tensor, "*batch steps size"]
    spread: Float[Tensor, "*batch steps size"]


@runtime_checkable
class ActionModel(Protocol):
    """Reads the actions between the frames of a video.

    Attributes:
        fps: frames per second it was trained at.
        cameras: camera names, in the order of the view axis.
        frame_size: height and width in pixels.
        action_normalizer: the data's units to [-1, 1].
        action_names: one for each dimension.
        kinds: "number", "angle" or "binary" for each dimension.
        calibration: how far its spread can be trusted; None until that is measured.
        fingerprint: 16 hexadecimal digits that change with weights or settings; the source that
            labels name.
        latents_of: fingerprint of the autoencoder whose latents `read` looks at; None for a model
            that looks at something else, which only its own `encode` makes.
    """

    @property
    def fps(self) -> float: ...  # noqa: D102
    @property
    def cameras(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def frame_size(self) -> tuple[int, int]: ...  # noqa: D102
    @property
    def action_normalizer(self) -> Normalizer: ...  # noqa: D102
    @property
    def action_names(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def kinds(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def calibration(self) -> Calibration | None: ...  # noqa: D102
    @property
    def fingerprint(self) -> str: ...  # noqa: D102
    @property
    def latents_of(self) -> str | None: ...  # noqa: D102

    def encode(
        self, frames: UInt8[Tensor, "*batch 3 height width"], /
    ) -> Float[Tensor, "*batch channels h w"]:
        """Frames to what `read` looks at, on the model's device."""
        ...

    def read(self, inputs: Float[Tensor, "batch frames views channels h w"], /) -> Estimate:
        """Distributions `(batch, frames - 1, size)` of the actions between the frames.

        Rows of a batch do not know each other.

        Args:
            inputs: of videos of two frames or more, as `encode` makes them.
        """
        ...


@runtime_checkable
class StateModel(Protocol):
    """An action model that can tell the robot's state in each frame, too.

    Attributes:
        state_dim: dimensions S of that state; 0: it was trained without any.
    """

    @property
    def state_dim(self) -> int: ...  # noqa: D102

    def states(
        self, inputs: Float[Tensor, "batch frames views channels h w"], /
    ) -> Float[Tensor, "batch frames state_dim"]:
        """The states in the frames, in the data's units; inputs as those of `read`."""
        ...


def load_action_model(folder: Path | str, device: str = "cpu") -> ActionModel:
    """Load whatever reads actions out of a folder.

    Args:
        folder: of a saved inverse dynamics model or world model.
        device: where to compute.

    Raises:
        DatasetError: no such folder, one that names no class, or a class that is not there.
    """
    folder = Path(folder)
    name = _class_name(folder)
    module, _, attribute = name.rpartition(".")
    try:
        loaded_class = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise DatasetError(
            f"{folder} wants to be read by {name}, which cannot be imported ({error}). Install "
            "the package that wrote it."
        ) from error
    return loaded_class.from_pretrained(folder, device)


def fingerprint_of(network: nn.Module, settings: dict[str, Any]) -> str:
    """16 hexadecimal digits that change with any weight or setting (plain JSON values)."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, weight in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(weight.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _class_name(folder: Path) -> str:
    """The import path that a folder's description names.

    Raises:
        DatasetError: there is none.
    """
    if not folder.is_dir():
        raise DatasetError(
            f"{folder} does not exist. Give the folder of a saved inverse dynamics model (such as "
            "runs/idm/model) or world model (runs/uwm/model)."
        )
    with reading_model(folder):
        for path in sorted(folder.glob("*.json")):
            described = json.loads(path.read_text())
            if isinstance(described, dict) and CLASS_KEY in described:
                return described[CLASS_KEY]
    raise DatasetError(
        f"{folder} holds no JSON file with {CLASS_KEY!r}, the class that reads actions, so it is "
        "no action model, or one of an older layout. Give the folder of a saved inverse dynamics "
        "model (such as runs/idm/model) or world model (runs/uwm/model), or train it again."
    )
