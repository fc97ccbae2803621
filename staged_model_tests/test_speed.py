"""It is not much slower than what serves now."""

import time
from collections.abc import Callable

import numpy as np

from pulmo.core.ports import Check
from pulmo.core.preprocess import Pixels
from pulmo.inference.engine import Engine, load
from pulmo.jobs.staged import Case

ROUNDS = 25


def test_it_is_about_as_fast_as_the_champion(case: Case, show: Callable[..., None]) -> None:
    contenders = [case.candidate] + ([case.champion] if case.champion else [])
    # One thread each: the spinning threads of one engine would slow the other.
    pairs = [(load(c.bundle, threads=1), c.pixels[:1]) for c in contenders]
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
