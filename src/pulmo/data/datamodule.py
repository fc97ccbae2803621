"""Training and validation samples in batches, in an order keyed by seed and epoch."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler, SequentialSampler

from pulmo.core.randomness import permutation

Batch = tuple[Tensor, Tensor, Tensor]  # inputs, labels, rows


@dataclass(frozen=True)
class Samples:
    """The rows of `inputs` [m, …] (uint8 pixels, perhaps memory-mapped, or float32 embeddings) that
    are samples: rows int64 [n] and their labels int64 [n]. The row also keys the randomness.
    """

    inputs: NDArray[np.uint8] | NDArray[np.float32]
    rows: NDArray[np.int64]
    labels: NDArray[np.int64]


class SampleDataset(Dataset[Batch]):
    """Whole batches by a list of positions: one copy out of memory, no per-sample work."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples.labels)

    def __getitem__(self, positions: list[int]) -> Batch:
        rows = self.samples.rows[positions]
        inputs = torch.from_numpy(self.samples.inputs[rows])
        labels = torch.from_numpy(self.samples.labels[positions])
        return inputs, labels, torch.from_numpy(rows)


class KeyedBatches(Sampler[list[int]]):
    """A new order every epoch, decided by (seed, epoch) alone; Lightning calls `set_epoch`.

    A last batch of one sample is left out, since batch statistics need two. `given` counts the
    batches of the running epoch; the first `begin` of the next one asked for are left out.
    """

    def __init__(self, n: int, batch_size: int, seed: int) -> None:
        self.n, self.batch_size, self.seed, self.epoch = n, batch_size, seed, 0
        self.given = self.begin = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of this epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self._starts())

    def __iter__(self) -> Iterator[list[int]]:
        order = permutation(self.seed, self.epoch, self.n).tolist()
        self.given, self.begin = self.begin, 0
        for start in self._starts()[self.given :]:
            self.given += 1
            yield order[start : start + self.batch_size]

    def _starts(self) -> range:
        alone = self.n > 1 and self.n % self.batch_size == 1
        return range(0, self.n - 1 if alone else self.n, self.batch_size)


class SampleDataModule(pl.LightningDataModule):
    """Loaders of training and validation samples that lie in memory.

    Its state, which Lightning stores in a checkpoint, is the position inside an epoch.
    """

    def __init__(self, train: Samples, val: Samples, *, batch_size: int, seed: int) -> None:
        super().__init__()
        self.train, self.val, self.batch_size = train, val, batch_size
        self.batches = KeyedBatches(len(train.labels), batch_size, seed)

    def state_dict(self) -> dict[str, int]:
        """How many batches of the running epoch were given out; 0 when it is over."""
        return {"batches": self.batches.given % len(self.batches)}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Leave that many batches out of the next epoch."""
        self.batches.begin = state_dict["batches"]

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled anew every epoch."""
        return DataLoader(SampleDataset(self.train), sampler=self.batches, batch_size=None)

    def val_dataloader(self) -> DataLoader[Batch]:
        """In order, in larger batches: no gradients are kept."""
        dataset = SampleDataset(self.val)
        batches = BatchSampler(SequentialSampler(dataset), 4 * self.batch_size, drop_last=False)
        return DataLoader(dataset, sampler=batches, batch_size=None)
