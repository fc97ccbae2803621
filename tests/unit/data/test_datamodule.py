"""Batches hold the rows they should, in an order keyed by seed and epoch."""

import numpy as np

from pulmo.data.datamodule import KeyedSampler, SampleDataModule, Samples


def samples(n: int = 10) -> Samples:
    inputs = np.arange(100, dtype=np.uint8).reshape(100, 1)
    rows = np.arange(n, dtype=np.int64) * 3
    return Samples(inputs, rows, rows % 2)


def module(batch_size: int = 4, n: int = 10) -> SampleDataModule:
    return SampleDataModule(samples(n), samples(6), batch_size=batch_size, seed=0)


def test_every_training_sample_comes_once_an_epoch_with_its_label() -> None:
    seen = [
        (int(i), int(y), int(r)) for batch in module().train_dataloader() for i, y, r in zip(*batch)
    ]
    assert sorted(r for _, _, r in seen) == [3 * k for k in range(10)]
    assert all(value == row and label == row % 2 for value, label, row in seen)


def test_validation_is_in_order() -> None:
    rows = [int(r) for _, _, batch in module().val_dataloader() for r in batch]
    assert rows == [0, 3, 6, 9, 12, 15]


def test_an_epoch_has_its_own_order() -> None:
    sampler = KeyedSampler(20, seed=1)
    first = list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    assert first != second
    assert sorted(first) == sorted(second) == list(range(20))
    sampler.set_epoch(0)
    assert list(sampler) == first


def test_a_last_batch_of_one_is_left_out() -> None:
    sizes = [len(labels) for _, labels, _ in module(batch_size=3).train_dataloader()]
    assert sizes == [3, 3, 3]
    assert [len(y) for _, y, _ in module(batch_size=4).train_dataloader()] == [4, 4, 2]
