"""Pictures as a network takes them, and their embeddings by a frozen one."""

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning.profilers import Profiler
from torch import Tensor

from pulmo.config.schema import Config
from pulmo.core.bundle import sha256
from pulmo.data.datamodule import Samples
from pulmo.jobs import hardware, profiling
from pulmo.models.augment import augment
from pulmo.models.catalog import Network
from pulmo.progress import track

EMBED_BATCH = 16  # larger ones spend their time on page faults

Known = dict[str, NDArray[np.float32]]


def embedded(
    network: Network,
    part: Samples,
    config: Config,
    view: int,
    profiler: Profiler,
    known: Known,
) -> NDArray[np.float32]:
    """Embeddings float32 [n, D] of samples, as they are `known`, or made now and left there.

    View 0 is the plain picture, the others are augmented.
    """
    decides = (config.seed, config.model, config.data, config.recipe.augment if view else None)
    key = sha256(f"{view} {decides}".encode() + part.rows.tobytes())
    if key not in known:
        known[key] = _embed(network, part, config, view, profiler)
    return known[key]


def _embed(
    network: Network, part: Samples, config: Config, view: int, profiler: Profiler
) -> NDArray[np.float32]:
    device = torch.device("cuda" if hardware.uses_gpu(config) else "cpu")
    network.to(device).to(memory_format=torch.channels_last)
    found: list[NDArray[np.float32]] = []
    starts = range(0, len(part.rows), EMBED_BATCH)
    with torch.inference_mode():
        for start in track(starts, "embedding", total=len(starts)):
            with profiler.profile(profiling.EMBEDDING):
                rows = part.rows[start : start + EMBED_BATCH]
                with profiler.profile("reading a batch"):
                    pixels = torch.from_numpy(part.inputs[rows]).to(device)
                with profiler.profile("augmentation"):
                    images = scaled(pixels)
                    if view > 0:
                        images = changed(images, rows, config, view)
                found.append(network.embed(images).cpu().numpy())
    network.cpu()
    return np.concatenate(found)


def scaled(pixels: Tensor) -> Tensor:
    """uint8 [N, C, H, W] to float32 in [0, 1], channels last."""
    return (pixels.float() / 255).contiguous(memory_format=torch.channels_last)


def changed(images: Tensor, rows: NDArray[np.int64], config: Config, epoch: int) -> Tensor:
    """Pictures augmented as the recipe says, by (seed, epoch, row)."""
    if config.recipe.augment is None:
        return images
    other = augment(
        images,
        rows,
        config.recipe.augment,
        mirror=config.data.mirror,
        seed=config.seed,
        epoch=epoch,
    )
    return other.contiguous(memory_format=torch.channels_last)
