"""The network: from the frames of a clip to a distribution for every action between them.

Every frame becomes one token by itself (`video/picture_encoder.py`), after a mask has hidden what
does not matter, if one is learned (`mask.py`). A step's token joins those of its two frames and
their difference; attention over all steps of the clip, earlier and later ones, does the rest. The
robot's state can be read off a frame's token, which is trained, where the data have it, only
because it teaches the tokens where to look. So can the frame itself, small: that needs no label at
all.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from jaxtyping import Float
from torch import Tensor, nn

from inverse_dynamics.estimate import Estimate, Parameters, estimate
from inverse_dynamics.kinds import KINDS
from inverse_dynamics.mask import PictureMask
from video.picture_encoder import PictureEncoder

DIFFERENCE_GAIN = 8.0
"""Neighbouring frames differ little."""

LOG_SCALE_RANGE = (-6.0, 2.0)
ROTARY_BASE = 100.0


class Readout(NamedTuple):
    """What the network makes of a clip.

    Attributes:
        actions: the distributions of the actions between the frames.
        state: the robot's state at each frame, normalised; S = 0 where it was not trained.
        shown: how much of every place the learned mask shows, 0 to 1; None without a mask.
        redrawn: each frame, small, as its token tells it; None where that is not trained.
    """

    actions: Parameters
    state: Float[Tensor, "batch frames state_dim"]
    shown: Float[Tensor, "batch frames views height width"] | None = None
    redrawn: Float[Tensor, "batch frames views channels rows columns"] | None = None


class Norm(nn.RMSNorm):
    """RMSNorm in the precision of its gains, which autocast leaves alone."""

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        """Normalise every token."""
        return super().forward(x.to(self.weight.dtype))


class ActionReader(ModelMixin, ConfigMixin):
    """Reads actions off clips, looking at what comes before and after.

    Args:
        frame_shape: of one frame: views, channels, height and width of latents or pixels; or one
            number, the size of a state vector.
        kinds: kind of each action dimension, see `kinds.py`.
        state_dim: dimensions S of the robot's state; 0: not trained.
        width: channels of a token.
        depth: layers of attention.
        heads: of the attention.
        channels: feature maps of the picture.
        dropout: of the tokens, in training.
        patch: pixels that are folded into one place of the feature maps, each way; 1 for latents.
        masked: learn a mask, and look only at what it shows.
        redraw: rows and columns of the small frame that a token is to tell; 0: not trained.

    Raises:
        ValueError: an unknown kind, a frame shape that is neither picture nor vector, a width that
            the heads do not divide into an even number, or `redraw` without a picture.
    """

    @register_to_config
    def __init__(
        self,
        frame_shape: list[int],
        kinds: list[str],
        state_dim: int = 0,
        width: int = 192,
        depth: int = 3,
        heads: int = 4,
        channels: int = 48,
        dropout: float = 0.1,
        patch: int = 1,
        masked: bool = False,
        redraw: int = 0,
    ):
        super().__init__()
        if not set(kinds) <= set(KINDS):
            raise ValueError(f"kinds={kinds}, but each must be one of {KINDS}")
        if len(frame_shape) not in (1, 4):
            raise ValueError(f"frame_shape={frame_shape} is neither (views, c, h, w) nor (size,)")
        if width % (2 * heads):
            raise ValueError(f"width={width} is not a multiple of twice heads={heads}")
        if redraw and len(frame_shape) != 4:
            raise ValueError(f"redraw={redraw}, but frames of shape {frame_shape} are no pictures")
        if len(frame_shape) == 4:
            self.embed_frame = PictureEncoder(frame_shape, width, channels, dropout, patch)
        else:
            self.embed_frame = nn.Linear(frame_shape[0], width)
        self.mask = PictureMask(frame_shape[1], channels, patch) if masked else None
        self.read_state = nn.Linear(width, state_dim) if state_dim else None
        self.draw_frame = Redraw(width, frame_shape[:2], redraw) if redraw else None
        self.embed_step = nn.Sequential(
            nn.Linear(3 * width, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.layers = nn.ModuleList(Layer(width, heads, dropout) for _ in range(depth))
        self.norm = Norm(width)
        self.read_actions = nn.Linear(width, 2 * len(kinds))
        nn.init.zeros_(self.read_actions.weight)
        nn.init.zeros_(self.read_actions.bias)

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """Of one frame."""
        return tuple(self.config["frame_shape"])

    @property
    def kinds(self) -> tuple[str, ...]:
        """Of the action dimensions."""
        return tuple(self.config["kinds"])

    def narrowed(self, actions: slice, state: slice) -> "ActionReader":
        """A copy that has the heads of some dimensions only, for one of several embodiments."""
        size = len(self.kinds)
        config = dict(self.config) | {"kinds": list(self.kinds[actions])}
        weights = self.state_dict()
        for name in ("read_actions.weight", "read_actions.bias"):
            heads = weights[name].unflatten(0, (2, size))  # locations, then scales
            weights[name] = heads[:, actions].flatten(0, 1)
        if self.read_state is not None:
            config["state_dim"] = state.stop - state.start
            for name in ("read_state.weight", "read_state.bias"):
                weights[name] = weights[name][state]
        if config["state_dim"] == 0:
            weights = {name: own for name, own in weights.items() if "read_state" not in name}
        copy = ActionReader.from_config(config)
        assert isinstance(copy, ActionReader)
        copy.load_state_dict(weights)
        return copy.train(self.training)

    def forward(self, frames: Float[Tensor, "batch frames *shape"]) -> Readout:
        """Read the actions between the frames of clips of any length from two frames on."""
        tokens, shown = self._tokens(frames)
        return Readout(
            self._read_steps(tokens),
            tokens[..., :0] if self.read_state is None else self.read_state(tokens).float(),
            shown,
            None if self.draw_frame is None else self.draw_frame(tokens),
        )

    def read(self, frames: Float[Tensor, "batch frames *shape"]) -> Estimate:
        """The distributions alone, as `forward` gives them, by mean and spread."""
        return self.read_tokens(self.tokens(frames))

    def tokens(
        self, frames: Float[Tensor, "batch frames *shape"]
    ) -> Float[Tensor, "batch frames width"]:
        """One token of each frame, which knows nothing of the others."""
        return self._tokens(frames)[0]

    def read_tokens(self, tokens: Float[Tensor, "batch frames width"]) -> Estimate:
        """The actions between frames, by their tokens."""
        return estimate(self._read_steps(tokens), self.kinds)

    def states(
        self, tokens: Float[Tensor, "batch frames width"]
    ) -> Float[Tensor, "batch frames state_dim"]:
        """The robot's state in frames, by their tokens.

        Raises:
            ValueError: it was not trained.
        """
        if self.read_state is None:
            raise ValueError("this network was trained without the robot's state: state_dim=0")
        return self.read_state(tokens).float()

    def _read_steps(self, tokens: Float[Tensor, "batch frames width"]) -> Parameters:
        """What the actions between the frames are, as the network's last layer says it."""
        before, after = tokens[:, :-1], tokens[:, 1:]
        joined = torch.cat((before, after, DIFFERENCE_GAIN * (after - before)), dim=-1)
        steps = self.embed_step(joined)
        for layer in self.layers:
            steps = layer(steps)
        location, log_scale = self.read_actions(self.norm(steps)).float().chunk(2, dim=-1)
        return Parameters(location, (log_scale - 1).clamp(*LOG_SCALE_RANGE))

    def _tokens(self, frames: Float[Tensor, "batch frames *shape"]) -> tuple[Tensor, Tensor | None]:
        """One token of each frame, and what a mask shows of it."""
        pictures, shown = frames.flatten(0, 1), None
        if self.mask is not None:
            pictures, shown = self.mask(pictures)
            shown = shown.unflatten(0, frames.shape[:2])
        return self.embed_frame(pictures).unflatten(0, frames.shape[:2]).float(), shown


