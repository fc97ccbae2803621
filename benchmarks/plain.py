"""The peer: a plain PyTorch + timm fine-tune as people write it, with channels-last.

Files, split, network, weights, batch, learning rate and weights of the classes are those of the
configuration. What differs is what such a loop leaves as it comes: files are decoded by Pillow in
every epoch, to three channels; torchvision turns, shifts, zooms and changes brightness and contrast
by the recipe's amounts, and knows no gamma, stretch or sharpness; AdamW decays all weights by its
0.01; the rate follows a cosine from the first step, without warm-up; norms always train.
"""

import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from pulmo.config.schema import Config
from pulmo.core.metrics import auroc
from pulmo.data.manifest import DataSet
from pulmo.models.catalog import build

MEAN, STD = 0.5, 0.5


class Pictures(Dataset[tuple[Tensor, int]]):
    """Files and their classes."""

    def __init__(self, dataset: DataSet, split: str, change: Callable[[Image.Image], Tensor]):
        number = {name: i for i, name in enumerate(dataset.manifest.classes)}
        rows = [row for row in dataset.manifest.rows if row.split == split]
        self.files: list[tuple[Path, int]] = [(dataset.path(r), number[r.label]) for r in rows]
        self.change = change

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.files[index]
        with Image.open(path) as image:
            return self.change(image.convert("RGB")), label


def loaders(config: Config, dataset: DataSet) -> tuple[DataLoader, DataLoader, Tensor]:
    """Training and validation batches, and the weights of the classes."""
    side = (config.model.image_size, config.model.image_size)
    end = [transforms.ToTensor(), transforms.Normalize([MEAN] * 3, [STD] * 3)]
    plain = transforms.Compose([transforms.Resize(side), *end])
    chosen = config.recipe.augment
    changes: list[object] = []
    if chosen is not None:
        around = (1 - chosen.zoom, 1 + chosen.zoom)
        shift = (chosen.shift, chosen.shift)
        changes = [
            transforms.RandomAffine(chosen.rotate, translate=shift, scale=around),
            transforms.ColorJitter(chosen.brightness, chosen.contrast),
        ]
    changed = transforms.Compose([transforms.Resize(side), *changes, *end])
    train, val = Pictures(dataset, "train", changed), Pictures(dataset, "val", plain)
    counts = np.bincount([label for _, label in train.files])
    weights = torch.tensor(len(train) / counts / len(counts), dtype=torch.float32)
    workers = len(os.sched_getaffinity(0))
    size = config.trainer.batch_size
    more = {"num_workers": workers, "persistent_workers": True, "pin_memory": on_gpu(config)}
    return (
        DataLoader(train, size, shuffle=True, drop_last=True, **more),
        DataLoader(val, 4 * size, **more),
        weights,
    )


def on_gpu(config: Config) -> bool:
    """Whether the GPU trains."""
    return config.trainer.accelerator != "cpu" and torch.cuda.is_available()


def train(
    config: Config,
    dataset: DataSet,
    after_step: Callable[[int], None],
    after_epoch: Callable[[float], bool],
) -> None:
    """Train until `after_epoch` says that the AUROC on the validation split will do."""
    torch.manual_seed(config.seed)
    device = torch.device("cuda" if on_gpu(config) else "cpu")
    classes = len(dataset.manifest.classes)
    spec = config.model.network
    whole = build(spec, channels=3, classes=classes, weights=config.model.weights)
    body = whole.body.train()  # timm's own network, without what Pulmo puts around it
    network = nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), whole.head)
    network.to(device, memory_format=torch.channels_last)
    batches, val, weights = loaders(config, dataset)
    weights = weights.to(device)
    optimizer = torch.optim.AdamW(network.parameters(), config.recipe.learning_rate)
    steps = config.trainer.max_epochs * len(batches)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    mixed = torch.autocast("cuda", torch.bfloat16) if on_gpu(config) else nullcontext()
    for _ in range(config.trainer.max_epochs):
        network.train()
        for read, truth in batches:
            images, labels = _on(device, read), truth.to(device, non_blocking=True)
            optimizer.zero_grad(set_to_none=True)
            with mixed:
                loss = functional.cross_entropy(network(images), labels, weights)
            loss.backward()
            optimizer.step()
            schedule.step()
            after_step(len(labels))
        if after_epoch(_auroc(network, val, device)):
            return


def _on(device: torch.device, images: Tensor) -> Tensor:
    moved = images.to(device, non_blocking=True)
    return moved.contiguous(memory_format=torch.channels_last)


def _auroc(network: nn.Module, batches: DataLoader, device: torch.device) -> float:
    network.eval()
    found, labels = [], []
    with torch.inference_mode():
        for read, truth in batches:
            found.append(network(_on(device, read)).float().softmax(dim=1).cpu())
            labels.append(truth)
    scores = torch.cat(found).double().numpy()
    value = auroc(torch.cat(labels).numpy(), scores, 1 if scores.shape[1] == 2 else None)
    return float("nan") if value is None else float(value)


def forever(config: Config, dataset: DataSet, after_step: Callable[[int], None]) -> None:
    """Train on and on, without validation."""
    endless = config.model_copy(
        update={"trainer": config.trainer.model_copy(update={"max_epochs": 10_000})}
    )
    train(endless, dataset, after_step, lambda _: False)


def reached(config: Config, dataset: DataSet, target: float, most: int) -> tuple[float, float]:
    """Seconds until an epoch ends with that AUROC on validation data, and the AUROC; at most so
    many epochs, after which the seconds are infinite.
    """
    begun, best, took = time.perf_counter(), 0.0, float("inf")

    def after_epoch(value: float) -> bool:
        nonlocal best, took
        best = max(best, value)
        if value >= target:
            took = time.perf_counter() - begun
        return value >= target

    trainer = config.trainer.model_copy(update={"max_epochs": most})
    train(config.model_copy(update={"trainer": trainer}), dataset, lambda _: None, after_epoch)
    return took, best
