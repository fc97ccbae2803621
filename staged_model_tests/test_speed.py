"""It costs about as much as what serves now: time and memory."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pulmo.core.ports import Check
from pulmo.core.preprocess import Pixels
from pulmo.inference.engine import Engine, load
from pulmo.jobs.staged import Case, Contender

ROUNDS = 25
PROCESSES = 2  # for each model


def test_it_is_about_as_fast_as_the_champion(case: Case, show: Callable[..., None]) -> None:
    # One thread each: the spinning threads of one engine would slow the other.
    pairs = [(load(c.bundle, threads=1), c.pixels[:1]) for c in _contenders(case)]
    for engine, pixels in pairs:
        _seconds(engine, pixels)  # warm
    # Interleaved, so that both meet the same noise of the machine.
    taken = np.array([[_seconds(*pair) for pair in pairs] for _ in range(ROUNDS)])
    medians = np.median(taken, axis=0)
    told = f"{medians[0] * 1000:.1f} ms a picture on one thread"
    if case.champion is None:
        show(Check("latency", True, f"{told}; there is no champion to compare with"))
        return
    ratio, limit = float(medians[0] / medians[1]), case.limits.latency_ratio
    show(
        Check("latency", ratio <= limit, f"{told}, {ratio:.2f} × the champion's, limit {limit:.1f}")
    )


def _seconds(engine: Engine, pixels: Pixels) -> float:
    begun = time.perf_counter()
    engine(pixels)
    return time.perf_counter() - begun


def test_it_takes_about_as_much_memory_as_the_champion(
    case: Case, show: Callable[..., None]
) -> None:
    contenders = _contenders(case)
    # A process each, in turn: what one model leaves behind is no part of the other's.
    rounds = PROCESSES if len(contenders) > 1 else 1
    taken = np.array([[_bytes(c) for c in contenders] for _ in range(rounds)])
    least = taken.min(axis=0)
    told = f"{least[0] / 2**20:.0f} MB in a process of its own"
    if case.champion is None:
        show(Check("memory", True, f"{told}; there is no champion to compare with"))
        return
    ratio, limit = float(least[0] / least[1]), case.limits.memory_ratio
    show(
        Check("memory", ratio <= limit, f"{told}, {ratio:.2f} × the champion's, limit {limit:.1f}")
    )


def _bytes(contender: Contender) -> int:
    """The most memory that a process held to answer a picture."""
    script = Path(__file__).with_name("footprint.py")
    command = [sys.executable, str(script), str(contender.bundle.path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"the model does not run alone: {done.stderr[-300:]}"
    return int(done.stdout)


def _contenders(case: Case) -> list[Contender]:
    return [case.candidate] + ([case.champion] if case.champion else [])
