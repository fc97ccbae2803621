"""Ratios of windows with bootstrap intervals, and goals that are passed on the worse bound."""

import random
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from benchmarks.arms import Window

RESAMPLES = 5000
CONFIDENCE = 0.95
BUSY_CLIENT = 0.7  # beyond this share of its core the client may be what is measured

Round = dict[str, Window]


@dataclass(frozen=True)
class Row:
    """One figure: the median over the rounds, its interval, and whether it is good enough."""

    goal: str  # S1 … as the documentation numbers them
    what: str
    value: float
    low: float
    high: float
    limit: float | None = None
    better: Literal["more", "less"] = "more"
    unit: str = "×"
    cpu: float | None = None  # the same ratio in CPU-seconds per request
    notes: list[str] = field(default_factory=list)

    @property
    def reached(self) -> bool | None:
        """Whether the unfavourable bound is within the limit; None without one."""
        if self.limit is None:
            return None
        return self.low >= self.limit if self.better == "more" else self.high <= self.limit

    def document(self) -> dict[str, Any]:
        """As it is kept."""
        return {**asdict(self), "reached": self.reached}


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, and the percentile bootstrap of it."""
    draw = random.Random(0)
    medians = sorted(
        statistics.median(draw.choices(values, k=len(values))) for _ in range(RESAMPLES)
    )
    tail = (1 - CONFIDENCE) / 2
    low, high = medians[int(tail * RESAMPLES)], medians[int((1 - tail) * RESAMPLES) - 1]
    return statistics.median(values), low, high


def ratio(
    goal: str,
    what: str,
    rounds: Sequence[Round],
    above: str,
    below: str,
    limit: float | None = None,
) -> Row:
    """Requests a second of one arm ÷ another, round by round."""
    value, low, high = interval([one[above].rate / one[below].rate for one in rounds])
    cpu = statistics.median(_cost(one[below]) / _cost(one[above]) for one in rounds)
    rates = [statistics.median(one[name].rate for one in rounds) for name in (above, below)]
    notes = [f"{rates[0]:.1f} and {rates[1]:.1f} a second"]
    busiest = max(one[name].client for one in rounds for name in (above, below))
    if busiest > BUSY_CLIENT:
        notes.append(f"a lower bound: the client used {busiest:.0%} of its core")
    return Row(goal, what, value, low, high, limit, cpu=cpu, notes=notes)


def bound(
    goal: str,
    what: str,
    values: Sequence[float],
    limit: float,
    better: Literal["more", "less"],
    unit: str = "×",
) -> Row:
    """A figure of every round against a limit."""
    value, low, high = interval(values)
    return Row(goal, what, value, low, high, limit, better, unit)


def _cost(window: Window) -> float:
    return max(window.cpu_s, 1e-9) / max(window.done, 1)


def percentile(seconds: Sequence[float], share: float) -> float:
    """The value that `share` of the values do not exceed."""
    ordered = sorted(seconds)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]