class Redraw(nn.Module):
    """A small frame out of its token.

    Args:
        width: channels of a token.
        planes: views and channels of a frame.
        size: rows and columns of the small one.
    """

    def __init__(self, width: int, planes: Sequence[int], size: int):
        super().__init__()
        self.shape = (*planes, size, size)
        self.layers = nn.Sequential(
            nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, math.prod(self.shape))
        )

    def forward(
        self, tokens: Float[Tensor, "batch frames width"]
    ) -> Float[Tensor, "batch frames views channels rows columns"]:
        """One for each token."""
        return self.layers(tokens).float().unflatten(-1, self.shape)


class Layer(nn.Module):
    """Attention over the steps of a clip, then a gated linear unit.

    Args:
        width: channels of a token.
        heads: of the attention.
        dropout: of what is added to the tokens.
    """

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.attention_norm = Norm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width, bias=False)
        self.attention_out = nn.Linear(width, width, bias=False)
        self.unit_norm = Norm(width)
        self.unit_in = nn.Linear(width, 4 * width)
        self.unit_out = nn.Linear(2 * width, width)
        self.dropout = nn.Dropout(dropout)
        nn.init.zeros_(self.attention_out.weight)
        nn.init.zeros_(self.unit_out.weight)

    def forward(self, x: Float[Tensor, "batch steps width"]) -> Float[Tensor, "batch steps width"]:
        """Every step looks at all steps, earlier and later."""
        projected = self.queries_keys_values(self.attention_norm(x))
        queries, keys, values = projected.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(rotate(queries), rotate(keys), values)
        x = x + self.dropout(self.attention_out(attended.transpose(1, 2).flatten(2)))
        content, gate = self.unit_in(self.unit_norm(x)).chunk(2, dim=-1)
        return x + self.dropout(self.unit_out(content * F.silu(gate)))


def rotate(x: Float[Tensor, "*batch steps width"]) -> Float[Tensor, "*batch steps width"]:
    """Rotary positions: channels (i, i + half) of step t turn by t * base^(-i / half).

    So attention sees how far apart two steps are, and a clip may have any length.

    Source: Su et al., RoFormer, arXiv 2104.09864, eq. 15.
    """
    half = x.shape[-1] // 2
    exponents = torch.arange(half, device=x.device) / half
    angles = torch.arange(x.shape[-2], device=x.device)[:, None] * ROTARY_BASE**-exponents
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
