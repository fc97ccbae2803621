"""Several processes that train one model together, as torchrun starts them: who does what.

The first one does everything that one process alone would do; the others only train their share of
every batch, and write, print and register nothing.
"""

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pulmo.config.schema import Config
from pulmo.errors import ConfigError


@dataclass(frozen=True)
class Team:
    """Which of how many processes this one is; `here` of them run on this machine."""

    rank: int = 0
    size: int = 1
    here: int = 1

    @property
    def first(self) -> bool:
        """Whether this process does what is done once."""
        return self.rank == 0


def team() -> Team:
    """The processes that torchrun started; without it this one alone."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return Team()
    return Team(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")))


def check(config: Config) -> None:
    """Raise ConfigError where several processes cannot train this together."""
    size = team().size
    if size > 1 and config.recipe.kind != "finetune":
        raise ConfigError(
            f"recipe={config.recipe.kind} runs every picture through its frozen part once, which "
            "several processes cannot share: leave torchrun out, or take recipe=finetune"
        )
    if config.trainer.batch_size < 2 * size > 2:
        raise ConfigError(
            f"trainer.batch_size={config.trainer.batch_size} is the batch of all {size} processes, "
            f"and each needs two pictures of it: set it to {2 * size} or more"
        )


def assist(config: Config, data_dir: Path) -> None:
    """Train this process's share of the first one's run, whose folder it tells."""
    from pulmo.data.cache import open_pixels
    from pulmo.data.manifest import find
    from pulmo.jobs import run_folder
    from pulmo.jobs.fit import fit
    from pulmo.jobs.train import input_spec

    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # who waits for others hears no Python
    logging.getLogger("pulmo").setLevel(logging.WARNING)
    try:
        check(config)
    except ConfigError as error:  # the first process says it
        raise SystemExit(2) from error
    with _connected(config):
        folder = _told(None)
        if folder is None:
            return
        run_dir = Path(folder)
        dataset = find(data_dir, run_folder.read_lineage(run_dir).data_digest)
        config = run_folder.recorded(run_dir)
        fit(config, dataset, open_pixels(dataset, input_spec(config)), run_dir)


@contextmanager
def leading(config: Config, run_dir: Path) -> Iterator[None]:
    """Train with the others, where there are any: they are told the run's folder."""
    if team().size == 1:
        yield
        return
    with _connected(config):
        _told(str(run_dir.absolute()))
        yield


def dismiss(config: Config) -> None:
    """Tell the others, where there are any, that there is nothing to train."""
    if team().size > 1:
        with _connected(config):
            _told(None)


@contextmanager
def _connected(config: Config) -> Iterator[None]:
    """A process group that Lightning finds and takes over; each process has a GPU of its own."""
    import torch
    from torch import distributed

    gpu = config.trainer.accelerator != "cpu" and torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo")
    try:
        yield
    finally:
        distributed.destroy_process_group()


def _told(folder: str | None) -> str | None:
    """What the first process says."""
    import torch
    from torch import distributed

    said = [folder]
    distributed.broadcast_object_list(said, src=0, device=torch.device("cpu"))
    return said[0]
