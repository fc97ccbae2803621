"""Training pictures to trained weights, by one of the recipes."""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from pytorch_lightning.loggers import Logger
from pytorch_lightning.profilers import Profiler
from torch import Tensor, nn

from pulmo.config.schema import Config
from pulmo.core.preprocess import Pixels
from pulmo.data.datamodule import SampleDataModule, Samples
from pulmo.data.manifest import DataSet
from pulmo.errors import DataError, UntrainableError
from pulmo.jobs import hardware, profiling, ranks
from pulmo.jobs.embedding import Known, changed, embedded, scaled, unpacked
from pulmo.jobs.run_folder import CHECKPOINTS
from pulmo.logs import get_logger
from pulmo.models.catalog import Network, build
from pulmo.models.checkpoint import AtomicCheckpointIO, Keeper, newest
from pulmo.models.module import ClassifierModule
from pulmo.models.stages import Embedder, split

log = get_logger(__name__)


@dataclass(frozen=True)
class Around:
    """Who is told of a training as it goes, and what frozen parts made of pictures before; `data`
    is the digest of the data set.
    """

    logger: Logger | None
    watch: pl.Callback | None
    known: Known
    data: str
    profiler: Profiler


def fit(
    config: Config,
    dataset: DataSet,
    pixels: Pixels,
    run_dir: Path,
    logger: Logger | None = None,
    watch: pl.Callback | None = None,
    known: Known | None = None,
) -> Network:
    """Train the configured network on the cached `pixels` [n, C, H, W] of the data set's rows.

    Writes `metrics.csv` and checkpoints to `run_dir` and goes on from the newest one there; a
    `logger` gets the metrics too, and `watch` may end the training by an error. The result is on
    the CPU, in evaluation mode, holds the weights of the epoch with the least validation loss, and
    its scores follow the class shares of the training data even where the loss was balanced.
    What a frozen part makes of pictures is taken from `known`, and left there for the next one.
    """
    _make_deterministic(config)
    hardware.keep_memory()
    train, val = (samples(dataset, pixels, split) for split in ("train", "val"))
    shares = _class_shares(train.labels, dataset.manifest.classes)
    network = build(
        config.model.network,
        channels=config.data.channels,
        classes=len(dataset.manifest.classes),
        weights=config.model.weights,
    )
    frozen, trained = _parts(network, config)
    hardware.check_space(network, trained, run_dir)
    weights = 1 / shares / np.mean(1 / shares) if config.recipe.balance else np.ones_like(shares)
    profiler = profiling.make(config.trainer.profiler, run_dir, gpu=hardware.uses_gpu(config))
    data = dataset.manifest.digest
    around = Around(logger, watch, {} if known is None else known, data, profiler)
    if frozen is not None:
        train = _through(frozen, train, config.recipe.views, config, around)
        val = _through(frozen, val, 1, config, around)
    module = _module(trained, config, torch.tensor(weights, dtype=torch.float32))
    _run(module, config, train, val, run_dir, around)
    if config.recipe.balance:  # undo the balanced loss: posterior ∝ balanced posterior × prior
        with torch.no_grad():
            network.head.bias.add_(torch.tensor(np.log(shares), dtype=torch.float32))
    return network.cpu().eval()


def samples(dataset: DataSet, pixels: Pixels, split: str) -> Samples:
    """The rows of one split with their labels as class numbers."""
    number = {name: i for i, name in enumerate(dataset.manifest.classes)}
    chosen = [(i, number[r.label]) for i, r in enumerate(dataset.manifest.rows) if r.split == split]
    if not chosen:
        raise DataError(f"the data set has no pictures in its split '{split}'")
    rows, labels = np.array(chosen, dtype=np.int64).T.copy()
    return Samples(pixels, rows, labels)


def _make_deterministic(config: Config) -> None:
    hardware.use_threads(config.trainer)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    pl.seed_everything(config.seed, workers=True, verbose=False)


def _class_shares(labels: NDArray[np.int64], classes: tuple[str, ...]) -> NDArray[np.float64]:
    counts = np.bincount(labels, minlength=len(classes))
    if (counts == 0).any():
        missing = ", ".join(c for c, n in zip(classes, counts, strict=True) if n == 0)
        raise DataError(f"no training picture shows {missing}: add some or set data.classes")
    shares: NDArray[np.float64] = counts / counts.sum()
    return shares


