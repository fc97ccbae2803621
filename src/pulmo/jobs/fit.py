"""Training pictures to trained weights, by one of the two recipes."""

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
from torch import Tensor

from pulmo.config.schema import Config
from pulmo.core.bundle import NetworkSpec
from pulmo.core.preprocess import Pixels
from pulmo.data.datamodule import SampleDataModule, Samples
from pulmo.data.manifest import DataSet
from pulmo.errors import DataError, ModelError
from pulmo.jobs import hardware, profiling, ranks
from pulmo.jobs.embedding import Known, changed, embedded, scaled
from pulmo.jobs.run_folder import CHECKPOINTS
from pulmo.logs import get_logger
from pulmo.models.catalog import Network, build
from pulmo.models.checkpoint import AtomicCheckpointIO, Keeper, newest
from pulmo.models.module import ClassifierModule

log = get_logger(__name__)


@dataclass(frozen=True)
class Around:
    """Who is told of a training as it goes, and embeddings of earlier ones."""

    logger: Logger | None
    watch: pl.Callback | None
    known: Known
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
    What is embedded is taken from `known`, and left there for the next training.
    """
    _make_deterministic(config)
    train, val = (samples(dataset, pixels, split) for split in ("train", "val"))
    shares = _class_shares(train.labels, dataset.manifest.classes)
    network = build(
        NetworkSpec(architecture=config.model.architecture, options=config.model.options),
        channels=config.data.channels,
        classes=len(dataset.manifest.classes),
        weights=config.model.weights,
    )
    hardware.check_space(network, config, run_dir)
    weights = 1 / shares / np.mean(1 / shares) if config.recipe.balance else np.ones_like(shares)
    ready = _probe if config.recipe.kind == "probe" else _finetune
    profiler = profiling.make(config.trainer.profiler, run_dir, gpu=hardware.uses_gpu(config))
    loss_weights = torch.tensor(weights, dtype=torch.float32)
    around = Around(logger, watch, {} if known is None else known, profiler)
    module, train, val = ready(network, config, train, val, loss_weights, around)
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
    if config.trainer.threads is not None:
        torch.set_num_threads(config.trainer.threads)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    pl.seed_everything(config.seed, workers=True, verbose=False)


def _class_shares(labels: NDArray[np.int64], classes: tuple[str, ...]) -> NDArray[np.float64]:
    counts = np.bincount(labels, minlength=len(classes))
    if (counts == 0).any():
        missing = ", ".join(c for c, n in zip(classes, counts, strict=True) if n == 0)
        raise DataError(f"no training picture shows {missing}: add some or set data.classes")
    shares: NDArray[np.float64] = counts / counts.sum()
    return shares


def _finetune(
    network: Network,
    config: Config,
    train: Samples,
    val: Samples,
    weights: Tensor,
    _: Around,
) -> tuple[ClassifierModule, Samples, Samples]:
    """What trains every weight on augmented pictures."""
    frozen = config.recipe.frozen_norms
    network.to(memory_format=torch.channels_last)

    def prepare(pixels: Tensor, rows: Tensor, epoch: int) -> Tensor:
        return changed(scaled(pixels), rows.cpu().numpy(), config, epoch)

    module = ClassifierModule(
        network,
        config.recipe,
        class_weights=weights,
        seed=config.seed,
        prepare=prepare,
        prepare_plain=scaled,
        frozen_norms=config.model.weights is not None if frozen is None else frozen,
    )
    return module, train, val


def _probe(
    network: Network,
    config: Config,
    train: Samples,
    val: Samples,
    weights: Tensor,
    around: Around,
) -> tuple[ClassifierModule, Samples, Samples]:
    """What trains the head alone on embeddings of the frozen body, made here once."""
    if config.model.weights is None:
        log.warning("recipe=probe on random weights learns little: use recipe=finetune")
    network.requires_grad_(False).eval()
    network.head.requires_grad_(True)

    def embed(part: Samples, view: int) -> NDArray[np.float32]:
        return embedded(network, part, config, view, around.profiler, around.known)

    views = [embed(train, view) for view in range(config.recipe.views)]
    learned = Samples(
        np.concatenate(views),
        np.arange(len(views) * len(train.labels)),
        np.tile(train.labels, len(views)),
    )
    held_out = Samples(embed(val, 0), np.arange(len(val.labels)), val.labels)
    module = ClassifierModule(
        network.head,
        config.recipe,
        class_weights=weights,
        seed=config.seed,
        prepare=lambda inputs, _rows, _epoch: inputs,
        prepare_plain=lambda inputs: inputs,
    )
    return module, learned, held_out


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
        raise ModelError("no epoch gave a finite validation loss: lower recipe.learning_rate")
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
