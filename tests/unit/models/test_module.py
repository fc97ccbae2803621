"""Several processes minimise the loss of the whole batch; frozen norms keep their statistics;
mixed precision is for the network alone.
"""

from pathlib import Path
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, distributed, nn
from torch.utils.data import DataLoader, TensorDataset

from pulmo.config.compose import compose
from pulmo.models.module import ClassifierModule


def module(model: nn.Module, *, frozen: bool = False) -> ClassifierModule:
    return ClassifierModule(
        model,
        compose(["recipe=finetune"]).recipe,
        class_weights=torch.tensor([0.5, 2.0]),
        seed=0,
        prepare=lambda inputs, _rows, _epoch: inputs,
        prepare_plain=lambda inputs: inputs,
        frozen_norms=frozen,
    )


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_norms_keep_their_statistics(frozen: bool) -> None:
    norm = nn.BatchNorm1d(3)
    norm.eval()  # as a network may come
    one = module(nn.Sequential(nn.Linear(3, 3), norm, nn.Dropout()), frozen=frozen)
    one.model(torch.randn(16, 3))
    assert torch.equal(norm.running_mean, torch.zeros(3)) == frozen
    assert one.model[2].training
    one.eval()
    one.train()
    assert norm.training != frozen


def test_the_shares_of_a_loss_average_to_that_of_the_whole_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = module(nn.Linear(3, 2))
    labels = torch.tensor([0, 1, 1, 0, 1, 0, 0])
    logits = torch.randn(7, 2, generator=torch.Generator().manual_seed(0))
    parts = [labels[0::2], labels[1::2]]
    weights = one.class_weights
    assert isinstance(weights, Tensor)
    sums = torch.stack(
        [torch.stack([weights[part].sum(), torch.tensor(float(len(part)))]) for part in parts]
    ).sum(dim=0)
    monkeypatch.setattr(distributed, "all_reduce", lambda tensor: tensor.copy_(sums))
    monkeypatch.setattr(ClassifierModule, "trainer", SimpleNamespace(world_size=2), raising=False)
    shares = [
        one._share(one._loss(logits[rank::2], part, 0.1), part) for rank, part in enumerate(parts)
    ]
    whole = one._loss(logits, labels, 0.1)
    assert sum(float(loss) for loss, _ in shares) / 2 == pytest.approx(float(whole), rel=1e-6)
    assert sum(samples for _, samples in shares) == 7


def test_mixed_precision_is_for_the_network_alone(tmp_path: Path) -> None:
    dtypes: dict[str, torch.dtype] = {}

    class Looked(nn.Linear):
        def forward(self, inputs: Tensor) -> Tensor:
            found = super().forward(inputs)
            dtypes["logits"] = found.dtype
            return found

    def prepare(inputs: Tensor, _rows: Tensor, _epoch: int) -> Tensor:
        dtypes["prepared"] = (inputs @ torch.eye(3)).dtype
        return inputs

    one = module(Looked(3, 2))
    one.prepare = prepare
    inputs = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
    rows = torch.arange(16)
    batches = DataLoader(TensorDataset(inputs, rows % 2, rows), batch_size=8)
    trainer = pl.Trainer(
        accelerator="cpu",
        precision="bf16-mixed",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(one, batches, batches)
    assert dtypes == {"prepared": torch.float32, "logits": torch.bfloat16}
    assert set(trainer.callback_metrics) == {"train_loss", "val_loss", "val_auroc"}
    assert all(value.isfinite() for value in trainer.callback_metrics.values())
