"""What a machine can do is asked, not assumed."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pulmo.config.compose import compose
from pulmo.data.datamodule import Samples
from pulmo.errors import ModelError
from pulmo.jobs import hardware


def test_a_processor_computes_in_full_precision_unless_told() -> None:
    assert hardware.precision(compose([]).trainer, gpu=False) == "32-true"
    asked = compose(["trainer.precision=32-true"]).trainer
    assert hardware.precision(asked, gpu=True) == "32-true"


@pytest.mark.parametrize(("able", "expected"), [(True, "bf16-mixed"), (False, "16-mixed")])
def test_a_gpu_computes_in_what_it_is_fast_in(
    monkeypatch: pytest.MonkeyPatch, able: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: able)
    assert hardware.precision(compose([]).trainer, gpu=True) == expected


def test_numbers_that_a_processor_only_emulates_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    asked = compose(["trainer.precision=bf16-mixed"]).trainer
    with pytest.raises(ModelError, match="computes no bfloat16"):
        hardware.precision(asked, gpu=False)
    assert hardware.precision(asked, gpu=True) == "bf16-mixed"
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert hardware.precision(asked, gpu=False) == "bf16-mixed"
    with pytest.raises(ModelError, match="16-mixed needs a GPU"):
        hardware.precision(compose(["trainer.precision=16-mixed"]).trainer, gpu=False)


def test_pictures_live_on_a_gpu_where_they_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.zeros((10, 1, 8, 8), dtype=np.uint8)
    few = Samples(pixels, np.arange(5, dtype=np.int64), np.zeros(5, dtype=np.int64))
    assert hardware.home(few, gpu=False) is None
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (640, 9999))
    assert hardware.home(few, gpu=True) == torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (639, 9999))
    assert hardware.home(few, gpu=True) is None


def test_a_gpu_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert not hardware.uses_gpu(compose([]))
    with pytest.raises(ModelError, match="torch sees no GPU"):
        hardware.uses_gpu(compose(["trainer.accelerator=gpu"]))


def test_free_memory_is_what_the_system_says_or_all_there_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    everything = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < hardware.free_memory() <= everything
    monkeypatch.setattr(Path, "exists", lambda _: False)
    assert hardware.free_memory() == everything


def test_free_memory_is_no_more_than_a_container_leaves(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(hardware, "_GROUP", tmp_path)
    unbound = hardware.free_memory()
    for name, text in {
        "memory.max": "50000",
        "memory.current": "40000",
        "memory.stat": "anon 30000\ninactive_file 7000\nactive_file 3000\n",
    }.items():
        (tmp_path / name).write_text(f"{text}\n")
    assert hardware.free_memory() == 20000
    (tmp_path / "memory.max").write_text("max\n")
    assert hardware.free_memory() > unbound / 2


@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone is told to keep memory")
def test_memory_that_was_freed_is_not_fetched_from_the_system_again() -> None:
    code = """
import resource
import numpy as np
from pulmo.jobs.hardware import keep_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(50):
        np.ones(2**20).sum()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

np.ones(2**25).sum()  # what is freed at such a size is given back for sure
usual = faults()
keep_memory()
faults()
print(usual, faults())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    usual, kept = map(int, done.stdout.split())
    assert kept < 2_000, f"{usual} page faults before, {kept} after"
