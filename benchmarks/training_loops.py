"""Training loops as processes: told by JSON lines how long to train, or to train to a figure.

`ours` is what `train` runs; `synthetic` the same with one batch that is there already; `hand` a
loop written by hand over the same cached data; `plain` the peer of `benchmarks.plain`.
"""

import argparse
import contextlib
import dataclasses
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from benchmarks import plain
from pulmo.config.compose import compose
from pulmo.config.schema import Config
from pulmo.config.settings import load as load_settings
from pulmo.data.cache import open_pixels
from pulmo.data.datamodule import Batch, SampleDataModule
from pulmo.data.manifest import DataSet, load
from pulmo.jobs import fit as fitting
from pulmo.jobs.train import input_spec
from pulmo.models.module import ClassifierModule

FIRST = 3  # losses that the arms must agree on
ENDLESS = 1000  # epochs


class Enough(Exception):  # noqa: N818 - no fault
    """Ends a training from inside."""


class Meter:
    """Counts pictures in windows of time; between two of them the loop stands still."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self._done, self._end = 0, 0.0
        self._begun = self._cpu = self._left_out = 0.0

    def step(self, pictures: int) -> None:
        """After every step."""
        if self._begun == 0.0:  # the first step: everything is there
            self._wait()
            return
        self._done += pictures
        if time.perf_counter() - self._left_out >= self._end:
            wall = time.perf_counter() - self._left_out - self._begun
            cpu = time.process_time() - self._cpu
            self._say({"done": self._done, "wall_s": wall, "cpu_s": cpu})
            self._wait()

    def leave_out(self, seconds: float) -> None:
        """Time in which no training was meant to be done."""
        self._left_out += seconds

    def _wait(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        while (line := sys.stdin.readline()) and json.loads(line)["do"] == "answers":
            self._say({"losses": self.losses[:FIRST]})
        if not line:
            sys.exit()
        self._done, self._left_out = 0, 0.0
        self._begun, self._cpu = time.perf_counter(), time.process_time()
        self._end = self._begun + json.loads(line)["seconds"]

    def _say(self, told: dict[str, Any]) -> None:
        print(json.dumps(told), flush=True)


class Metered(pl.Callback):
    """Tells a meter of every step, and leaves validation out."""

    def __init__(self, meter: Meter) -> None:
        self._meter, self._since = meter, 0.0

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Batch, _: int
    ) -> None:
        """Count."""
        if len(self._meter.losses) < FIRST:
            self._meter.losses.append(float(outputs["loss"]))
        self._meter.step(len(batch[1]))

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Stop the clock."""
        self._since = time.perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Start it again."""
        self._meter.leave_out(time.perf_counter() - self._since)


class Reached(pl.Callback):
    """Ends the training with the first epoch that is good enough."""

    def __init__(self, target: float) -> None:
        self.target, self.best, self.at = target, 0.0, float("inf")

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Look."""
        value = float(trainer.callback_metrics["val_auroc"])
        self.best = max(self.best, value)
        if value >= self.target:
            self.at = time.perf_counter()
            raise Enough


def ours(config: Config, dataset: DataSet, meter: Meter) -> None:
    """The product's own loop."""
    pixels = open_pixels(dataset, input_spec(config))
    with tempfile.TemporaryDirectory() as folder:
        fitting.fit(_endless(config), dataset, pixels, Path(folder), watch=Metered(meter))


def synthetic(config: Config, dataset: DataSet, meter: Meter) -> None:
    """The same over one batch that lies on the device, unchanged."""
    plain_loader = SampleDataModule.train_dataloader

    class Same:
        def __init__(self, loader: Any) -> None:
            (self._first, *_), self._length = itertools.islice(loader, 1), len(loader)
            if plain.on_gpu(config):
                self._first = tuple(one.cuda() for one in self._first)

        def __len__(self) -> int:
            return self._length

        def __iter__(self) -> Iterator[Batch]:
            return itertools.repeat(self._first, self._length)

    SampleDataModule.train_dataloader = lambda self: Same(plain_loader(self))  # type: ignore[method-assign,assignment,return-value]
    recipe = config.recipe.model_copy(update={"augment": None})
    ours(config.model_copy(update={"recipe": recipe}), dataset, meter)


def hand(config: Config, dataset: DataSet, meter: Meter) -> None:
    """A loop written by hand: the same batches, changes, network, loss and optimiser."""
    config = _endless(config)
    pixels = open_pixels(dataset, input_spec(config))
    caught: list[tuple[ClassifierModule, SampleDataModule]] = []

    def catch(trainer: pl.Trainer, module: Any, datamodule: Any, **_: Any) -> None:
        caught.append((module, datamodule))
        raise Enough

    pl.Trainer.fit = catch  # type: ignore[method-assign,assignment]
    with tempfile.TemporaryDirectory() as folder:
        try:
            fitting.fit(config, dataset, pixels, Path(folder))
        except Enough:
            _by_hand(*caught[0], config, meter)


def _by_hand(
    module: ClassifierModule, data: SampleDataModule, config: Config, meter: Meter
) -> None:
    device = torch.device("cuda" if plain.on_gpu(config) else "cpu")
    model, recipe = module.model.to(device), config.recipe
    weights = module.class_weights.to(device)  # type: ignore[operator]
    loader = data.train_dataloader()
    decayed = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": rest}]
    optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, weight_decay=0.0)
    warm = max(1, round(recipe.warmup * config.trainer.max_epochs * len(loader)))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (step + 1) / warm)
    mixed = torch.autocast("cuda", torch.bfloat16, enabled=plain.on_gpu(config))
    for epoch in range(config.trainer.max_epochs):
        data.batches.set_epoch(epoch)
        for inputs, truth, rows in loader:
            labels, prepared = truth.to(device), module.prepare(inputs.to(device), rows, epoch)
            with mixed:
                loss = torch.nn.functional.cross_entropy(model(prepared), labels, weights)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            if len(meter.losses) < FIRST:
                meter.losses.append(float(loss.detach()))
            meter.step(len(labels))


def to_target(config: Config, dataset: DataSet, target: float) -> tuple[float, float]:
    """Seconds from files to that AUROC on validation data by the product, and the AUROC."""
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        fresh = dataclasses.replace(dataset, folder=Path(folder))  # nothing is decoded there yet
        pixels = open_pixels(fresh, input_spec(config))
        watch = Reached(target)
        with contextlib.suppress(Enough):
            fitting.fit(config, fresh, pixels, Path(folder), watch=watch)
    return watch.at - begun, watch.best


LOOPS: dict[str, Callable[[Config, DataSet, Meter], None]] = {
    "ours": ours,
    "synthetic": synthetic,
    "hand": hand,
    "plain": lambda config, dataset, meter: plain.forever(config, dataset, meter.step),
}


def _endless(config: Config) -> Config:
    update = {"max_epochs": ENDLESS, "patience": None}
    return config.model_copy(update={"trainer": config.trainer.model_copy(update=update)})


def main() -> None:
    """What to run, and the overrides of its configuration."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("loop", choices=(*LOOPS, "target", "plain-target"))
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--target", type=float, default=0.98)
    said = parser.parse_args()
    config = compose(said.overrides)
    dataset = load(load_settings().data_dir, config.data.name)
    if said.loop in LOOPS:
        LOOPS[said.loop](config, dataset, Meter())
        return
    if said.loop == "target":
        seconds, best = to_target(config, dataset, said.target)
    else:
        seconds, best = plain.reached(config, dataset, said.target, config.trainer.max_epochs)
    print(json.dumps({"seconds": seconds if best >= said.target else None, "auroc": best}))


if __name__ == "__main__":
    main()
