"""Policies by their path: a saved folder, or a YAML file that puts an actor together.

What is saved is a network. An actor that is made of other models, such as one that imagines video,
is described instead, by class_path and init_args, and by itself says what its numbers mean:

    class_path: worldmodel.policy_query.PolicyQuery
    init_args:
      checkpoint: runs/uwm/model
"""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from policy.actors.actor import Actor
from policy.model import Policy
from policy.observations import Shapes
from video.errors import DatasetError
from video.statistics import Normalizer

YAML = (".yaml", ".yml")


@runtime_checkable
class SelfDescribed(Actor, Protocol):
    """An actor that knows what its numbers mean; the attributes are those of `Policy`.

    Attributes:
        shapes: by key, the shape of one environment's observation.
        action_normalizer: the environment's units to [-1, 1].
        latents_of: fingerprint of the autoencoder whose latents it looks at; None for others.
        fps: actions a second.
        cameras: names of the views, in their order.
        frame_size: height and width of the frames in pixels.
    """

    shapes: Shapes
    action_normalizer: Normalizer
    latents_of: str | None
    fps: float
    cameras: tuple[str, ...]
    frame_size: tuple[int, int]


def load_policy(path: Path | str, device: str = "cpu") -> Policy:
    """The policy that lies in a folder, or that a YAML file describes.

    Args:
        path: of either.
        device: where a saved policy computes; a description says so for its own parts.

    Raises:
        DatasetError: nothing of the kind, or a class or arguments that do not fit.
    """
    path = Path(path)
    if path.suffix not in YAML:
        return Policy.from_pretrained(path, device)
    if not path.is_file():
        raise DatasetError(f"{path} does not exist. configs/policies has examples.")
    try:
        description = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except (YAMLError, OmegaConfBaseException) as error:
        raise DatasetError(f"{path} cannot be read: {error}") from error
    if not isinstance(description, Mapping) or "class_path" not in description:
        raise DatasetError(
            f"{path} has no class_path at its top, so it describes no actor. configs/policies has "
            "examples."
        )
    actor = _made(description, path)
    if not isinstance(actor, SelfDescribed):
        raise DatasetError(
            f"{path}: a {description['class_path']} does not say what it sees and does. It needs "
            "the attributes of policy.described.SelfDescribed."
        )
    return Policy(
        actor=actor,
        shapes=actor.shapes,
        action_normalizer=actor.action_normalizer,
        autoencoder=actor.latents_of,
        fps=actor.fps,
        cameras=actor.cameras,
        frame_size=actor.frame_size,
        notes={"described_by": str(path)},
    )


def name_of(path: Path | str) -> str:
    """What to call a policy: the run of a saved one, the file of a description."""
    path = Path(path)
    return path.stem if path.suffix in YAML else path.parent.name


def results_of(path: Path | str) -> Path:
    """Where its results go: beside a saved policy, under `runs` for a description."""
    path = Path(path)
    return Path("runs") / path.stem if path.suffix in YAML else path.parent


def _made(value: Any, path: Path) -> Any:
    """What a description describes; anything else is itself."""
    if not isinstance(value, Mapping) or "class_path" not in value:
        return value
    name = value["class_path"]
    module, _, attribute = str(name).rpartition(".")
    try:
        kind = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise DatasetError(
            f"{path}: {name} cannot be imported ({error}). Correct the class_path, or install the "
            "package it comes from."
        ) from error
    arguments = {key: _made(one, path) for key, one in (value.get("init_args") or {}).items()}
    try:
        return kind(**arguments)
    except DatasetError:
        raise
    except (TypeError, ValueError) as error:
        raise DatasetError(f"{path}: {name} does not take these init_args: {error}") from error
