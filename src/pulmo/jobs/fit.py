"""Training pictures to trained weights, by one of the two recipes."""

import logging
import os
import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from pytorch_lightning.profilers import Profiler, PyTorchProfiler, SimpleProfiler
from torch import Tensor, nn

from pulmo.config.schema import Config
from pulmo.core.bundle import NetworkSpec
from pulmo.core.preprocess import Pixels
from pulmo.data.datamodule import SampleDataModule, Samples
from pulmo.data.manifest import DataSet
from pulmo.errors import DataError, ModelError
from pulmo.jobs.run_folder import CHECKPOINTS
from pulmo.logs import get_logger
from pulmo.models.augment import augment
from pulmo.models.catalog import Network, build
from pulmo.models.checkpoint import AtomicCheckpointIO, Keeper, newest
from pulmo.models.module import ClassifierModule
from pulmo.progress import track

log = get_logger(__name__)

EMBED_BATCH = 16  # larger ones spend their time on page faults


def fit(config: Config, dataset: DataSet, pixels: Pixels, run_dir: Path) -> Network:
    """Train the configured network on the cached `pixels` [n, C, H, W] of the data set's rows.

    Writes `metrics.csv` and checkpoints to `run_dir` and goes on from the newest one there. The
    result is on the CPU, in evaluation mode, holds the weights of the epoch with the least
    validation loss, and its scores follow the class shares of the training data even where the
    loss was balanced.
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
    _check_space(network, config, run_dir)
    weights = 1 / shares / np.mean(1 / shares) if config.recipe.balance else np.ones_like(shares)
    train_by = _probe if config.recipe.kind == "probe" else _finetune
    train_by(network, config, train, val, torch.tensor(weights, dtype=torch.float32), run_dir)
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
    network: Network, config: Config, train: Samples, val: Samples, weights: Tensor, run_dir: Path
) -> None:
    """Train every weight on augmented pictures."""
    network.to(memory_format=torch.channels_last)

    def prepare(pixels: Tensor, rows: Tensor, epoch: int) -> Tensor:
        return _changed(_scaled(pixels), rows.cpu().numpy(), config, epoch)

    module = ClassifierModule(
        network,
        config.recipe,
        class_weights=weights,
        seed=config.seed,
        prepare=prepare,
        prepare_plain=_scaled,
    )
    _run(module, network, config, train, val, run_dir)


def _probe(
    network: Network, config: Config, train: Samples, val: Samples, weights: Tensor, run_dir: Path
) -> None:
    """Embed every picture once with the frozen body, then train the head alone."""
    if config.model.weights is None:
        log.warning("recipe=probe on random weights learns little: use recipe=finetune")
    network.requires_grad_(False).eval()
    network.head.requires_grad_(True)
    views = [_embed(network, train, config, view) for view in range(config.recipe.views)]
    embedded = Samples(
        np.concatenate(views),
        np.arange(len(views) * len(train.labels)),
        np.tile(train.labels, len(views)),
    )
    held_out = Samples(_embed(network, val, config, 0), np.arange(len(val.labels)), val.labels)
    module = ClassifierModule(
        network.head,
        config.recipe,
        class_weights=weights,
        seed=config.seed,
        prepare=lambda inputs, _rows, _epoch: inputs,
        prepare_plain=lambda inputs: inputs,
    )
    _run(module, network.head, config, embedded, held_out, run_dir)


def _embed(network: Network, part: Samples, config: Config, view: int) -> NDArray[np.float32]:
    """Embeddings float32 [n, D]; view 0 is the plain picture, the others are augmented."""
    device = torch.device("cuda" if _uses_gpu(config) else "cpu")
    network.to(device).to(memory_format=torch.channels_last)
    found: list[NDArray[np.float32]] = []
    starts = range(0, len(part.rows), EMBED_BATCH)
    with torch.inference_mode():
        for start in track(starts, "embedding", total=len(starts)):
            rows = part.rows[start : start + EMBED_BATCH]
            images = _scaled(torch.from_numpy(part.inputs[rows]).to(device))
            if view > 0:
                images = _changed(images, rows, config, view)
            found.append(network.embed(images).cpu().numpy())
    network.cpu()
    return np.concatenate(found)


def _scaled(pixels: Tensor) -> Tensor:
    return (pixels.float() / 255).contiguous(memory_format=torch.channels_last)


def _changed(images: Tensor, rows: NDArray[np.int64], config: Config, epoch: int) -> Tensor:
    if config.recipe.augment is None:
        return images
    changed = augment(
        images,
        rows,
        config.recipe.augment,
        mirror=config.data.mirror,
        seed=config.seed,
        epoch=epoch,
    )
    return changed.contiguous(memory_format=torch.channels_last)


def _run(
    module: ClassifierModule,
    model: nn.Module,
    config: Config,
    train: Samples,
    val: Samples,
    run_dir: Path,
) -> None:
    """Run Lightning's loop, from the newest checkpoint if there is one; the best weights stay."""
    folder = run_dir / CHECKPOINTS
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
        trainer = pl.Trainer(
            max_epochs=config.trainer.max_epochs,
            accelerator="gpu" if _uses_gpu(config) else "cpu",
            devices=1,
            precision=config.trainer.precision,
            deterministic="warn" if _uses_gpu(config) else True,
            logger=False,
            callbacks=[keeper],
            plugins=[AtomicCheckpointIO()],
            profiler=_profiler(config.trainer.profiler, run_dir),
            default_root_dir=run_dir,
            enable_progress_bar=sys.stderr.isatty(),
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        data = SampleDataModule(train, val, batch_size=config.trainer.batch_size, seed=config.seed)
        trainer.fit(module, datamodule=data, ckpt_path=start)
    if keeper.best is None:
        raise ModelError("no epoch gave a finite validation loss: lower recipe.learning_rate")
    model.cpu().load_state_dict({k.removeprefix("model."): v for k, v in keeper.best.items()})


def _profiler(name: str | None, run_dir: Path) -> Profiler | None:
    kinds: dict[str, type[Profiler]] = {"simple": SimpleProfiler, "pytorch": PyTorchProfiler}
    return kinds[name](dirpath=run_dir, filename="profile") if name is not None else None


def _check_space(network: Network, config: Config, run_dir: Path) -> None:
    """Say before the start what a full disk would say in the middle. Raises DataError.

    A checkpoint holds weights, two moments, the best weights and perhaps their average.
    """
    trained = network.head if config.recipe.kind == "probe" else network
    need = 3 * 5 * _bytes(trained) + 4 * _bytes(network)
    free = shutil.disk_usage(run_dir).free
    if free < need:
        raise DataError(
            f"{run_dir} lies on a disk with {free / 1e6:.0f} MB free; three checkpoints and a "
            f"bundle need about {need / 1e6:.0f} MB: make room or choose another run.dir"
        )


def _bytes(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in module.state_dict().values())


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


def _uses_gpu(config: Config) -> bool:
    if config.trainer.accelerator == "gpu" and not torch.cuda.is_available():
        raise ModelError("trainer.accelerator=gpu, but torch sees no GPU: use auto or cpu")
    return config.trainer.accelerator != "cpu" and torch.cuda.is_available()
