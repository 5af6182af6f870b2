"""A saved policy that acts while a dataset is recorded.

Its failures and near misses are what a world model has to know that will judge policies like it:

    python -m video record --policy policy.recording.SavedPolicy --policy.path runs/x/policy ...
"""

from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
import torch

from policy.described import load_policy
from policy.model import Policy
from video.autoencoder import FrameAutoencoder
from video.errors import DatasetError
from video.resizing import resize_frames
from video.simulators.episode import observed
from video.simulators.policies import RecordingPolicy


@dataclass
class SavedPolicy(RecordingPolicy):
    """Does what a policy finds likeliest, with some noise.

    It sees what `policy.real.RealVectorEnv` would show it: the rendered frame, encoded where it
    looks at latents, and the robot's state.

    Args:
        path: folder of a saved policy, or the YAML file of one that is put together.
        autoencoder: folder of the autoencoder of its latents; None for a policy that sees none.
        noise: standard deviation of the noise that is added to every action, in units of half its
            range, so that failures vary.
        chunk: actions of its chunk that it carries out before it looks again; None: all.
        device: where a saved policy and the autoencoder compute.
    """

    path: str
    autoencoder: str | None = None
    noise: float = 0.0
    chunk: int | None = None
    device: str = "cpu"
    _policy: Policy | None = field(default=None, init=False, repr=False)
    _encoder: FrameAutoencoder | None = field(default=None, init=False, repr=False)
    _env: gymnasium.Env | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.noise < 0 or (self.chunk is not None and self.chunk < 1):
            raise ValueError(
                f"noise={self.noise} must not be negative, chunk={self.chunk} at least 1"
            )

    def reset(self, env: gymnasium.Env, seed: int) -> None:
        """Begin an episode; the first one loads the policy.

        Raises:
            DatasetError: no policy, another autoencoder than its own, or an environment of another
                frame rate.
        """
        policy = self._loaded()
        rate = env.metadata.get("render_fps")
        if policy.fps and rate and round(policy.fps) != round(rate):
            raise DatasetError(
                f"{self.path} acts at {policy.fps:g} steps a second, {env.unwrapped} at {rate:g}. "
                "Choose an environment of the same rate, such as by env_kwargs.action_repeat."
            )
        self._env = env
        self._rng = np.random.default_rng(seed)
        self._pending: list[np.ndarray] = []

    def __call__(self, observation: Any, info: dict[str, Any]) -> np.ndarray:
        """The next action of the chunk, or the first one of a new chunk."""
        policy = self._loaded()
        if not self._pending:
            self._pending = list(policy.act(self._seen(observation), self.chunk)[0])
        limits = policy.action_normalizer
        deviation = self.noise * (limits.high - limits.low) / 2
        action = self._pending.pop(0)
        return (action + deviation * self._rng.normal(size=action.shape)).astype(np.float32)

    def _loaded(self) -> Policy:
        """The policy, with its autoencoder beside it."""
        if self._policy is not None:
            return self._policy
        policy = load_policy(self.path, self.device)
        if "latents" in policy.shapes:
            if self.autoencoder is None:
                raise DatasetError(
                    f"{self.path} looks at latents: name the folder of the autoencoder that makes "
                    "them, as in --policy.autoencoder video/autoencoders/metaworld."
                )
            encoder = FrameAutoencoder.from_pretrained(self.autoencoder).to(self.device)
            if policy.autoencoder not in (None, encoder.fingerprint):
                raise DatasetError(
                    f"{self.path} looks at latents of the autoencoder {policy.autoencoder}, "
                    f"{self.autoencoder} is {encoder.fingerprint}. Name the one it was trained on."
                )
            self._encoder = encoder
        self._policy = policy
        return policy

    def _seen(self, observation: Any) -> dict[str, np.ndarray]:
        """What is seen now, as a vector environment of one shows it."""
        assert self._env is not None, "reset comes first"
        policy = self._loaded()
        seen = {key: value[None] for key, value in observed(observation).items()}
        if self._encoder is None and "pixels" not in policy.shapes:
            return seen
        frame = np.asarray(self._env.render())
        size = policy.frame_size or frame.shape[:2]
        frames = resize_frames(frame[None], (size[0], size[1]))
        if self._encoder is None:
            return seen | {"pixels": frames.transpose(0, 2, 3, 1)}
        with torch.inference_mode():
            pixels = torch.from_numpy(frames)[:, None].to(self.device)
            latents = self._encoder.encode(pixels).half().float()
        return seen | {"latents": latents.cpu().numpy()}
