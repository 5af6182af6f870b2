"""The five queries of the world model: what is given, what is absent, what is denoised.

    query               given                absent          denoised
    forward dynamics    anchor, actions                      latents
    inverse dynamics    anchor, latents                      actions
    policy              anchor               latents         actions
    video generation    anchor               actions         latents
    joint               anchor                               latents and actions

All are functions over one network and one block: `B` rows, k frames, k actions. Noise comes in as
an argument, so that the caller decides about seeds. `rollout.py` chains blocks.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from worldmodel.noise import ABSENT, GIVEN
from worldmodel.sampler import euler
from worldmodel.uwm import UWM, Cache, Prediction


class BlockNoise(NamedTuple):
    """The random part of one block: where the denoising of its latents and its actions starts."""

    latents: Float[Tensor, "batch frames views channels height width"]
    actions: Float[Tensor, "batch frames action_dim"]


class ImaginedBlock(NamedTuple):
    """A block's frames, and what the network thought at the sampler's last step (`Prediction`).

    `states` are the robot's, in the frame before and in each of the block's; NaN where unknown.
    """

    latents: Float[Tensor, "batch frames views channels height width"]
    features: Float[Tensor, "batch tokens width"]
    states: Float[Tensor, "batch frames_and_now state_dim"]


def draw_noise(
    network: UWM,
    anchor: Float[Tensor, "batch anchor views channels height width"],
    generator: torch.Generator | Sequence[torch.Generator],
) -> BlockNoise:
    """Draw one block's noise; with one generator a row, a row does not depend on its neighbours.

    Raises:
        ValueError: several generators, but not one for each row.
    """
    frame, frames = anchor.shape[2:], network.block_frames
    if isinstance(generator, torch.Generator):
        rows, generators = len(anchor), [generator]
    elif len(generator) == len(anchor):
        rows, generators = 1, list(generator)
    else:
        raise ValueError(f"{len(generator)} generators for a batch of {len(anchor)}")

    def normal(*shape: int) -> Tensor:
        draws = [torch.randn(rows, *shape, generator=g, device=g.device) for g in generators]
        return torch.cat(draws).to(anchor.device, anchor.dtype)

    return BlockNoise(normal(frames, *frame), normal(frames, network.action_dim))


def forward_dynamics(
    network: UWM,
    anchor: Float[Tensor, "batch anchor views channels height width"],
    actions: Float[Tensor, "batch frames action_dim"],
    action_mask: Bool[Tensor, "batch frames"],
    noise: BlockNoise,
    steps: int = 1,
    past: Cache | None = None,
    robot: Float[Tensor, "batch robot"] | None = None,
) -> Float[Tensor, "batch frames views channels height width"]:
    """Imagine the frames that follow when these actions are taken.

    Actions whose mask is False are absent: not known yet, or never.
    """
    block = imagine_block(network, anchor, actions, action_mask, noise, steps, past, robot=robot)
    return block.latents


def imagine_block(
    network: UWM,
    anchor: Float[Tensor, "batch anchor views channels height width"],
    actions: Float[Tensor, "batch frames action_dim"],
    action_mask: Bool[Tensor, "batch frames"],
    noise: BlockNoise,
    steps: int = 1,
    past: Cache | None = None,
    past_mask: Bool[Tensor, "batch past_tokens"] | None = None,
    robot: Float[Tensor, "batch robot"] | None = None,
) -> ImaginedBlock:
    """Forward dynamics, with the features that `heads.py` judges the frames by.

    `past_mask` tells which of the past's tokens there are, where rows remember different lengths;
    `robot` is the robot vector before the block (`kinematics.py`), None where it is unknown.
    """
    absent = torch.zeros_like(action_mask)
    states = network.predict_states(robot, actions, action_mask)
    last = _denoise(
        network,
        anchor,
        None,
        actions,
        action_mask,
        absent,
        noise,
        steps,
        past,
        past_mask,
        states=states,
        robot=robot,
    )
    return ImaginedBlock(last.latents[:, 0], last.features[:, 0], last.states[:, 0])


def video_generation(
    network: UWM,
    anchor: Float[Tensor, "batch anchor views channels height width"],
    noise: BlockNoise,
    steps: int = 1,
    past: Cache | None = None,
) -> Float[Tensor, "batch frames views channels height width"]:
    """Imagine frames that may follow, whatever is done."""
    none = torch.zeros(noise.actions.shape[:2], dtype=torch.bool, device=anchor.device)
    return _denoise(network, anchor, None, None, none, none, noise, steps, past).latents[:, 0]


def inverse_dynamics(
    network: UWM,
    anchor: Float[Tensor, "batch anchor views channels height width"],
    latents: Float[Tensor, "batch frames views channels height width"],
    noise: BlockNoise,
    steps: int = 1,
    past: Cache | None = None,
) -> Float[Tensor, "batch frames action_dim"]:
    """Infer the actions that led through these frames."""
    none = torch.zeros(noise.actions.shape[:2], dtype=torch.bool, device=anchor.device)
    last = _denoise(network, anchor, latents, None, none, ~none, noise, steps, past)
    return last.actions[:, 0]


def policy(
    network: UWM,
    anchor: Float[Tensor, "batch anchor views channels height width"],
    noise: BlockNoise,
    steps: int = 1,
    past: Cache | None = None,
) -> Float[Tensor, "batch frames action_dim"]:
    """Choose the next actions as the recorded data would, without imagining their frames."""
    none = torch.zeros(noise.actions.shape[:2], dtype=torch.bool, device=anchor.device)
    last = _denoise(
        network, anchor, None, None, none, ~none, noise, steps, past, latents_absent=True
    )
    return last.actions[:, 0]


def joint(
    network: UWM,
    anchor: Float[Tensor, "batch anchor views channels height width"],
    noise: BlockNoise,
    steps: int = 1,
    past: Cache | None = None,
    past_mask: Bool[Tensor, "batch past_tokens"] | None = None,
) -> tuple[
    Float[Tensor, "batch frames views channels height width"],
    Float[Tensor, "batch frames action_dim"],
]:
    """Imagine the next frames and the actions that lead to them, together."""
    none = torch.zeros(noise.actions.shape[:2], dtype=torch.bool, device=anchor.device)
    last = _denoise(network, anchor, None, None, none, ~none, noise, steps, past, past_mask)
    return last.latents[:, 0], last.actions[:, 0]


def remember(
    network: UWM,
    anchor: Float[Tensor, "batch anchor views channels height width"],
    latents: Float[Tensor, "batch frames views channels height width"],
    actions: Float[Tensor, "batch frames action_dim"],
    action_mask: Bool[Tensor, "batch frames"],
    noise: BlockNoise,
    past: Cache | None = None,
    past_mask: Bool[Tensor, "batch past_tokens"] | None = None,
    robot: Float[Tensor, "batch robot"] | None = None,
) -> Cache:
    """Keys and values of a finished block, for the blocks after it to look at."""
    states = network.predict_states(robot, actions, action_mask)
    known = torch.where(action_mask[..., None], actions, noise.actions)
    latent_time = torch.full((len(latents), 1), GIVEN, device=latents.device)
    prediction = network(
        anchor[:, None],
        latents[:, None],
        known[:, None],
        latent_time,
        _time(action_mask, GIVEN)[:, None],
        past,
        past_mask,
        states[:, None],
        None if robot is None else robot[:, None],
    )
    return prediction.cache


def _denoise(
    network: UWM,
    anchor: Tensor,
    latents: Tensor | None,
    actions: Tensor | None,
    action_given: Tensor,
    action_denoised: Tensor,
    noise: BlockNoise,
    steps: int,
    past: Cache | None,
    past_mask: Tensor | None = None,
    latents_absent: bool = False,
    states: Tensor | None = None,
    robot: Tensor | None = None,
) -> Prediction:
    """Run the sampler on what is not given; both clocks of what is denoised run together.

    Returns:
        The network's last word: the sampler ends on what it predicts.
    """
    last: list[Prediction] = []

    def predict(noisy: tuple[Tensor, ...], time: float) -> tuple[Tensor, ...]:
        noisy_latents, noisy_actions = noisy
        latent_time = time
        if latents is not None:
            noisy_latents, latent_time = latents, GIVEN
        elif latents_absent:
            noisy_latents, latent_time = noise.latents, ABSENT
        action_time = torch.where(action_denoised, time, _time(action_given, GIVEN))
        noisy_actions = torch.where(action_denoised[..., None], noisy_actions, noise.actions)
        if actions is not None:
            noisy_actions = torch.where(action_given[..., None], actions, noisy_actions)
        prediction = network(
            anchor[:, None],
            noisy_latents[:, None],
            noisy_actions[:, None],
            torch.full((len(anchor), 1), latent_time, device=anchor.device),
            action_time[:, None],
            past,
            past_mask,
            None if states is None else states[:, None],
            None if robot is None else robot[:, None],
        )
        last[:] = [prediction]
        return prediction.latents[:, 0], prediction.actions[:, 0]

    euler(predict, (noise.latents, noise.actions), steps)
    return last[0]


def _time(mask: Tensor, time: float) -> Tensor:
    """`time` where the mask is True, `ABSENT` elsewhere."""
    return torch.where(mask, time, ABSENT).to(torch.float32)
