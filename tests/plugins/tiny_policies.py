"""An untrained policy that fits the tiny world model."""

import numpy as np
import torch
from imagined_environments import shared_model

from policy.actors.gaussian import GaussianActor
from policy.model import Policy
from video.statistics import Normalizer

SHAPES = {"latents": (1, 4, 8, 8), "state": (3,)}


def tiny_policy(chunk: int = 4, **options) -> Policy:
    """Sees latents and a state of three; its actions are as large as those of the world model."""
    torch.manual_seed(0)
    actor = GaussianActor(options.get("shapes", SHAPES), 2, chunk, width=16, channels=4)
    torch.nn.init.normal_(actor.mean.weight)
    options = {
        "shapes": SHAPES,
        "action_normalizer": Normalizer(np.array([-2.0, 0.0]), np.array([2.0, 1.0])),
        "autoencoder": shared_model().autoencoder.fingerprint,
        "fps": 10.0,
        "cameras": ("top",),
        "frame_size": (32, 32),
        "notes": {"episodes": [3]},
        **options,
    }
    return Policy(actor=actor.eval(), **options)
