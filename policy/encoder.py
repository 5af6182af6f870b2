"""From observations to features: pictures by where things are, vectors as they are.

Small on purpose: a policy is cloned within seconds and asked in every step of an environment.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from einops import rearrange
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from policy.observations import Observation
from video.statistics import Normalizer


class ObservationEncoder(nn.Module):
    """Joins any number of pictures and vectors to one feature vector.

    Vectors are normalised first, by what `normalize_by` was told; until then they stay as they are.

    Args:
        shapes: by key, the shape of one environment's observation: `(S,)` for vectors; latents
            `(V, C, h, w)`; pixels `(H, W, 3)` or `(V, H, W, 3)`.
        width: of the features.
        channels: feature maps of a picture.

    Raises:
        ValueError: no observation, or one that is neither a vector nor a picture.
    """

    def __init__(self, shapes: Mapping[str, Sequence[int]], width: int = 256, channels: int = 32):
        super().__init__()
        if not shapes:
            raise ValueError("an encoder needs at least one observation; shapes is empty")
        self.width = width
        self.shapes = {key: tuple(shape) for key, shape in shapes.items()}
        self.embed = nn.ModuleDict()
        for key, shape in self.shapes.items():
            if len(shape) == 1:
                self.embed[key] = Vector(shape[0], width)
            elif len(shape) in (3, 4):
                views, inputs, rows, columns = channels_first(shape)
                self.embed[key] = Picture(views, inputs, rows, columns, width, channels)
            else:
                raise ValueError(
                    f"observation {key!r} of shape {shape} is neither a vector (S,) nor a picture "
                    "(H, W, 3), (V, H, W, 3) or (V, C, h, w)"
                )
        self.norm = nn.LayerNorm(width)

    def normalize_by(self, key: str, normalizer: Normalizer) -> None:
        """Bring a vector to [-1, 1] before anything looks at it."""
        vector = self.embed[key]
        assert isinstance(vector, Vector)
        half = torch.from_numpy(normalizer.high - normalizer.low) / 2
        vector.center.copy_(torch.from_numpy(normalizer.low) + half)
        vector.half_range.copy_(torch.where(half > 0, half, torch.ones_like(half)))

    def normalize_like(self, network: nn.Module) -> None:
        """Bring vectors to [-1, 1] as a network does that looks at the same ones."""
        for other in network.modules():
            if not isinstance(other, ObservationEncoder):
                continue
            for key in self.embed.keys() & other.embed.keys():
                vector, known = self.embed[key], other.embed[key]
                if isinstance(vector, Vector) and isinstance(known, Vector):
                    vector.center.copy_(known.center)
                    vector.half_range.copy_(known.half_range)

    def forward(self, observation: Observation) -> Float[Tensor, "envs width"]:
        """Features of every environment's observation."""
        parts = [embed(observation[key]) for key, embed in self.embed.items()]
        return nn.functional.silu(self.norm(torch.stack(parts).sum(0)))


class Vector(nn.Module):
    """One linear layer over a normalised vector.

    Args:
        size: of the vector.
        width: of the features.
    """

    center: Tensor
    half_range: Tensor

    def __init__(self, size: int, width: int):
        super().__init__()
        self.register_buffer("center", torch.zeros(size))
        self.register_buffer("half_range", torch.ones(size))
        self.project = nn.Linear(size, width)

    def forward(self, vector: Float[Tensor, "envs size"]) -> Float[Tensor, "envs width"]:
        """Features of vectors in their own units."""
        return self.project((vector - self.center) / self.half_range)


class Picture(nn.Module):
    """Soft centres and strengths of feature maps, and a glance at the whole.

    The soft centre of a map tells where something is more finely than a pixel of a latent
    (spatial soft-argmax: Levine et al., arXiv 1504.00702).

    Args:
        views: camera views V.
        inputs: channels of the picture.
        rows: its height.
        columns: its width.
        width: of the features.
        channels: feature maps.
    """

    centers: Tensor

    def __init__(self, views: int, inputs: int, rows: int, columns: int, width: int, channels: int):
        super().__init__()
        halvings = max(0, math.ceil(math.log2(max(rows, columns) / 16)))
        layers: list[nn.Module] = []
        for layer in range(max(2, halvings)):
            stride = 2 if layer < halvings else 1
            layers += [nn.Conv2d(inputs if layer == 0 else channels, channels, 3, stride, 1)]
            layers += [nn.SiLU()]
        self.maps = nn.Sequential(*layers)
        for _ in range(halvings):
            rows, columns = -(-rows // 2), -(-columns // 2)
        down, across = torch.linspace(-1, 1, rows), torch.linspace(-1, 1, columns)
        grid = torch.stack(torch.meshgrid(down, across, indexing="ij"), dim=-1)
        self.register_buffer("centers", grid.flatten(0, 1), persistent=False)
        self.find = nn.Conv2d(channels, channels, 1)
        self.project_found = nn.Linear(views * 3 * channels, width)
        self.project_whole = nn.Linear(views * channels * rows * columns, width)

    def forward(self, pictures: Shaped[Tensor, "envs *shape"]) -> Float[Tensor, "envs width"]:
        """Features of latents, or of uint8 pixels."""
        seen = as_views(pictures)
        maps = self.maps(seen.flatten(0, 1))
        scores = self.find(maps).flatten(2)
        centers = scores.softmax(dim=-1) @ self.centers  # (envs views) channels 2
        strengths = scores.logsumexp(dim=-1) - math.log(scores.shape[-1])
        found = torch.cat((centers.flatten(1), strengths), dim=1)
        envs = len(seen)
        return self.project_found(found.reshape(envs, -1)) + self.project_whole(
            maps.reshape(envs, -1)
        )


def channels_first(shape: Sequence[int]) -> tuple[int, int, int, int]:
    """Views, channels, height and width of one picture; pixels are told by their three colours."""
    if len(shape) == 3:
        shape = (1, *shape)
    views, *rest = shape
    if rest[-1] == 3:
        return views, 3, rest[0], rest[1]
    return views, rest[0], rest[1], rest[2]


def as_views(pictures: Shaped[Tensor, "envs *shape"]) -> Float[Tensor, "envs views c h w"]:
    """Pictures of any kind as float, pixels in [-1, 1]."""
    if pictures.dtype != torch.uint8:
        return pictures
    pixels = pictures if pictures.ndim == 5 else pictures[:, None]
    return rearrange(pixels, "e v h w c -> e v c h w").float() / 127.5 - 1
