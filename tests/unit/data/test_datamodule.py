"""Batches hold the rows they should, in an order keyed by seed and epoch."""

from itertools import chain

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from pulmo.data.datamodule import Batch, KeyedBatches, SampleDataModule, Samples
from pulmo.errors import DataError


def samples(n: int = 10) -> Samples:
    inputs = np.arange(100, dtype=np.uint8).reshape(100, 1)
    rows = np.arange(n, dtype=np.int64) * 3
    return Samples(inputs, rows, rows % 2)


def module(batch_size: int = 4, n: int = 10) -> SampleDataModule:
    return SampleDataModule(samples(n), samples(6), batch_size=batch_size, seed=0)


def test_every_training_sample_comes_once_an_epoch_with_its_label() -> None:
    seen = [
        (int(i), int(y), int(r))
        for batch in module().train_dataloader()
        for i, y, r in zip(*batch, strict=True)
    ]
    assert sorted(r for _, _, r in seen) == [3 * k for k in range(10)]
    assert all(value == row and label == row % 2 for value, label, row in seen)


def test_validation_is_in_order() -> None:
    rows = [int(r) for _, _, batch in module().val_dataloader() for r in batch]
    assert rows == [0, 3, 6, 9, 12, 15]


def test_an_epoch_has_its_own_order() -> None:
    batches = KeyedBatches(20, batch_size=20, seed=1)
    (first,) = batches
    batches.set_epoch(1)
    (second,) = batches
    assert first != second
    assert sorted(first) == sorted(second) == list(range(20))
    batches.set_epoch(0)
    assert list(batches) == [first]


def test_a_last_batch_of_one_is_left_out() -> None:
    assert [len(batch) for batch in KeyedBatches(10, 3, seed=0)] == [3, 3, 3]
    assert [len(batch) for batch in KeyedBatches(10, 4, seed=0)] == [4, 4, 2]
    assert len(KeyedBatches(10, 3, seed=0)) == 3


def test_a_single_sample_is_a_batch() -> None:
    assert list(KeyedBatches(1, 4, seed=0)) == [[0]]
    assert list(KeyedBatches(2, 1, seed=0)) in ([[0], [1]], [[1], [0]])


def test_lightning_moves_to_the_next_order_by_itself() -> None:
    seen: list[list[int]] = []

    class Recorder(pl.LightningModule):
        def training_step(self, batch: Batch, batch_idx: int) -> None:
            seen.append(batch[2].tolist())

        def configure_optimizers(self) -> None:
            return None

    trainer = pl.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(Recorder(), datamodule=module(batch_size=10))
    assert len(seen) == 2
    assert seen[0] != seen[1]
    assert sorted(seen[0]) == sorted(seen[1])


@pytest.mark.parametrize(("n", "size"), [(40, 2), (43, 3), (9, 2), (6, 3)])
def test_processes_share_the_batches_of_one(n: int, size: int) -> None:
    whole = list(KeyedBatches(n, 8, seed=1))
    shares = [list(KeyedBatches(n, 8, seed=1, rank=rank, size=size)) for rank in range(size)]
    lengths = {len(share) for share in shares}
    assert len(lengths) == 1
    for number, batch in enumerate(whole[: len(shares[0])]):
        parts = [share[number] for share in shares]
        assert sorted(chain(*parts)) == sorted(batch)
        assert min(map(len, parts)) >= 2
    left_out = len(whole) - len(shares[0])
    assert left_out == (0 < n % 8 < 2 * size and n > 8 and len(whole[-1]) == n % 8)


def test_processes_validate_runs_of_what_one_would() -> None:
    modules = [
        SampleDataModule(samples(), samples(7), batch_size=4, seed=0, rank=rank, size=3)
        for rank in range(3)
    ]
    rows = [[int(r) for _, _, b in one.val_dataloader() for r in b] for one in modules]
    assert list(chain(*rows)) == [0, 3, 6, 9, 12, 15, 18]
    assert min(map(len, rows)) >= 2


def test_a_process_without_validation_samples_is_refused() -> None:
    with pytest.raises(DataError, match="3 processes share 2 validation pictures"):
        SampleDataModule(samples(), samples(2), batch_size=4, seed=0, rank=0, size=3)


def test_samples_that_live_on_a_device_are_the_same_there() -> None:
    home = torch.device("cpu")
    there = SampleDataModule(samples(), samples(6), batch_size=4, seed=0, home=home)
    for own, other in zip(there.train_dataloader(), module().train_dataloader(), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(own, other, strict=True))
