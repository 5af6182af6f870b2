"""What the heads are trained on: blocks that the frozen world model imagines of recorded actions.

The heads will judge imagined frames, so they learn from those, under the labels of the true ones:
at any depth of a rollout, with all of a block's actions or only the first of them, and at the last
of any number of sampler steps.
"""

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from worldmodel.blocks import Blocks
from worldmodel.draws import RowDraws
from worldmodel.queries import imagine_block
from worldmodel.rollout import advance
from worldmodel.rollout_state import draw_seeds, past_mask, start
from worldmodel.rows import take
from worldmodel.uwm import UWM


@dataclass
class HeadsRollouts:
    """How the recorded actions are replayed in the world model.

    Attributes:
        true_anchor: share of the blocks that begin behind true frames instead of imagined ones;
            the blocks after them go on from there.
        prefix: share of the blocks of which only the first actions are given, as when the model is
            stepped one action at a time.
        sampler_steps: numbers of sampler steps; every batch draws one of them.
        sampler_shares: their probabilities.
    """

    true_anchor: float = 0.2
    prefix: float = 0.5
    sampler_steps: list[int] = field(default_factory=lambda: [1, 2, 4, 8])
    sampler_shares: list[float] = field(default_factory=lambda: [0.84, 0.1, 0.04, 0.02])

    def __post_init__(self):
        """Check the numbers.

        Raises:
            ValueError: shares that are none, or not one for each number of steps.
        """
        shares = self.sampler_shares
        if len(shares) != len(self.sampler_steps) or abs(sum(shares) - 1) > 1e-6:
            raise ValueError(
                f"sampler_shares {shares} must be one for each of the sampler_steps "
                f"{self.sampler_steps} and sum to 1"
            )
        if not (0 <= self.true_anchor <= 1 and 0 <= self.prefix <= 1 and min(shares) >= 0):
            raise ValueError(
                f"true_anchor={self.true_anchor}, prefix={self.prefix} and sampler_shares {shares} "
                "are shares, from 0 to 1"
            )

    def draw_steps(self, draws: RowDraws) -> int:
        """One of the numbers of sampler steps."""
        shares = torch.tensor(self.sampler_shares)
        drawn = torch.multinomial(shares, 1, generator=draws.generator)
        return self.sampler_steps[int(drawn)]


class ImaginedBlocks(NamedTuple):
    """What the world model made of N blocks of each of B clips.

    Attributes:
        features: as in `ImaginedBlock`.
        frames: what it imagined.
        error: root-mean-square difference of each imagined frame's latents from the true ones.
        known: frames whose actions, and all those before, the model had been given.
    """

    features: Float[Tensor, "batch blocks tokens width"]
    frames: Float[Tensor, "batch blocks frames views channels h w"]
    error: Float[Tensor, "batch blocks frames"]
    known: Bool[Tensor, "batch blocks frames"]


@torch.no_grad()
def imagine_clips(
    network: UWM, blocks: Blocks, settings: HeadsRollouts, draws: RowDraws
) -> ImaginedBlocks:
    """Replay clips in the world model, every block from the imagined end of the one before.

    Args:
        network: the frozen world model's.
        blocks: recorded clips.
        settings: how to replay them.
        draws: for one row a clip.
    """
    count, size = blocks.latents.shape[1:3]
    steps = settings.draw_steps(draws)
    restarts = draws.uniform(count) < settings.true_anchor
    given = _draw_given(settings.prefix, count, size, draws)
    state = start(network, blocks.anchor[:, 0], draw_seeds(draws.generator, len(blocks.anchor)))
    state = replace(state, robot=blocks.robot[:, 0])
    features, imagined, errors = [], [], []
    for index in range(count):
        restart = restarts[:, index].view(-1, *(1,) * (state.anchor.ndim - 1))
        anchor = torch.where(restart, blocks.anchor[:, index], state.anchor)
        robot = torch.where(restarts[:, index, None], blocks.robot[:, index], state.robot)
        state = replace(state, anchor=anchor, robot=robot)
        actions, mask = blocks.actions[:, index], blocks.action_mask[:, index]
        step = advance(network, state, actions, mask, steps)
        frames, seen = step.frames, step.features
        rows = (given[:, index] < size).nonzero()[:, 0]
        if len(rows):
            part = take(state, rows)
            known = torch.arange(size, device=rows.device) < given[rows, index, None]
            past = past_mask(network, part)
            known = mask[rows] & known
            begun = imagine_block(
                network,
                part.anchor,
                actions[rows],
                known,
                part.noise,
                steps,
                part.past,
                past,
                part.robot,
            )
            frames = frames.index_copy(0, rows, begun.latents)
            seen = seen.index_copy(0, rows, begun.features)
        difference = frames.float() - blocks.latents[:, index]
        errors.append(difference.square().mean((2, 3, 4, 5)).sqrt())
        features.append(seen)
        imagined.append(frames)
        state = step.state
    told = torch.arange(size, device=given.device) < given[..., None]
    unbroken = blocks.action_mask.flatten(1).cumprod(1).bool().view(told.shape)
    return ImaginedBlocks(
        features=torch.stack(features, 1),
        frames=torch.stack(imagined, 1),
        error=torch.stack(errors, 1),
        known=told & unbroken,
    )


def _draw_given(share: float, count: int, size: int, draws: RowDraws) -> Tensor:
    """How many of each block's actions are given: all, or in a share of the blocks 1 to k - 1."""
    part = 1 + (draws.uniform(count) * (size - 1)).long()
    begun = draws.uniform(count) < (share if size > 1 else 0.0)
    return torch.where(begun, part, size)
