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
from pulmo.errors import DataError

Batch = tuple[Tensor, Tensor, Tensor]  # inputs, labels, rows


@dataclass(frozen=True)
class Samples:
    """The rows of `inputs` [m, …] (uint8 pixels, perhaps memory-mapped, float32 embeddings, float16
    feature maps) that are samples: rows int64 [n] and their labels int64 [n]. The row also keys the
    randomness.
    """

    inputs: NDArray[np.uint8] | NDArray[np.float32] | NDArray[np.float16]
    rows: NDArray[np.int64]
    labels: NDArray[np.int64]


class SampleDataset(Dataset[Batch]):
    """Whole batches by a list of positions: one copy out of memory, no per-sample work.

    With a `home` all samples are moved to that device once, and batches are taken there.
    """

    def __init__(self, samples: Samples, home: torch.device | None = None) -> None:
        self.samples, self.home = samples, home
        if home is not None:
            self._inputs = torch.from_numpy(samples.inputs[samples.rows]).to(home)
            self._labels = torch.from_numpy(samples.labels).to(home)

    def __len__(self) -> int:
        return len(self.samples.labels)

    def __getitem__(self, positions: list[int]) -> Batch:
        rows = self.samples.rows[positions]
        if self.home is not None:
            index = torch.tensor(positions, device=self.home)
            return self._inputs[index], self._labels[index], torch.from_numpy(rows)
        inputs = torch.from_numpy(self.samples.inputs[rows])
        labels = torch.from_numpy(self.samples.labels[positions])
        return inputs, labels, torch.from_numpy(rows)


class KeyedBatches(Sampler[list[int]]):
    """A new order every epoch, decided by (seed, epoch) alone; Lightning calls `set_epoch`.

    Of `size` processes each gets its share of every batch, and all together the batches that one
    alone would get. A last batch of less than two samples each is left out, since batch statistics
    need two. `given` counts the batches of the running epoch; the first `begin` of the next one
    asked for are left out.
    """

    def __init__(self, n: int, batch_size: int, seed: int, rank: int = 0, size: int = 1) -> None:
        self.n, self.batch_size, self.seed, self.epoch = n, batch_size, seed, 0
        self.rank, self.size = rank, size
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
            yield order[start : start + self.batch_size][self.rank :: self.size]

    def _starts(self) -> range:
        last = self.n % self.batch_size
        short = self.n > last and last < 2 * self.size
        return range(0, self.n - last if short else self.n, self.batch_size)


class SampleDataModule(pl.LightningDataModule):
    """Loaders of training and validation samples that lie in memory, or on the device `home`.

    Each of `size` processes has its share of both: of every training batch, and a run of the
    validation samples. Its state, which Lightning stores in a checkpoint, is the position inside
    an epoch. Raises DataError where a process would have nothing to validate.
    """

    def __init__(
        self,
        train: Samples,
        val: Samples,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        size: int = 1,
        home: torch.device | None = None,
    ) -> None:
        super().__init__()
        if len(val.labels) < size:
            raise DataError(
                f"{size} processes share {len(val.labels)} validation pictures: start fewer"
            )
        self.train, self.val, self.batch_size = train, _share(val, rank, size), batch_size
        self.home = home
        self.batches = KeyedBatches(len(train.labels), batch_size, seed, rank, size)

    def state_dict(self) -> dict[str, int]:
        """How many batches of the running epoch were given out; 0 when it is over."""
        return {"batches": self.batches.given % len(self.batches)}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Leave that many batches out of the next epoch."""
        self.batches.begin = state_dict["batches"]

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled anew every epoch."""
        dataset = SampleDataset(self.train, self.home)
        return DataLoader(dataset, sampler=self.batches, batch_size=None)

    def val_dataloader(self) -> DataLoader[Batch]:
        """In order, in larger batches: no gradients are kept."""
        dataset = SampleDataset(self.val, self.home)
        batches = BatchSampler(SequentialSampler(dataset), 4 * self.batch_size, drop_last=False)
        return DataLoader(dataset, sampler=batches, batch_size=None)


def _share(samples: Samples, rank: int, size: int) -> Samples:
    """One of `size` runs of samples of about equal length."""
    n = len(samples.labels)
    part = slice(n * rank // size, n * (rank + 1) // size)
    return Samples(samples.inputs, samples.rows[part], samples.labels[part])