def _parts(network: Network, config: Config) -> tuple[nn.Module | None, nn.Module]:
    """What stays as it is, if anything does, and what is trained on that."""
    network.to(memory_format=torch.channels_last)
    kind = config.recipe.kind
    if kind == "finetune":
        return None, network
    if config.model.weights is None:
        log.warning("recipe=%s on random weights learns little: use recipe=finetune", kind)
    network.requires_grad_(False).eval()
    frozen, trained = (
        split(network, config.recipe.thaw)
        if kind == "partial"
        else (Embedder(network), network.head)
    )
    return frozen, trained.requires_grad_(True)


def _through(
    frozen: nn.Module, part: Samples, views: int, config: Config, around: Around
) -> Samples:
    """What the frozen part makes of views of samples, made here once."""
    inputs = embedded(frozen, part, config, views, around.profiler, around.known, around.data)
    return Samples(inputs, np.arange(len(inputs)), np.tile(part.labels, views))


def _module(trained: nn.Module, config: Config, weights: Tensor) -> ClassifierModule:
    """What trains on pictures, augmented as they come, or on what a frozen part made of them."""
    whole, norms = config.recipe.kind == "finetune", config.recipe.frozen_norms

    def prepare(inputs: Tensor, rows: Tensor, epoch: int) -> Tensor:
        if whole:
            return changed(scaled(inputs), rows.cpu().numpy(), config, epoch)
        return unpacked(inputs)

    return ClassifierModule(
        trained,
        config.recipe,
        class_weights=weights,
        seed=config.seed,
        prepare=prepare,
        prepare_plain=scaled if whole else unpacked,
        frozen_norms=config.model.weights is not None if norms is None else norms,
    )


def _run(
    module: ClassifierModule,
    config: Config,
    train: Samples,
    val: Samples,
    run_dir: Path,
    around: Around,
) -> None:
    """Run Lightning's loop, from the newest checkpoint if there is one; the best weights stay."""
    folder, team = run_dir / CHECKPOINTS, ranks.team()
    keeper = Keeper(
        folder,
        every=config.trainer.checkpoint_every,
        patience=config.trainer.patience,
        ema=config.recipe.ema,
    )
    start = newest(folder)
    if start is not None:
        log.info("going on from %s", start)
    with _without_tips():
        data = SampleDataModule(
            train,
            val,
            batch_size=config.trainer.batch_size,
            seed=config.seed,
            rank=team.rank,
            size=team.size,
            home=hardware.home(train, gpu=hardware.uses_gpu(config)),
        )
        trainer = _trainer(config, keeper, run_dir, around)
        trainer.fit(module, datamodule=data, ckpt_path=start)
    if keeper.best is None:
        raise UntrainableError("no epoch gave a finite validation loss: lower recipe.learning_rate")
    best = {k.removeprefix("model."): v for k, v in keeper.best.items()}
    module.model.cpu().load_state_dict(best)


def _trainer(config: Config, keeper: Keeper, run_dir: Path, around: Around) -> pl.Trainer:
    gpu, team = hardware.uses_gpu(config), ranks.team()
    return pl.Trainer(
        max_epochs=config.trainer.max_epochs,
        accelerator="gpu" if gpu else "cpu",
        devices=team.here,
        num_nodes=team.size // team.here,
        strategy="ddp" if team.size > 1 else "auto",
        use_distributed_sampler=False,  # each process takes its share by itself
        precision=hardware.precision(config.trainer, gpu=gpu),
        deterministic="warn" if gpu else True,
        logger=around.logger or False,
        callbacks=[keeper, *([around.watch] if around.watch else [])],
        plugins=[AtomicCheckpointIO()],
        profiler=around.profiler,
        default_root_dir=run_dir,
        enable_progress_bar=sys.stderr.isatty() and around.watch is None,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


@contextmanager
def _without_tips() -> Iterator[None]:
    """Keep Lightning's advice, none of which fits data that lie in memory, off the terminal."""
    lightning = logging.getLogger("pytorch_lightning")
    level = lightning.level
    lightning.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"(pytorch_lightning|lightning_fabric)\.")
            yield
    finally:
        lightning.setLevel(level)
