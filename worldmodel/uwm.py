"""UWM: one network that denoises a block of future video together with its actions.

A block is k future frames and the k actions that lead to them. The k frames are folded into the
same tokens (a temporal patch), the block's *anchor*, the last two frames before it, enters as
further channels at the same place, and the prediction is a residual on the last of them. So does
the episode's first frame, if it is wanted: it remembers what the arm has come to hide. Actions
enter as tokens and through the modulation, and so do the robot's states, which `kinematics.py`
foretells from them; it can also be told the actions before the block, which the hand may still lag
behind. Video and actions carry times of their own (Zhu et al., Unified World Models,
arXiv 2504.02792), so that one network answers every query of `queries.py`. Noise, losses and
rollouts live elsewhere.
"""

from typing import Any, NamedTuple

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from worldmodel.attention import Backend, block_causal_mask
from worldmodel.kinematics import (
    Kinematics,
    KinematicsSizes,
    at_rest,
    next_robot,
    present_state,
    state_waves,
    wave_channels,
)
from worldmodel.noise import GIVEN
from worldmodel.rotary import Rotation, rotary_angles
from worldmodel.set_point import SetPoint
from worldmodel.transformer import LayerCache, Transformer

ANCHOR_FRAMES = 2
"""Frames before a block that it sees in full: position and velocity."""

TIME_CHANNELS = 64
TIME_SCALE = 1000.0

Cache = list[LayerCache]


class Prediction(NamedTuple):
    """What the network makes of a noisy block.

    Attributes:
        latents: the clean frames.
        actions: the clean actions.
        states: the robot's in the anchor's last frame, as it was given, and in each frame: what it
            was told, corrected by what it sees; NaN where it was told none.
        features: its tokens after the last normalisation: those of the video (by view, row and
            column), then one an action. `heads.py` reads them.
        cache: keys and values of its tokens.
    """

    latents: Float[Tensor, "batch blocks frames views channels height width"]
    actions: Float[Tensor, "batch blocks frames action_dim"]
    states: Float[Tensor, "batch blocks frames_and_now state_dim"]
    features: Float[Tensor, "batch blocks tokens width"]
    cache: Cache


