"""The LightningModule: loss, optimiser and validation metrics of a network or of a head alone."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from pulmo.config.schema import RecipeConfig
from pulmo.core.metrics import auroc
from pulmo.errors import ModelError

Batch = tuple[Tensor, Tensor, Tensor]
Prepare = Callable[[Tensor, Tensor, int], Tensor]


class ClassifierModule(pl.LightningModule):
    """Trains `model` on (inputs, labels int64 [N], rows int64 [N]).

    `prepare(inputs, rows, epoch)` turns a training batch into the model's input, `prepare_plain`
    one of validation. `class_weights` float32 [K] weigh the loss. Logs `train_loss` (mean over its
    samples), `val_loss` and `val_auroc` once an epoch. A non-finite loss or gradient stops the run.
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
    ) -> None:
        super().__init__()
        self.model, self.recipe, self.seed = model, recipe, seed
        self.prepare, self.prepare_plain = prepare, prepare_plain
        self.register_buffer("class_weights", class_weights, persistent=False)
        self._seen: list[tuple[Tensor, Tensor]] = []
        self._lost, self._trained = 0.0, 0

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the sums of an epoch that is not over."""
        checkpoint["sums"] = [self._lost, self._trained]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the sums of that epoch."""
        self._lost, self._trained = checkpoint["sums"]

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Key what dropout draws by (seed, step), so that a resumed run repeats it."""
        torch.manual_seed((self.seed << 32) + self.global_step)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The weighted cross-entropy of one batch."""
        inputs, labels, rows = batch
        logits = self.model(self.prepare(inputs, rows, self.current_epoch))
        loss = self._loss(logits, labels, self.recipe.label_smoothing)
        value = float(loss.detach())
        self._check("loss", value)
        self._lost += value * len(labels)
        self._trained += len(labels)
        return loss

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Stop before a gradient that is not finite spoils the weights."""
        if self.trainer.precision == "16-mixed":  # its scaler skips such steps by design
            return
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        self._check("gradient's norm", float(nn.utils.get_total_norm(gradients)))

    def on_train_epoch_end(self) -> None:
        """Log the mean loss of the epoch's samples."""
        self.log("train_loss", self._lost / self._trained)
        self._lost, self._trained = 0.0, 0

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Collect logits: the metrics are those of the whole validation set."""
        inputs, labels, _ = batch
        self._seen.append((self.model(self.prepare_plain(inputs)), labels))

    def on_validation_epoch_end(self) -> None:
        """Log loss and AUROC of the validation set."""
        logits = torch.cat([logits for logits, _ in self._seen])
        labels = torch.cat([labels for _, labels in self._seen])
        self._seen.clear()
        self.log("val_loss", self._loss(logits, labels, 0.0), prog_bar=True)
        probabilities = logits.softmax(dim=1).cpu().numpy().astype(np.float64)
        positive = 1 if probabilities.shape[1] == 2 else None
        value = auroc(labels.cpu().numpy(), probabilities, positive)
        self.log("val_auroc", float("nan") if value is None else value, prog_bar=True)

    def configure_optimizers(self) -> dict[str, object]:  # type: ignore[override]
        """AdamW without decay on biases and norms; linear warm-up, then a cosine to zero."""
        decayed = [p for p in self.model.parameters() if p.requires_grad and p.ndim > 1]
        plain = [p for p in self.model.parameters() if p.requires_grad and p.ndim <= 1]
        optimizer = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": self.recipe.weight_decay},
                {"params": plain, "weight_decay": 0.0},
            ],
            lr=self.recipe.learning_rate,
        )
        steps = max(1, int(self.trainer.estimated_stepping_batches))
        warmup = max(1, round(self.recipe.warmup * steps))

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / warmup
            return 0.5 * (1 + float(np.cos(np.pi * (step - warmup) / max(1, steps - warmup))))

        schedule = {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def _check(self, name: str, value: float) -> None:
        if not math.isfinite(value):
            raise ModelError(
                f"the {name} is {value} at step {self.global_step}: nothing is kept; "
                "try a smaller recipe.learning_rate"
            )

    def _loss(self, logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
        weights = self.class_weights
        assert isinstance(weights, Tensor)
        return functional.cross_entropy(logits, labels, weights, label_smoothing=smoothing)
