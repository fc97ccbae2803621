"""The LightningModule: loss, optimiser and validation metrics of a network or of a head alone."""

import math
from collections.abc import Callable
from typing import Any, Self

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, distributed, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from pulmo.config.schema import RecipeConfig
from pulmo.core.metrics import auroc
from pulmo.errors import UntrainableError

Batch = tuple[Tensor, Tensor, Tensor]
Prepare = Callable[[Tensor, Tensor, int], Tensor]


class ClassifierModule(pl.LightningModule):
    """Trains `model` on (inputs, labels int64 [N], rows int64 [N]).

    `prepare(inputs, rows, epoch)` turns a training batch into the model's input, `prepare_plain`
    one of validation. `class_weights` float32 [K] weigh the loss. Logs `train_loss` (mean over its
    samples), `val_loss` and `val_auroc` once an epoch. A non-finite loss or gradient stops the run.
    With `frozen_norms` batch normalisation keeps its statistics. Several processes that share every
    batch minimise the loss of the whole batch, and log what holds for all of them.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: RecipeConfig,
        *,
        class_weights: Tensor,
        seed: int,
        prepare: Prepare,
        prepare_plain: Callable[[Tensor], Tensor],
        frozen_norms: bool = False,
    ) -> None:
        super().__init__()
        self.model, self.recipe, self.seed = model, recipe, seed
        self.prepare, self.prepare_plain = prepare, prepare_plain
        self.frozen_norms = frozen_norms
        self.register_buffer("class_weights", class_weights, persistent=False)
        self._seen: list[tuple[Tensor, Tensor]] = []
        self._lost, self._trained = 0.0, 0.0
        self.train()

    def train(self, mode: bool = True) -> Self:
        """Switch what behaves otherwise in training; frozen norms stay as in evaluation."""
        super().train(mode)
        if self.frozen_norms:
            for part in self.modules():
                if isinstance(part, _BatchNorm):
                    part.eval()
        return self

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the sums of an epoch that is not over."""
        checkpoint["sums"] = self._mean([self._lost, self._trained])

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the sums of that epoch."""
        self._lost, self._trained = checkpoint["sums"]

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Key what dropout draws by (seed, step, process), so that a resumed run repeats it."""
        step = self.global_step * self.trainer.world_size + self.trainer.global_rank
        torch.manual_seed((self.seed << 32) + step)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The weighted cross-entropy of one batch."""
        inputs, labels, rows = batch
        measured = self.trainer.profiler.profile  # type: ignore[attr-defined]
        # in mixed precision the coordinates of its resampling would be rounded to half a pixel
        with measured("augmentation"), torch.autocast(self.device.type, enabled=False):
            prepared = self.prepare(inputs, rows, self.current_epoch)
        with measured("forward"):
            logits = self.model(prepared)
        loss = self._loss(logits, labels, self.recipe.label_smoothing)
        loss, samples = self._share(loss, labels)
        with measured("waiting for the device"):
            value = float(loss.detach())
        self._check("loss", value)
        self._lost += value * samples
        self._trained += samples
        return loss

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Stop before a gradient that is not finite spoils the weights."""
        if self.trainer.precision == "16-mixed":  # its scaler skips such steps by design
            return
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        self._check("gradient's norm", float(nn.utils.get_total_norm(gradients)))

    def on_train_epoch_end(self) -> None:
        """Log the mean loss of the epoch's samples."""
        lost, trained = self._mean([self._lost, self._trained])
        self.log("train_loss", lost / trained)
        self._lost, self._trained = 0.0, 0.0

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Collect logits float32: the metrics are those of the whole validation set."""
        inputs, labels, _ = batch
        self._seen.append((self.model(self.prepare_plain(inputs)).float(), labels))

    def on_validation_epoch_end(self) -> None:
        """Log loss and AUROC of the validation set."""
        logits = self._of_all(torch.cat([logits for logits, _ in self._seen]))
        labels = self._of_all(torch.cat([labels for _, labels in self._seen]))
        self._seen.clear()
        self.log("val_loss", self._loss(logits, labels, 0.0), prog_bar=True)
        probabilities = logits.softmax(dim=1).cpu().numpy().astype(np.float64)
        positive = 1 if probabilities.shape[1] == 2 else None
        value = auroc(labels.cpu().numpy(), probabilities, positive)
        self.log("val_auroc", float("nan") if value is None else value, prog_bar=True)

    def configure_optimizers(self) -> dict[str, object]:  # type: ignore[override]
        """AdamW without decay on biases and norms; linear warm-up, then a cosine to zero."""
        optimizer = torch.optim.AdamW(self._groups())
        steps = max(1, int(self.trainer.estimated_stepping_batches))
        warmup = max(1, round(self.recipe.warmup * steps))

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / warmup
            return 0.5 * (1 + float(np.cos(np.pi * (step - warmup) / max(1, steps - warmup))))

        schedule = {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def _groups(self) -> list[dict[str, object]]:
        """Parameters that share a rate and a decay."""
        recipe, groups = self.recipe, list[dict[str, object]]()
        named = [(n, p) for n, p in self.model.named_parameters() if p.requires_grad]
        head_rate = recipe.head_learning_rate or recipe.learning_rate
        for in_head, rate in ((False, recipe.learning_rate), (True, head_rate)):
            own = [p for name, p in named if name.startswith("head.") == in_head]
            for parameters, decay in (
                ([p for p in own if p.ndim > 1], recipe.weight_decay),
                ([p for p in own if p.ndim <= 1], 0.0),
            ):
                if parameters:
                    groups.append({"params": parameters, "lr": rate, "weight_decay": decay})
        return groups

    def _check(self, name: str, value: float) -> None:
        if not math.isfinite(value):
            raise UntrainableError(
                f"the {name} is {value} at step {self.global_step}: nothing is kept; "
                "try a smaller recipe.learning_rate"
            )

    def _share(self, loss: Tensor, labels: Tensor) -> tuple[Tensor, float]:
        """This process's part of the whole batch's loss and of its number of samples.

        Its `loss` is a mean over weights; the mean over processes of what is returned is that of
        the whole batch, which is what averaged gradients then descend.
        """
        size = self.trainer.world_size
        if size == 1:
            return loss, len(labels)
        weights = self.class_weights
        assert isinstance(weights, Tensor)
        own = weights[labels].sum()
        whole = torch.stack([own, own.new_tensor(float(len(labels)))])
        distributed.all_reduce(whole)
        return loss * (own * size / whole[0]), float(whole[1]) / size

    def _mean(self, values: list[float]) -> list[float]:
        """The mean over processes."""
        if self.trainer.world_size == 1:
            return values
        told = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.all_reduce(told)
        return [float(value) / self.trainer.world_size for value in told]

    def _of_all(self, own: Tensor) -> Tensor:
        """The rows of all processes in their order."""
        if self.trainer.world_size == 1:
            return own
        told: list[Tensor] = [own] * self.trainer.world_size
        distributed.all_gather_object(told, own.cpu())
        return torch.cat(told).to(own.device)

    def _loss(self, logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
        weights = self.class_weights
        assert isinstance(weights, Tensor)
        return functional.cross_entropy(logits, labels, weights, label_smoothing=smoothing)
