"""An untrained autoencoder small enough for tests: 32x32 frames become 4x8x8 latents."""

import diffusers
import torch

from video.autoencoder import FrameAutoencoder


def tiny_autoencoder(seed: int = 0) -> FrameAutoencoder:
    """Random weights, made-up statistics."""
    torch.manual_seed(seed)
    network = diffusers.AutoencoderTiny(
        in_channels=48,
        out_channels=48,
        encoder_block_out_channels=(8,),
        decoder_block_out_channels=(8,),
        num_encoder_blocks=(1,),
        num_decoder_blocks=(1,),
    )
    return FrameAutoencoder(network, 4, mean=[0.0] * 4, std=[0.1] * 4).eval()