class UWM(ModelMixin, ConfigMixin):
    """The denoiser of a block.

    Args:
        latent_channels: channels C of a latent frame.
        action_dim: action dimensions A.
        views: most camera views V that one block can hold.
        block_frames: frames (and actions) k of a block.
        patch: side of the square of latent pixels that becomes one token.
        width: channels of a token.
        depth: layers.
        heads: attention heads.
        condition_width: channels of the modulation's input; small, so that the modulation does not
            eat the parameters.
        history_blocks: finished blocks before the current one that it can look at, besides its
            anchor.
        attention: "sdpa" (PyTorch) or "xformers" (CUDA only).
        state_dim: dimensions S of the robot's state; 0: it is told none.
        first_frame: whether it sees the episode's first frame: anchors then have it in front.
        past_actions: how many actions before a block it is told.
        kinematics_sizes: fields of `KinematicsSizes`; None: its defaults.

    Attributes:
        anchor_frames: frames of an anchor: 2, or 3 with the first frame.
        robot_actions: actions P of its robot vector (`kinematics.py`).
        kinematics: foretells the robot's state; None where S = 0.

    Raises:
        ValueError: a width that the heads do not divide, or fewer than no past actions.
    """

    @register_to_config
    def __init__(
        self,
        latent_channels: int,
        action_dim: int,
        views: int = 1,
        block_frames: int = 4,
        patch: int = 2,
        width: int = 256,
        depth: int = 6,
        heads: int = 4,
        condition_width: int = 128,
        history_blocks: int = 0,
        attention: Backend = "sdpa",
        state_dim: int = 0,
        first_frame: bool = False,
        past_actions: int = 0,
        kinematics_sizes: dict[str, Any] | None = None,
    ):
        super().__init__()
        if width % heads:
            raise ValueError(f"width={width} is not a multiple of heads={heads}")
        if past_actions < 0:
            raise ValueError(f"past_actions={past_actions} is a number of actions: 0 or more")
        self.latent_channels = latent_channels
        self.action_dim = action_dim
        self.views = views
        self.block_frames = block_frames
        self.patch = patch
        self.heads = heads
        self.head_width = width // heads
        self.history_blocks = history_blocks
        self.state_dim = state_dim
        self.first_frame = first_frame
        self.anchor_frames = ANCHOR_FRAMES + first_frame
        self.past_actions = past_actions
        self.robot_actions = max(past_actions, 1)

        pixels = latent_channels * patch**2
        self.embed_video = nn.Linear((block_frames + self.anchor_frames) * pixels, width)
        self.embed_view = nn.Embedding(views, width)
        waves = wave_channels(state_dim)
        self.embed_action = nn.Linear(action_dim + TIME_CHANNELS + waves, width)
        self.embed_condition = nn.Sequential(
            nn.Linear(
                TIME_CHANNELS
                + (block_frames + past_actions) * (action_dim + 1)
                + (block_frames + 1) * waves,
                2 * condition_width,
            ),
            nn.SiLU(),
            nn.Linear(2 * condition_width, condition_width),
        )
        self.transformer = Transformer(width, depth, heads, condition_width, attention)
        self.read_video = nn.Linear(width, block_frames * pixels)
        self.read_action = nn.Linear(width, action_dim + state_dim)
        for head in (self.read_video, self.read_action):
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)
        nn.init.normal_(self.embed_view.weight, std=0.02)
        sizes = KinematicsSizes(**(kinematics_sizes or {}))
        self.kinematics = (
            Kinematics(state_dim, action_dim, self.robot_actions, sizes) if state_dim else None
        )

    def forward(
        self,
        anchor: Float[Tensor, "batch blocks anchor views channels height width"],
        latents: Float[Tensor, "batch blocks frames views channels height width"],
        actions: Float[Tensor, "batch blocks frames action_dim"],
        latent_time: Float[Tensor, "batch blocks"],
        action_time: Float[Tensor, "batch blocks frames"],
        past: Cache | None = None,
        past_mask: Bool[Tensor, "batch past_tokens"] | None = None,
        states: Float[Tensor, "batch blocks frames_and_now state_dim"] | None = None,
        robot: Float[Tensor, "batch blocks robot"] | None = None,
    ) -> Prediction:
        """Predict the clean latents and actions of each block from noisy ones.

        Args:
            anchor: the two frames before each block, the episode's first one in front if
                `first_frame`.
            latents: each block's frames at `latent_time`.
            actions: each block's actions at `action_time`.
            latent_time: one time a block.
            action_time: one time an action, so that known and absent ones can share a block.
            past: caches of earlier, finished blocks; then one block is given here.
            past_mask: which of the past's tokens there are; None: all.
            states: the robot's, normalised, in the anchor's last frame and in each of the block's
                as far as they can be foretold; NaN where unknown; None: all unknown. They are
                looked at as far as actions are given, so that no query is told what it is asked.
            robot: the robot vector before each block; its actions are looked at where the block's
                first one is given; NaN where unknown; None: all unknown.

        Raises:
            ValueError: a block of another length than `block_frames`, an anchor of another one than
                `anchor_frames`, or more views than `views`.
        """
        frames, views, height = latents.shape[2], latents.shape[3], latents.shape[5]
        if frames != self.block_frames:
            raise ValueError(f"a block of {frames} frames; this model has {self.block_frames}")
        if anchor.shape[2] != self.anchor_frames:
            raise ValueError(
                f"an anchor of {anchor.shape[2]} frames; this model has {self.anchor_frames}"
            )
        if views > self.views:
            raise ValueError(f"{views} camera views; this model was built for {self.views}")
        patches = torch.cat((anchor, latents), dim=2)
        patches = rearrange(
            patches,
            "b n t v c (y p) (x q) -> b n v y x (t c p q)",
            p=self.patch,
            q=self.patch,
        )
        view_embedding = self.embed_view.weight[:views, None, None]
        grid = patches.shape[2:5]
        own = self.embed_video.weight.dtype  # that of the arithmetic, but for autocast
        video = self.embed_video(patches.to(own)) + view_embedding
        video = video.flatten(2, 4)
        video_tokens = video.shape[2]

        told = self._told_states(states, action_time)
        waves = state_waves(told) if self.state_dim else told
        timed_actions = torch.cat((actions, _time_features(action_time), waves[:, :, 1:]), dim=-1)
        tokens = torch.cat((video, self.embed_action(timed_actions.to(own))), dim=2)

        # what is absent is noise, which has no business in the modulation: weigh by 1 - tau
        known = (1 - action_time)[..., None]
        hints = torch.cat((actions * known, known), dim=-1).flatten(2)
        past_hints = self._told_actions(robot, action_time)
        given = torch.cat(
            (_time_features(latent_time), hints, past_hints, waves.flatten(2)), dim=-1
        )
        condition = self.embed_condition(given.to(own))

        blocks, size = tokens.shape[1], tokens.shape[2]
        finished = past[0].keys.shape[2] // size if past else 0
        rotation = Rotation.of(self._angles(grid, finished + blocks, tokens.device), video.dtype)
        mask = None
        if blocks > 1:
            mask = block_causal_mask(blocks, size, self.history_blocks, tokens.device)
        elif past and past_mask is not None:
            present = past_mask.new_ones(len(tokens), size)
            mask = torch.cat((past_mask, present), dim=1)[:, None, None]
        tokens, cache = self.transformer(tokens, condition, rotation, mask, past)

        residual = rearrange(
            self.read_video(tokens[:, :, :video_tokens]),
            "b n (v y x) (t c p q) -> b n t v c (y p) (x q)",
            v=views,
            y=height // self.patch,
            t=frames,
            p=self.patch,
            q=self.patch,
        )
        read = self.read_action(tokens[:, :, video_tokens:]).to(actions.dtype)
        clean_actions, correction = read.split((self.action_dim, self.state_dim), dim=-1)
        return Prediction(
            latents=anchor[:, :, -1:] + residual,
            actions=clean_actions,
            states=torch.cat((told[:, :, :1], told[:, :, 1:] + correction), dim=2),
            features=tokens,
            cache=cache,
        )

    def predict_states(
        self,
        robot: Float[Tensor, "batch robot"] | None,
        actions: Float[Tensor, "batch frames action_dim"],
        action_mask: Bool[Tensor, "batch frames"],
    ) -> Float[Tensor, "batch frames_and_now state_dim"]:
        """The robot's state now and behind each action, foretold; NaN where it cannot be known.

        Args:
            robot: its vector (`kinematics.py`); None: unknown.
            actions: normalised.
            action_mask: which of them are known.
        """
        batch, frames = actions.shape[:2]
        if self.kinematics is None or robot is None:
            return actions.new_full((batch, frames + 1, self.state_dim), torch.nan)
        following = self.kinematics(robot, actions, action_mask)
        return torch.cat((present_state(robot, self.state_dim)[:, None], following), dim=1)

    @property
    def set_point(self) -> SetPoint | None:
        """That of its kinematics; None: they keep none, or there are none."""
        return None if self.kinematics is None else self.kinematics.set_point

    def robot_at_rest(
        self, state: Float[Tensor, "batch state_dim"]
    ) -> Float[Tensor, "batch robot"]:
        """The robot vector at the beginning of an episode, of a normalised state."""
        return at_rest(state, self.robot_actions, self.action_dim, self.set_point is not None)

    def next_robot(
        self,
        robot: Float[Tensor, "batch robot"],
        states: Float[Tensor, "batch frames_and_now state_dim"],
        actions: Float[Tensor, "batch frames action_dim"],
        action_mask: Bool[Tensor, "batch frames"],
    ) -> Float[Tensor, "batch robot"]:
        """The robot vector behind a block, as `kinematics.next_robot`."""
        point: Tensor | None = None
        if self.kinematics is not None:
            point = self.kinematics.follow(robot, actions, action_mask)[:, -1]
        return next_robot(robot, states, actions, action_mask, point)

    def _told_states(
        self, states: Tensor | None, action_time: Tensor
    ) -> Float[Tensor, "batch blocks frames_and_now state_dim"]:
        """The states as far as actions are given, NaN behind."""
        given = (action_time == GIVEN).cumprod(-1).bool()
        given = torch.cat((given[..., :1], given), dim=-1)
        if states is None:
            return action_time.new_full((*given.shape, self.state_dim), torch.nan)
        return torch.where(given[..., None], states, torch.nan)

    def _told_actions(
        self, robot: Tensor | None, action_time: Tensor
    ) -> Float[Tensor, "batch blocks channels"]:
        """The actions before each block, zero where they are not told, and which are."""
        shape = (*action_time.shape[:2], self.past_actions, self.action_dim)
        if robot is None:
            past = action_time.new_full(shape, torch.nan)
        else:
            past = robot[..., robot.shape[-1] - shape[2] * shape[3] :].reshape(shape)
        told = ~past.isnan().any(-1, keepdim=True) & (action_time == GIVEN)[:, :, :1, None]
        past = torch.where(told, past, 0.0)
        return torch.cat((past, told.to(past.dtype)), dim=-1).flatten(2)

    def _angles(
        self, grid: torch.Size, blocks: int, device: torch.device
    ) -> Float[Tensor, "tokens half"]:
        """Rotary angles of `blocks` blocks: video tokens at their place, actions at their frame."""
        views, rows, columns = grid
        place = torch.cartesian_prod(
            torch.zeros(views, device=device),
            torch.arange(rows, device=device, dtype=torch.float32),
            torch.arange(columns, device=device, dtype=torch.float32),
        ).view(-1, 3)
        frame = torch.arange(self.block_frames, device=device)
        middle = torch.tensor([(rows - 1) / 2, (columns - 1) / 2], device=device)
        action = torch.cat((frame[:, None], middle.expand(self.block_frames, 2)), dim=1)
        block = torch.cat((place, action))
        start = torch.zeros(blocks, 1, 3, device=device)
        start[:, 0, 0] = torch.arange(blocks, device=device) * self.block_frames
        return rotary_angles((start + block).flatten(0, 1), self.head_width)


def _time_features(time: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape channels"]:
    features = get_timestep_embedding(time.flatten() * TIME_SCALE, TIME_CHANNELS)
    return features.view(*time.shape, TIME_CHANNELS)
