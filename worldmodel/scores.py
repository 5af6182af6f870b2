"""How good a world model is on held-out episodes: every figure of `evaluate`, without printing.

By horizon h, a figure is that of the h-th imagined frame, averaged over episodes; the first frame
of an episode is all the context there is.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from video import metrics
from worldmodel.blocks import Blocks, cut
from worldmodel.bootstrap import ratio_interval
from worldmodel.held_out import HeldOut
from worldmodel.queries import draw_noise, forward_dynamics, inverse_dynamics, joint, policy
from worldmodel.rollout import rollout
from worldmodel.uwm import UWM
from worldmodel.world_model import WorldModel

HORIZONS = (1, 4, 8, 16, 32)

GENERATIVE_STEPS = 8
"""Sampler steps for video generation and joint queries, whose one-step answer is only the mean."""

ByHorizon = dict[str, float]


@dataclass
class Scores:
    """Means by horizon, and half the width of their 95 % confidence interval over episodes.

    Attributes:
        psnr: dB.
        foreground_psnr: dB, where the true picture differs from the median frame.
        ssim: structural similarity.
        latent_mse: mean squared error of normalised latents; none for the baselines.
        confidence: by name of the figure, the half widths.
    """

    psnr: ByHorizon
    foreground_psnr: ByHorizon
    ssim: ByHorizon
    latent_mse: ByHorizon
    confidence: dict[str, ByHorizon]

    def to_json(self) -> dict:
        """All but empty figures."""
        return {name: value for name, value in vars(self).items() if value}


def score_frames(
    imagined: UInt8[Tensor, "episodes horizon views 3 height width"],
    held_out: HeldOut,
    horizons: list[int],
    latents: Float[Tensor, "episodes horizon views channels h w"] | None = None,
) -> Scores:
    """Compare imagined frames with those that were recorded."""
    median = held_out.frames.float().flatten(0, 1).median(dim=0).values.to(torch.uint8)
    table: dict[str, ByHorizon] = {n: {} for n in ("psnr", "foreground_psnr", "ssim", "latent_mse")}
    spread: dict[str, ByHorizon] = {name: {} for name in table}
    for horizon in horizons:
        rows = held_out.has_frame(horizon)
        true, guess = held_out.frames[rows, horizon], imagined[rows, horizon - 1]
        values = {
            "psnr": metrics.psnr(guess, true).mean(1),
            "foreground_psnr": metrics.foreground_psnr(guess, true, median).nanmean(1),
            "ssim": metrics.ssim(guess, true).mean(1),
        }
        if latents is not None:
            true_latents, guess_latents = (
                held_out.latents[rows, horizon],
                latents[rows, horizon - 1],
            )
            values["latent_mse"] = metrics.latent_mse(guess_latents, true_latents).mean(1)
        for name, value in values.items():
            value = value[value.isfinite()]
            if len(value):
                table[name][str(horizon)] = value.mean().item()
                spread[name][str(horizon)] = 1.96 * value.std().item() / len(value) ** 0.5
    return Scores(**table, confidence={name: value for name, value in spread.items() if value})


def usable_horizons(held_out: HeldOut) -> list[int]:
    """Those of `HORIZONS` that at least two episodes reach."""
    return [horizon for horizon in HORIZONS if int(held_out.has_frame(horizon).sum()) >= 2]


@torch.inference_mode()
def forward_dynamics_latents(
    model: WorldModel,
    held_out: HeldOut,
    seed: int,
    steps: int = 1,
    chunk: int | None = None,
    swap_actions: bool = False,
) -> Float[Tensor, "episodes horizon views channels h w"]:
    """Roll out from each episode's first frame with its actions, or with another episode's.

    The noise depends on the seed alone, so that two calls differ only by what they are asked.
    """
    actions, mask = held_out.actions, held_out.action_mask
    if swap_actions:
        other = held_out.swapped()
        actions, mask = actions[other], mask[other]
    return rollout(
        model.network,
        held_out.latents[:, :1],
        actions,
        actions.shape[1],
        torch.Generator(held_out.latents.device).manual_seed(seed),
        action_mask=mask,
        steps=steps,
        chunk=chunk,
        state=held_out.state,
    )


@dataclass
class ActionFollowing:
    """How much worse a rollout is with another episode's actions, and how sure that is.

    Attributes:
        action_following_ratio: by horizon h, sum_e |z_h(a') - z_h|^2 / sum_e |z_h(a) - z_h|^2 over
            the episodes e, of latents z with the true actions a and another episode's a', same
            noise. A model that ignores its actions has ratio 1.
        action_following_interval: its 95 % bootstrap interval over the episodes.
        error_by_episode: mean |z_h(a) - z_h|^2 of each episode that reaches the horizon.
        swapped_error_by_episode: the same of a'.
    """

    action_following_ratio: ByHorizon
    action_following_interval: dict[str, list[float]]
    error_by_episode: dict[str, list[float]]
    swapped_error_by_episode: dict[str, list[float]]


def action_following(
    true_actions: Float[Tensor, "episodes horizon views channels h w"],
    swapped_actions: Float[Tensor, "episodes horizon views channels h w"],
    held_out: HeldOut,
    horizons: list[int],
) -> ActionFollowing:
    """Latent error with another episode's actions over that with the true ones."""
    result = ActionFollowing({}, {}, {}, {})
    for horizon in horizons:
        rows, name = held_out.has_frame(horizon), str(horizon)
        true = held_out.latents[rows, horizon]
        own, other = (
            (latents[rows, horizon - 1] - true).square().flatten(1).mean(1).double().cpu()
            for latents in (true_actions, swapped_actions)
        )
        result.action_following_ratio[name] = (other.sum() / own.sum()).item()
        result.action_following_interval[name] = ratio_interval(other.numpy(), own.numpy())
        result.error_by_episode[name] = own.tolist()
        result.swapped_error_by_episode[name] = other.tolist()
    return result


def action_following_ratio(
    true_actions: Float[Tensor, "episodes horizon views channels h w"],
    swapped_actions: Float[Tensor, "episodes horizon views channels h w"],
    held_out: HeldOut,
    horizons: list[int],
) -> ByHorizon:
    """The ratio of `ActionFollowing` alone."""
    following = action_following(true_actions, swapped_actions, held_out, horizons)
    return following.action_following_ratio


def copy_last(held_out: HeldOut) -> UInt8[Tensor, "episodes horizon views 3 height width"]:
    """The first baseline: the context frame, for ever."""
    return held_out.frames[:, :1].expand(-1, held_out.frames.shape[1] - 1, -1, -1, -1, -1)


def mean_frame(
    held_out: HeldOut, seen: HeldOut
) -> UInt8[Tensor, "episodes horizon views 3 height width"]:
    """The second baseline: the mean frame of what was trained on, task by task where known."""
    means = {}
    for task in set(held_out.tasks):
        rows = [i for i, name in enumerate(seen.tasks) if name == task]
        rows = rows or list(range(len(seen.tasks)))
        means[task] = seen.frames[rows].float().mean(dim=(0, 1)).round().to(torch.uint8)
    mean = torch.stack([means[task] for task in held_out.tasks])
    return mean[:, None].expand(-1, held_out.frames.shape[1] - 1, -1, -1, -1, -1)


@torch.inference_mode()
def score_queries(model: WorldModel, held_out: HeldOut, seed: int) -> dict:
    """Score the other four queries on single blocks with a true anchor.

    - `inverse_dynamics_r2`, `policy_r2`: share of each action dimension's variance explained.
    - `video_generation_liveliness`: how much an imagined frame changes from the frame before, over
      how much a real one does. 1 is right, 0 a still picture.
    - `joint_consistency`: distance of the jointly imagined frames from what forward dynamics makes
      of another row's imagined actions, over that of their own. 1 means that frames and actions
      have nothing to do with each other.
    """
    network = model.network
    blocks = _all_blocks(held_out, network)
    generator = torch.Generator(blocks.latents.device).manual_seed(seed)
    known = blocks.action_mask[:, 0].all(1)
    if not known.any():
        return {}
    anchor, latents, actions, mask, *_ = (part[known, 0] for part in blocks)
    noise = draw_noise(network, anchor, generator)
    generated = rollout(
        network,
        held_out.latents[:, :1],
        None,
        held_out.actions.shape[1],
        generator,
        steps=GENERATIVE_STEPS,
    )
    dreamt, intended = joint(network, anchor, noise, steps=GENERATIVE_STEPS)
    intended = intended.clamp(-1, 1)
    own = forward_dynamics(network, anchor, intended, mask, noise, GENERATIVE_STEPS)
    swapped = intended.roll(1, dims=0)
    other = forward_dynamics(network, anchor, swapped, mask, noise, GENERATIVE_STEPS)
    return {
        "inverse_dynamics_r2": _r2(inverse_dynamics(network, anchor, latents, noise), actions),
        "policy_r2": _r2(policy(network, anchor, noise), actions),
        "video_generation_liveliness": (
            _change(torch.cat((held_out.latents[:, :1], generated), dim=1))
            / _change(held_out.latents)
        ),
        "joint_consistency": (
            (dreamt - other).square().mean() / (dreamt - own).square().mean()
        ).item(),
    }


def _all_blocks(held_out: HeldOut, network: UWM) -> Blocks:
    """Every whole block of every episode, one a row; the first frame stands twice before it."""
    frames = network.block_frames
    count = (held_out.latents.shape[1] - 1) // frames
    end = 1 + count * frames
    latents = torch.cat((held_out.latents[:, :1], held_out.latents[:, :end]), dim=1)
    actions = torch.nn.functional.pad(held_out.actions[:, : end - 1], (0, 0, 1, 0))
    mask = torch.nn.functional.pad(held_out.action_mask[:, : end - 1], (1, 0))
    first = latents[:, 0] if network.first_frame else None
    blocks = cut(latents, actions, mask, frames, first=first, past_actions=network.robot_actions)
    return Blocks(*(part.flatten(0, 1)[:, None] for part in blocks))


def _r2(
    predicted: Float[Tensor, "rows frames action_dim"],
    actions: Float[Tensor, "rows frames action_dim"],
) -> list[float]:
    """1 - residual sum of squares / total sum of squares, by dimension; 0 for a constant one."""
    residual = (predicted - actions).square().sum((0, 1))
    total = (actions - actions.mean((0, 1))).square().sum((0, 1))
    return torch.where(total > 0, 1 - residual / total.clamp(min=1e-9), 0.0).tolist()


def _change(latents: Float[Tensor, "episodes frames views channels h w"]) -> float:
    return latents.diff(dim=1).square().mean().sqrt().item()
