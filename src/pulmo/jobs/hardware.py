"""What this machine has for a training: device, precision, room for pictures and checkpoints."""

import ctypes
import os
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import nn

from pulmo.config.schema import Config, TrainerConfig
from pulmo.errors import DataError, ModelError

if TYPE_CHECKING:
    from pulmo.data.datamodule import Samples
    from pulmo.models.catalog import Network

Precision = Literal["32-true", "16-mixed", "bf16-mixed"]
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # of mallopt(3)
_ALL, _AHEAD = 2**31 - 1, 64 * 2**20  # bytes
_GROUP = Path("/sys/fs/cgroup")
OF_FREE_MEMORY = 0.5  # of a GPU's free memory that pictures may take; the rest is for training


def keep_memory() -> None:
    """Let this process keep what it frees, where its C library is glibc.

    Tensors of some megabytes come and go at every step; given back to the system each time, the
    page faults of the next ones take half of a training's time on a CPU.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another system or C library
        return
    for option, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _ALL), (_TOP_PAD, _AHEAD)):
        mallopt(option, value)


def use_threads(trainer: TrainerConfig) -> None:
    """Let torch compute with `trainer.threads`; null leaves its own choice."""
    if trainer.threads is not None:
        torch.set_num_threads(trainer.threads)


def uses_gpu(config: Config) -> bool:
    """Whether a GPU trains. Raises ModelError where one is asked for that is not there."""
    if config.trainer.accelerator == "gpu" and not torch.cuda.is_available():
        raise ModelError("trainer.accelerator=gpu, but torch sees no GPU: use auto or cpu")
    return config.trainer.accelerator != "cpu" and torch.cuda.is_available()


def precision(trainer: TrainerConfig, *, gpu: bool) -> Precision:
    """The numbers to compute with: `auto` is what the device is fast in.

    Raises ModelError for bfloat16 on a device that only emulates it, tens of times slower.
    """
    if trainer.precision == "auto":
        if not gpu:
            return "32-true"
        return "bf16-mixed" if torch.cuda.is_bf16_supported(False) else "16-mixed"
    if trainer.precision == "bf16-mixed" and not gpu and not _cpu_has_bfloat16():
        raise ModelError(
            "trainer.precision=bf16-mixed, but this processor computes no bfloat16 (AVX512-BF16 or "
            "AMX): use auto or 32-true"
        )
    if trainer.precision == "16-mixed" and not gpu:
        raise ModelError("trainer.precision=16-mixed needs a GPU: use auto or 32-true")
    return trainer.precision


def home(samples: "Samples", *, gpu: bool) -> torch.device | None:
    """The device on which all these samples fit beside a training; None: they stay in memory."""
    if not gpu:
        return None
    one = int(np.prod(samples.inputs.shape[1:])) * samples.inputs.itemsize
    free, _ = torch.cuda.mem_get_info()
    fits = one * len(samples.rows) <= OF_FREE_MEMORY * free
    return torch.device("cuda", torch.cuda.current_device()) if fits else None


def free_memory() -> int:
    """Bytes of memory that this process can still have; all there is where nothing is told."""
    told = Path("/proc/meminfo")
    found = re.search(r"MemAvailable: +(\d+) kB", told.read_text()) if told.exists() else None
    if found is None:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(1024 * int(found[1]), _free_in_container())


def _free_in_container() -> int:
    """Bytes that the control group of a container leaves (Linux, version 2), if it has a bound.

    What it holds of files, the page cache, can be given back.
    """
    try:
        most = (_GROUP / "memory.max").read_text().strip()
        used = int((_GROUP / "memory.current").read_text())
        stat = (_GROUP / "memory.stat").read_text()
        cached = re.findall(r"^(?:in)?active_file (\d+)$", stat, re.MULTILINE)
    except (OSError, ValueError):
        return sys.maxsize
    if most == "max":
        return sys.maxsize
    return max(int(most) - used + sum(map(int, cached)), 0)


def check_space(network: "Network", trained: nn.Module, run_dir: Path) -> None:
    """Say before the start what a full disk would say in the middle. Raises DataError.

    A checkpoint holds what is `trained`, two moments, the best weights and perhaps their average.
    """
    need = 3 * 5 * _bytes(trained) + 4 * _bytes(network)
    free = shutil.disk_usage(run_dir).free
    if free < need:
        raise DataError(
            f"{run_dir} lies on a disk with {free / 1e6:.0f} MB free; three checkpoints and a "
            f"bundle need about {need / 1e6:.0f} MB: make room or choose another run.dir"
        )


def _bytes(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in module.state_dict().values())


def _cpu_has_bfloat16() -> bool:
    asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, bool)() for name in asked)
