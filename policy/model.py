"""A saved policy: one folder with everything that is needed to act.

    policy.json            what it needs to see, the range of its actions, and what its actor is
    actor.safetensors      the actor's weights

No pickle anywhere. `Policy.from_pretrained(folder)` is all a user calls.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from jaxtyping import Float32
from safetensors.torch import load_file, save_file
from torch import nn

from policy.actors.actor import Actor, ActorNetwork, build, describe
from policy.observations import Shapes, as_observation, shapes_of
from video.errors import DatasetError
from video.safe_files import reading_model, whole_folder, write_json
from video.statistics import Normalizer

DESCRIPTION, WEIGHTS = "policy.json", "actor.safetensors"

FORMAT = 1
"""Version of the folder's layout."""


@dataclass
class Policy:
    """An actor and all that gives its numbers a meaning.

    Example:
        >>> policy = Policy.from_pretrained("runs/behaviour_cloning/policy")  # doctest: +SKIP
        >>> observations, info = envs.reset(seed=0)  # doctest: +SKIP
        >>> actions = policy.act(observations)  # doctest: +SKIP

    Attributes:
        actor: from observations to normalised actions.
        shapes: by key, the shape of one environment's observation.
        action_normalizer: the environment's units to [-1, 1].
        autoencoder: fingerprint of the autoencoder whose latents it looks at; None for others.
        fps: actions a second; None if that is not known.
        cameras: names of the views, in their order.
        frame_size: height and width of the frames in pixels; None if it sees none.
        notes: where it comes from, for people.
    """

    actor: Actor
    shapes: Shapes
    action_normalizer: Normalizer
    autoencoder: str | None = None
    fps: float | None = None
    cameras: tuple[str, ...] = ()
    frame_size: tuple[int, int] | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def chunk(self) -> int:
        """Actions k that it chooses at a time."""
        return self.actor.chunk

    @torch.inference_mode()
    def act(
        self,
        observations: Any,
        steps: int | None = None,
        generator: torch.Generator | None = None,
        deterministic: bool = True,
    ) -> Float32[np.ndarray, "envs steps action_dim"]:
        """The next actions, in the environment's units.

        Args:
            observations: of E environments, as a vector environment gives them.
            steps: how many of its chunk are wanted; None: all.
            generator: where chance comes from.
            deterministic: leave nothing to chance.

        Raises:
            ValueError: observations that do not fit, or more steps than it chooses at a time.
        """
        steps = steps or self.chunk
        if steps > self.chunk:
            raise ValueError(
                f"{steps} actions at a time are asked for, this policy chooses {self.chunk}: set "
                f"the environment's chunk to {self.chunk} or less"
            )
        observation = as_observation(observations, self.shapes, self.device)
        chosen = self.actor.act(observation, generator, deterministic)[:, :steps]
        return self.action_normalizer.denormalize(chosen).float().cpu().numpy()

    @property
    def device(self) -> torch.device:
        """Where its actor computes."""
        if isinstance(self.actor, nn.Module):
            for parameter in self.actor.parameters():
                return parameter.device
        return torch.device("cpu")

    def to(self, device: torch.device | str) -> "Policy":
        """Move the actor."""
        if isinstance(self.actor, nn.Module):
            self.actor.to(device)
        return self

    def check(self, env: VectorEnv) -> None:
        """Make sure that it can act in an environment.

        Raises:
            ValueError: observations, actions or latents that it was not trained with.
        """
        seen = shapes_of(env.single_observation_space)
        if len(self.shapes) == len(seen) == 1:
            seen = dict.fromkeys(self.shapes, *seen.values())
        for key, shape in self.shapes.items():
            if tuple(seen.get(key, ())) != tuple(shape):
                raise ValueError(
                    f"the policy needs {key!r} {tuple(shape)}, but the environment shows {seen}. "
                    "Make it with state=True, or with another obs_type."
                )
        steps = steps_of(env)
        size = env.single_action_space.shape
        if size is None or size[-1:] != (self.action_normalizer.dim,):
            raise ValueError(
                f"the policy's actions have {self.action_normalizer.dim} dimensions, the "
                f"environment's action space is {env.single_action_space}"
            )
        if steps > self.chunk:
            raise ValueError(
                f"the environment takes {steps} actions at a time, but the policy chooses "
                f"{self.chunk}. Set the environment's chunk to {self.chunk} or less."
            )
        shown = env.metadata.get("autoencoder")
        known = "latents" in self.shapes and None not in (shown, self.autoencoder)
        if known and shown != self.autoencoder:
            raise ValueError(
                f"the policy looks at latents of the autoencoder {self.autoencoder}, the "
                f"environment shows those of {shown}. Use the same one for both."
            )
        rate = (env.metadata.get("render_fps") or 0) * steps
        if self.fps and rate and round(self.fps) != round(rate):
            raise ValueError(
                f"the policy acts at {self.fps:g} steps a second, the environment at {rate:g}. "
                "Choose an environment of the same rate."
            )

    def save_pretrained(self, folder: Path | str) -> None:
        """Write the folder; one that is already there is replaced only when the new one is whole.

        Raises:
            DatasetError: the disk does not take it, or an actor without weights of its own.
        """
        actor = self.actor
        if not isinstance(actor, ActorNetwork):
            raise DatasetError(
                f"a {type(actor).__name__} cannot be saved as a policy; only ActorNetworks can. "
                "Save the models that it is put together from."
            )
        weights = {name: value.contiguous() for name, value in actor.state_dict().items()}
        with whole_folder(Path(folder)) as unfinished:
            save_file(weights, unfinished / WEIGHTS)
            write_json(unfinished / DESCRIPTION, self._json() | {"actor": describe(actor)})

    @classmethod
    def from_pretrained(cls, folder: Path | str, device: str = "cpu") -> "Policy":
        """Load a folder written by `save_pretrained`.

        Raises:
            DatasetError: the folder is missing, damaged, no policy, or of another layout.
        """
        folder = Path(folder)
        path = folder / DESCRIPTION
        if not path.is_file():
            raise DatasetError(
                f"{path} does not exist, so {folder} is no policy. Clone one with `lightning fit "
                "-c configs/behaviour_cloning.yaml`; it ends in runs/behaviour_cloning/policy."
            )
        with reading_model(folder):
            saved = json.loads(path.read_text())
            if saved.get("format") != FORMAT:
                raise DatasetError(
                    f"{folder} has format {saved.get('format')}, this code reads {FORMAT}. Use the "
                    "version of this package that wrote it, or train again."
                )
            return cls._read(folder, saved, device)

    @classmethod
    def _read(cls, folder: Path, saved: dict[str, Any], device: str) -> "Policy":
        """A saved policy, from its description."""
        actor = build(saved["actor"])
        weights = load_file(folder / WEIGHTS)
        try:
            actor.load_state_dict(weights)
        except RuntimeError as error:
            raise DatasetError(
                f"{folder / WEIGHTS} does not fit the actor of {DESCRIPTION} ({error}). Copy the "
                "folder again, or train again."
            ) from error
        size = saved["frame_size"]
        return cls(
            actor=actor.to(device).eval().requires_grad_(False),
            shapes={key: tuple(shape) for key, shape in saved["shapes"].items()},
            action_normalizer=Normalizer.from_json(saved["actions"]),
            autoencoder=saved["autoencoder"],
            fps=saved["fps"],
            cameras=tuple(saved["cameras"]),
            frame_size=None if size is None else (size[0], size[1]),
            notes=saved["notes"],
        )

    def _json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "shapes": {key: list(shape) for key, shape in self.shapes.items()},
            "actions": self.action_normalizer.to_json(),
            "autoencoder": self.autoencoder,
            "fps": self.fps,
            "cameras": list(self.cameras),
            "frame_size": None if self.frame_size is None else list(self.frame_size),
            "notes": self.notes,
        }


def steps_of(env: VectorEnv) -> int:
    """How many actions an environment takes at a time: 1, or the first size of `(k, A)`."""
    shape = env.single_action_space.shape
    return shape[0] if shape is not None and len(shape) == 2 else 1


def as_actions(chosen: Float32[np.ndarray, "envs steps action_dim"], env: VectorEnv) -> np.ndarray:
    """Chunks of actions in the shape that an environment takes."""
    return chosen.reshape(env.action_space.shape)
