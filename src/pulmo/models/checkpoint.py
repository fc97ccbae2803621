"""Checkpoints that are whole or not there, and the callback that takes them at step boundaries."""

import contextlib
import hashlib
import io
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins.io import CheckpointIO
from torch import Tensor

from pulmo import logs
from pulmo.errors import ModelError

log = logs.get_logger(__name__)

KEPT = 2
SUFFIX = ".ckpt"
COLUMNS = ("epoch", "step", "train_loss", "val_loss", "val_auroc")

Weights = dict[str, Tensor]


class Stopped(SystemExit):
    """A signal asked the training to stop; its checkpoint is saved. Exits with 128 + signal."""


class AtomicCheckpointIO(CheckpointIO):
    """A checkpoint file is a line with the SHA-256 of all that follows, then torch's own format.

    It appears whole under its name or not at all, and is read with `weights_only` alone.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write and sync a temporary file in the same folder, then give it its name.

        Raises ModelError where the disk refuses; what was saved before stays as it was.
        """
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        data = buffer.getbuffer()
        head = f"{hashlib.sha256(data).hexdigest()}\n".encode()
        try:
            _replace(Path(path), head, data)
        except OSError as error:
            raise ModelError(
                f"the checkpoint {path} cannot be written: {error.strerror or error}; earlier ones "
                "are whole: mend this, then run `pulmo train --resume`"
            ) from error

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """The verified checkpoint, its tensors on the CPU. Raises ModelError."""
        head, _, data = Path(path).read_bytes().partition(b"\n")
        if hashlib.sha256(data).hexdigest().encode() != head:
            raise ModelError(f"the checkpoint {path} is damaged: its bytes do not match its digest")
        loaded: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        return loaded

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint that may be gone already."""
        Path(path).unlink(missing_ok=True)


def newest(folder: Path) -> Path | None:
    """The newest checkpoint of `folder` that matches its digest; damaged ones are told."""
    for path in sorted(folder.glob(f"*{SUFFIX}"), reverse=True):
        try:
            AtomicCheckpointIO().load_checkpoint(path)
        except (ModelError, OSError) as error:
            log.warning("%s: an earlier one is taken", error)
            continue
        return path
    return None


def _replace(path: Path, *parts: bytes | memoryview) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    try:
        with temporary.open("wb") as stream:
            for part in parts:
                stream.write(part)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except BaseException:
        with contextlib.suppress(OSError):  # the first error is the one to tell
            temporary.unlink(missing_ok=True)
        raise


class Keeper(Checkpoint):
    """Saves at the end of every epoch, every `every` steps and when a signal asks to stop.

    Keeps the weights of the epoch with the least finite validation loss (`best`), stops after
    `patience` epochs without a better one, and writes `metrics.csv` beside `folder`. With `ema`
    the validated and kept weights are the running average w̄ ← ema·w̄ + (1 − ema)·w of every
    step. All of it lies in the one checkpoint file, so that best and last never disagree.
    """

    def __init__(
        self,
        folder: Path,
        *,
        every: int | None = None,
        patience: int | None = None,
        ema: float | None = None,
    ) -> None:
        self.folder, self.every, self.patience, self.ema = folder, every, patience, ema
        self.best: Weights | None = None
        self._least, self._waited = float("inf"), 0
        self._average: Weights | None = None
        self._raw: Weights | None = None
        self._history: list[list[float]] = []
        self._signal = 0

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {
            "best": self.best,
            "least": self._least,
            "waited": self._waited,
            "average": self._average,
            "history": self._history,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self.best, self._average = state_dict["best"], state_dict["average"]
        self._least, self._waited = state_dict["least"], state_dict["waited"]
        self._history = state_dict["history"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the signals over: Lightning would exit with 0, and leave a validation half-way."""
        if trainer.is_global_zero:
            for part in self.folder.glob(".*.part"):
                part.unlink(missing_ok=True)
        trainer.should_stop = self._tired()
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._ask)  # Lightning's teardown brings both back
            signal.signal(signal.SIGINT, self._ask)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Average; save inside an epoch. After its last step the end of the epoch saves."""
        if self.ema is not None:
            self._average = _averaged(self._average, _copy(pl_module), self.ema)
        if trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            return
        stop = trainer.strategy.reduce_boolean_decision(self._signal > 0, all=False)
        if stop or (self.every and trainer.global_step % self.every == 0):
            self._save(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Validate the average, where there is one."""
        if self._average is not None:
            self._raw = _copy(pl_module)
            pl_module.load_state_dict(self._average)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Train on with the raw weights."""
        if self._raw is not None:
            pl_module.load_state_dict(self._raw)
            self._raw = None

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Judge the epoch and save."""
        found = {name: float(value) for name, value in trainer.callback_metrics.items()}
        where = [float(trainer.current_epoch), float(trainer.global_step - 1)]
        self._history.append([*where, *(found[name] for name in COLUMNS[2:])])
        self._waited += 1
        if found["val_loss"] < self._least:  # never true for a loss that is not a number
            self._least, self._waited = found["val_loss"], 0
            self.best = _copy(pl_module) if self._average is None else dict(self._average)
        trainer.should_stop = self._tired()
        if trainer.is_global_zero:
            lines = (f"{int(e)},{int(s)},{t!r},{v!r},{a!r}" for e, s, t, v, a in self._history)
            table = "\n".join((",".join(COLUMNS), *lines)) + "\n"
            _replace(self.folder.parent / "metrics.csv", table.encode())
        self._save(trainer)

    def _tired(self) -> bool:
        return self.patience is not None and self._waited >= self.patience

    def _save(self, trainer: pl.Trainer) -> None:
        path = self.folder / f"{trainer.global_step:09d}{SUFFIX}"
        trainer.save_checkpoint(path)
        if trainer.is_global_zero:
            for old in sorted(self.folder.glob(f"*{SUFFIX}"), reverse=True)[KEPT:]:
                old.unlink()
        number = int(trainer.strategy.reduce(torch.tensor(self._signal), reduce_op="max"))
        if number:
            raise Stopped(128 + number)

    def _ask(self, number: int, _: object) -> None:
        if self._signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._signal = number
        log.info("stopping after this step")


def _copy(module: pl.LightningModule) -> Weights:
    return {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}


def _averaged(average: Weights | None, weights: Weights, decay: float) -> Weights:
    if average is None:
        return weights
    return {
        name: average[name].lerp(value, 1 - decay) if value.is_floating_point() else value
        for name, value in weights.items()
    }
