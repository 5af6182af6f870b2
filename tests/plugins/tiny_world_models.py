"""An untrained world model small enough for tests, whose imagination follows the actions."""

from typing import Any

import numpy as np
import torch
from tiny_autoencoders import tiny_autoencoder
from torch import nn

from video.statistics import Normalizer
from worldmodel.contexts import Contexts
from worldmodel.heads import FrameHeads
from worldmodel.imagination import ImaginedStep
from worldmodel.rewards import Verdict
from worldmodel.uwm import TIME_CHANNELS, UWM
from worldmodel.world_model import WorldModel

ACTION_LOW, ACTION_HIGH = np.array([-2.0, 0.0]), np.array([2.0, 1.0])
"""The data's units of the two action dimensions."""

TASKS = ["left", "right", "left", "right", "right"]
"""Tasks of the five start contexts."""


def tiny_world_model(
    seed: int = 0,
    views: int = 1,
    block_frames: int = 4,
    history_blocks: int = 0,
    heads: bool = True,
    told: bool = True,
    past_actions: int = 0,
    kinematics_sizes: dict[str, Any] | None = None,
) -> WorldModel:
    """32x32 frames, 4x8x8 latents, two action dimensions, a robot state of three.

    Holding an action moves the imagined frames about as far as all noise does. Unless `told` is
    False, the network goes by the robot's state.
    """
    torch.manual_seed(seed)
    network = UWM(
        latent_channels=4,
        action_dim=2,
        views=views,
        block_frames=block_frames,
        width=32,
        depth=2,
        heads=2,
        condition_width=16,
        history_blocks=history_blocks,
        state_dim=3 if told else 0,
        past_actions=past_actions,
        kinematics_sizes=kinematics_sizes,
    )
    _make_actions_matter(network)
    judges = FrameHeads(
        width=32, frames=block_frames, state_dim=3, views=views, channels=16, pools=2, hidden=16
    )
    _make_success_rare(judges)
    generator = torch.Generator().manual_seed(seed)
    count = len(TASKS)
    contexts = Contexts(
        frames=torch.randint(0, 256, (count, views, 3, 32, 32), generator=generator).byte(),
        state=torch.rand(count, 3, generator=generator) * 2 - 1,
        state_mask=torch.ones(count, dtype=torch.bool),
        tasks=list(TASKS),
    )
    return WorldModel(
        network=network.eval().requires_grad_(False),
        autoencoder=tiny_autoencoder(seed),
        fps=10.0,
        cameras=tuple(f"camera_{view}" for view in range(views)),
        frame_size=(32, 32),
        action_normalizer=Normalizer(ACTION_LOW, ACTION_HIGH),
        state_normalizer=Normalizer(-np.ones(3), np.ones(3)),
        task_names=sorted(set(TASKS)),
        contexts=contexts,
        heads=judges.eval().requires_grad_(False) if heads else None,
    )


def _make_actions_matter(network: UWM) -> None:
    """Random weights for the layers that start at zero; actions speak louder than noise."""
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    noisy = network.block_frames * network.latent_channels * network.patch**2
    with torch.no_grad():
        network.embed_video.weight[:, -noisy:] *= 0.1
        network.embed_action.weight[:, : network.action_dim] *= 10
        hints = network.block_frames * (network.action_dim + 1)
        network.embed_condition[0].weight[:, TIME_CHANNELS:][:, :hints] *= 10
        network.read_action.weight[network.action_dim :] *= 0.1  # corrections are small
        network.read_action.bias[network.action_dim :] *= 0.1


def _make_success_rare(judges: FrameHeads) -> None:
    """Judgements that differ from frame to frame; about one in ten is a success."""
    with torch.no_grad():
        judges.outer *= 50
        judges.outer_bias[..., 1] = 3.5  # every member must believe in it


def rising(step: ImaginedStep) -> Verdict:
    """A user's own reward: how much brighter the last latent channel became. Never a success."""
    frames = torch.cat((step.previous[:, None], step.frames), dim=1)
    reward = 30 * frames[:, :, :, -1].mean((2, 3, 4)).diff(dim=1)
    return Verdict(reward, torch.zeros_like(reward, dtype=torch.bool))
