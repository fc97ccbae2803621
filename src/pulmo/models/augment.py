"""Random changes of training pictures, a whole batch at once on its device."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from pulmo.config.schema import AugmentConfig
from pulmo.core.randomness import uniforms

_DRAWS = 10
_BLUR = 5  # pixels: the side of the window that sharpness adds to or takes away


def augment(
    images: Tensor,
    samples: NDArray[np.int64],
    config: AugmentConfig,
    *,
    mirror: bool,
    seed: int,
    epoch: int,
) -> Tensor:
    """Change float32 [N, C, H, W] in [0, 1]; what happens to a picture is keyed by its sample id.

    One affine resampling (rotation, zoom, stretch, shift, mirror), then sharpness, gamma, contrast
    and brightness.
    """
    draws = torch.from_numpy(uniforms(seed, epoch, samples, _DRAWS).astype(np.float32))
    draws = draws.to(images.device)
    signed = 2 * draws - 1
    grid = functional.affine_grid(
        _matrices(draws, signed, config, mirror), list(images.shape), align_corners=False
    )
    images = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    gamma, contrast, brightness, _, sharpness = (
        signed[:, i].view(-1, 1, 1, 1) for i in range(5, 10)
    )
    if config.sharpness:
        blurred = functional.avg_pool2d(images, _BLUR, 1, _BLUR // 2, count_include_pad=False)
        images = images + config.sharpness * sharpness * (images - blurred)
    images = images.clamp(min=1e-4) ** (1 + config.gamma * gamma)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    images = (images - mean) * (1 + config.contrast * contrast) + mean
    return (images + config.brightness * brightness).clamp(0, 1)


def _matrices(draws: Tensor, signed: Tensor, config: AugmentConfig, mirror: bool) -> Tensor:
    """Affine matrices [N, 2, 3] from output to input coordinates in [-1, 1]."""
    angle = signed[:, 0] * config.rotate * torch.pi / 180
    zoom = 1 + signed[:, 1] * config.zoom
    wide, high = zoom * (1 + signed[:, 8] * config.stretch), zoom
    flip = torch.where(draws[:, 2] < 0.5, -1.0, 1.0) if mirror else torch.ones_like(zoom)
    shift = 2 * config.shift * signed[:, 3:5]
    rows = [
        torch.stack([flip * wide * angle.cos(), -high * angle.sin(), shift[:, 0]], dim=1),
        torch.stack([flip * wide * angle.sin(), high * angle.cos(), shift[:, 1]], dim=1),
    ]
    return torch.stack(rows, dim=1)
