"""Pictures as a network takes them, and what the frozen part of one makes of them."""

import gc
import mmap

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning.profilers import Profiler
from torch import Tensor, nn

from pulmo.config.schema import Config
from pulmo.core.bundle import sha256
from pulmo.data.datamodule import Samples
from pulmo.errors import UntrainableError
from pulmo.jobs import hardware, profiling
from pulmo.models.augment import augment
from pulmo.progress import track

EMBED_BATCH = 16  # larger ones spend their time on page faults
OF_FREE_MEMORY = 0.8  # that may be filled; the rest is for training

Embedded = NDArray[np.float32] | NDArray[np.float16]
Known = dict[str, Embedded]


def embedded(
    lower: nn.Module,
    part: Samples,
    config: Config,
    views: int,
    profiler: Profiler,
    known: Known,
    data: str,
) -> Embedded:
    """What the frozen `lower` makes of `views` views of samples, as it is `known`, or made now and
    left there: embeddings float32 [views · n, D] or feature maps float16 [views · n, d, h, w].

    `data` is the digest of the data set that they are of.
    All samples of view 0, the plain picture, come first; the others are augmented. Raises
    UntrainableError for maps that float16 does not hold, and for more than fits into memory.
    """
    recipe = config.recipe
    cut = recipe.thaw if recipe.kind == "partial" else 0
    decides = (cut, config.seed, config.model, config.data, recipe.augment if views > 1 else None)
    key = sha256(f"{data} {views} {decides}".encode() + part.rows.tobytes())
    if key not in known:
        known[key] = _embed(lower, part, config, views, profiler, known)
    return known[key]


def unpacked(inputs: Tensor) -> Tensor:
    """Embeddings as they are; feature maps float16 [N, d, h, w] in float32, channels last."""
    if inputs.ndim < 4:
        return inputs
    return inputs.to(torch.float32, memory_format=torch.channels_last)


def _embed(
    lower: nn.Module,
    part: Samples,
    config: Config,
    views: int,
    profiler: Profiler,
    known: Known,
) -> Embedded:
    device = torch.device("cuda" if hardware.uses_gpu(config) else "cpu")
    lower.to(device).to(memory_format=torch.channels_last)
    n, whole = len(part.rows), None
    steps = [(view, start) for view in range(views) for start in range(0, n, EMBED_BATCH)]
    with torch.inference_mode():
        for view, start in track(steps, "embedding", total=len(steps)):
            with profiler.profile(profiling.EMBEDDING):
                rows = part.rows[start : start + EMBED_BATCH]
                with profiler.profile("reading a batch"):
                    pixels = torch.from_numpy(part.inputs[rows]).to(device)
                with profiler.profile("augmentation"):
                    images = scaled(pixels)
                    if view > 0:
                        images = changed(images, rows, config, view)
                found = _packed(lower(images), config)
                if whole is None:
                    whole = _room(found[0], views * n, known)
                first = view * n + start
                whole[first : first + len(rows)] = found.numpy()
    lower.cpu()
    assert whole is not None
    return whole


def _packed(found: Tensor, config: Config) -> Tensor:
    """Feature maps in half the bytes, on the CPU; embeddings in full."""
    if found.ndim < 4:
        return found.cpu()
    most = float(found.abs().max())
    if not most <= torch.finfo(torch.float16).max:
        raise UntrainableError(
            f"a feature map of {config.model.architecture} reaches {most:.3g}, more than its 16 "
            "bits hold: take recipe=finetune, or another recipe.thaw"
        )
    return found.half().cpu()


def _room(one: Tensor, n: int, known: Known) -> Embedded:
    """An array for n of these; what is known makes way where it must. Raises UntrainableError.

    A mapping of its own: unlike other memory (`hardware.keep_memory`) the system has it back at
    once when it is freed.
    """
    need = n * one.nbytes
    if need > OF_FREE_MEMORY * hardware.free_memory():
        known.clear()
        gc.collect()  # a training that is over holds its samples in cycles
    free = hardware.free_memory()
    if need > OF_FREE_MEMORY * free:
        raise UntrainableError(
            f"what the frozen part makes of {n} views of pictures takes {need / 1e9:.2f} GB, "
            f"{free / 1e9:.2f} GB of memory are free: lower recipe.views, model.image_size or "
            "recipe.thaw, or take recipe=finetune"
        )
    space = mmap.mmap(-1, need, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if one.dtype == torch.float16:
        return np.frombuffer(space, np.float16).reshape(n, *one.shape)
    return np.frombuffer(space, np.float32).reshape(n, *one.shape)


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
