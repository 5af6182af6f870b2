"""Heads of the frozen world model: what they read off its features, frame by frame of a block.

Reward, success, robot state and the model's own error, each by an ensemble of small networks that
pool the block's tokens by attention; success can be judged by a look at the imagined frames instead
(`SuccessClassifier`). They look at no pixels and add little to the model's own work. Their losses
are in `heads_objective.py`, their training in `heads_training.py`.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from jaxtyping import Float, Int64
from torch import Tensor, nn

from worldmodel.frame_pictures import FramePictures
from worldmodel.success_classifier import SuccessClassifier

Grid = tuple[int, int, int]
"""Views, rows and columns of a block's video tokens."""

PLACE_FREQUENCIES = 4


class FrameOutputs(NamedTuple):
    """What the heads say of each frame of a block, all members together.

    Attributes:
        reward: of the step that led to the frame, in the data's units; meaningless without
            `has_reward`.
        success_logit: above 0 where the frame counts as success; meaningless without `has_success`.
        lowest_success_logit: that of the member that believes it least.
        state: the robot's state, normalised; S = 0 without.
        error: predicted root-mean-square error of the imagined frame's latents.
        disagreement: root-mean-square spread of the members over the normalised state; without one
            over the normalised reward, else over the success probability.
    """

    reward: Float[Tensor, "batch frames"]
    success_logit: Float[Tensor, "batch frames"]
    lowest_success_logit: Float[Tensor, "batch frames"]
    state: Float[Tensor, "batch frames state_dim"]
    error: Float[Tensor, "batch frames"]
    disagreement: Float[Tensor, "batch frames"]


class MemberOutputs(NamedTuple):
    """What each member of the ensemble says.

    Attributes:
        reward: normalised by the labelled training data's mean and standard deviation.
        success_logit: log odds.
        state: normalised.
        log_error: natural logarithm of the error.
    """

    reward: Float[Tensor, "members batch frames"]
    success_logit: Float[Tensor, "members batch frames"]
    state: Float[Tensor, "members batch frames state_dim"]
    log_error: Float[Tensor, "members batch frames"]


class FrameHeads(ModelMixin, ConfigMixin):
    """An ensemble of heads over a block's features.

    Each member pools the video tokens with attention queries of its own, one set for each frame of
    the block; a token's key and value know its place in the picture, so the grid may have any size.
    The frame's action token joins behind the pooling, and so does what `FramePictures` finds in it.

    Args:
        width: channels of a token.
        frames: frames k of a block.
        state_dim: dimensions S of the robot's state; 0: none.
        views: most camera views.
        has_reward: whether the reward was trained.
        has_success: whether success was trained.
        reward_mean: of the labelled training data.
        reward_std: likewise.
        success_threshold: probability from which a frame counts as success.
        members: size of the ensemble.
        channels: channels of the pooled tokens.
        pools: attention heads of a query.
        hidden: hidden units of a member.
        maps: feature maps of `FramePictures`; 0: the pooling alone.
        patch: rows and columns of the latents' places in a token, for these.
        latent_channels: of a frame, for the `SuccessClassifier`.
        success_channels: of its feature maps; 0: success is read off the features like the rest.

    Raises:
        ValueError: channels that the pools do not divide, or success channels without latent ones.
    """

    @register_to_config
    def __init__(
        self,
        width: int,
        frames: int,
        state_dim: int,
        views: int = 1,
        has_reward: bool = True,
        has_success: bool = True,
        reward_mean: float = 0.0,
        reward_std: float = 1.0,
        success_threshold: float = 0.5,
        members: int = 5,
        channels: int = 128,
        pools: int = 4,
        hidden: int = 64,
        maps: int = 0,
        patch: int = 2,
        latent_channels: int = 0,
        success_channels: int = 0,
    ):
        super().__init__()
        if channels % pools:
            raise ValueError(f"channels={channels} is not a multiple of pools={pools}")
        if success_channels and not latent_channels:
            raise ValueError(f"success_channels={success_channels} need latent_channels to look at")
        self.frames = frames
        self.state_dim = state_dim
        self.pools = pools
        self.embed_token = nn.Linear(width, channels)
        self.embed_place = nn.Linear(4 * PLACE_FREQUENCIES, channels, bias=False)
        self.embed_view = nn.Embedding(views, channels)
        self.embed_action = nn.Linear(width, members * hidden, bias=False)
        self.value = nn.Linear(channels, channels)
        self.queries = nn.Parameter(
            torch.randn(members * frames * pools, channels) * 2 / math.sqrt(channels)
        )
        self.pooled = _weights(members, channels, hidden)
        self.frame = nn.Parameter(torch.zeros(members, 1, frames, hidden))
        self.inner = _weights(members, hidden, hidden)
        self.inner_bias = nn.Parameter(torch.zeros(members, 1, hidden))
        self.outer = _weights(members, hidden, 3 + state_dim, gain=0.5)
        self.outer_bias = nn.Parameter(torch.zeros(members, 1, 3 + state_dim))
        self.look = None
        if maps:
            self.look = FramePictures(width, frames, patch, views, maps, members * hidden)
        self.see_success = None
        if success_channels:
            self.see_success = SuccessClassifier(latent_channels, views, success_channels, members)
        nn.init.normal_(self.embed_view.weight, std=0.02)

    def forward(
        self,
        features: Float[Tensor, "batch tokens width"],
        grid: Grid,
        frames: Float[Tensor, "batch chunk views channels h w"] | None = None,
        place: Int64[Tensor, "batch chunk"] | None = None,
    ) -> FrameOutputs:
        """Judge frames of a block.

        Args:
            features: the block's tokens (`Prediction.features`): video by view, row and column,
                then one for each action. They may be of lower precision than the heads, which a CPU
                runs fastest in float32.
            grid: views, rows and columns of the video tokens.
            frames: the imagined frames, which a `SuccessClassifier` looks at.
            place: their places in the block; None: they are all of it.

        Raises:
            ValueError: a grid that does not fit the tokens, or a classifier that is shown nothing.
        """
        return self.summarize(self.judge(features, grid, frames, place))

    def judge(
        self,
        features: Float[Tensor, "batch tokens width"],
        grid: Grid,
        frames: Float[Tensor, "batch chunk views channels h w"] | None = None,
        place: Int64[Tensor, "batch chunk"] | None = None,
    ) -> MemberOutputs:
        """What each member says; as `forward`, which puts them together."""
        judged = self.judge_block(features, grid)
        if place is not None:
            row = torch.arange(len(place), device=place.device)[:, None]
            judged = MemberOutputs(*(value[:, row, place] for value in judged))
        if self.see_success is None:
            return judged
        if frames is None:
            raise ValueError("these heads see success in the frames: pass `frames`")
        return judged._replace(success_logit=self.see_success(frames))

    def judge_block(
        self, features: Float[Tensor, "batch tokens width"], grid: Grid
    ) -> MemberOutputs:
        """What each member reads off the features, of all frames of the block."""
        views, rows, columns = grid
        video = views * rows * columns
        if features.shape[1] != video + self.frames:
            raise ValueError(
                f"{features.shape[1]} tokens; a grid of {views} views, {rows} rows and {columns} "
                f"columns has {video}, and {self.frames} actions join them"
            )
        batch, members = len(features), len(self.pooled)
        features = features.to(self.queries.dtype)
        tokens = F.silu(self.embed_token(features[:, :video]) + self._places(grid))  # b p c
        attention = (tokens @ self.queries.T).transpose(1, 2).softmax(-1)  # b (m k h) p
        values = self.value(tokens).unflatten(-1, (self.pools, -1)).permute(0, 2, 1, 3)  # b h p d
        attention = attention.unflatten(1, (-1, self.pools)).transpose(1, 2)  # b h (m k) p
        pooled = (attention @ values).transpose(1, 2).flatten(2)  # b (m k) c
        pooled = pooled.unflatten(1, (members, self.frames)).transpose(0, 1).flatten(1, 2)

        actions = self.embed_action(features[:, video:]).unflatten(-1, (members, -1))  # b k m u
        hidden = (pooled @ self.pooled).unflatten(1, (batch, self.frames))
        hidden = hidden + self.frame + actions.permute(2, 0, 1, 3)
        if self.look is not None:
            seen = self.look(features[:, :video], grid).unflatten(-1, (members, -1))  # b k m u
            hidden = hidden + seen.permute(2, 0, 1, 3)
        hidden = F.silu(hidden).flatten(1, 2)
        hidden = F.silu(torch.baddbmm(self.inner_bias, hidden, self.inner))
        result = torch.baddbmm(self.outer_bias, hidden, self.outer)
        result = result.unflatten(1, (batch, self.frames))
        return MemberOutputs(result[..., 0], result[..., 1], result[..., 3:], result[..., 2])

    def summarize(self, members: MemberOutputs) -> FrameOutputs:
        """Put the members together."""
        if self.state_dim:
            together = members.state
        elif self.config["has_reward"]:
            together = members.reward[..., None]
        else:
            together = members.success_logit.sigmoid()[..., None]
        reward = members.reward.mean(0) * self.config["reward_std"] + self.config["reward_mean"]
        return FrameOutputs(
            reward=reward,
            success_logit=members.success_logit.mean(0),
            lowest_success_logit=members.success_logit.amin(0),
            state=members.state.mean(0),
            error=members.log_error.mean(0).exp(),
            disagreement=together.var(0, unbiased=False).mean(-1).sqrt(),
        )

    def _places(self, grid: Grid) -> Float[Tensor, "tokens channels"]:
        """Features of every video token's place: its height and width in the picture, its view."""
        views, rows, columns = grid
        device = self.queries.device
        frequency = torch.arange(1, PLACE_FREQUENCIES + 1, device=device) * math.pi / 2

        def waves(count: int) -> Tensor:
            middle = (torch.arange(count, device=device) + 0.5) / count * 2 - 1
            angle = middle[:, None] * frequency
            return torch.cat((angle.sin(), angle.cos()), dim=1)

        height = waves(rows)[:, None].expand(-1, columns, -1)
        width = waves(columns).expand(rows, -1, -1)
        place = torch.cat((height, width), dim=-1).flatten(0, 1).to(self.queries.dtype)
        view = self.embed_view.weight[:views, None]
        return (self.embed_place(place) + view).flatten(0, 1)


def _weights(members: int, inputs: int, outputs: int, gain: float = 1.0) -> nn.Parameter:
    """One matrix for each member, different from the start."""
    return nn.Parameter(torch.randn(members, inputs, outputs) * gain / math.sqrt(inputs))
