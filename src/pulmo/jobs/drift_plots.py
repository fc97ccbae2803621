"""Figures of drift: which features moved, how they were and are, and how it came about."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pulmo.core.drift import EMBEDDING, EXCHANGES, Report, features
from pulmo.core.neighbours import directions
from pulmo.core.sample import Floats, Sample
from pulmo.jobs.plots import BLUE, GREY, INK, ORANGE, RED, canvas, dress, to_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

USUAL, NOW = BLUE, ORANGE
COLUMNS = 3
POINTS = 2000  # of a long curve


def findings(report: Report) -> bytes:
    """The adjusted p-value of every feature, on a logarithmic axis, and the bound."""
    figure = canvas(5.6, 0.9 + 0.32 * len(report.findings))
    axes = figure.subplots()
    dress(axes, "What moved", "adjusted p-value (further right: less likely by chance)", "")
    least = min(1 / (EXCHANGES + 1), report.p)
    shown = list(reversed(report.findings))
    places = range(len(shown))
    for place, one in zip(places, shown, strict=True):
        colour = RED if one.drifted else BLUE
        axes.plot([1, one.p], [place, place], color=colour, linewidth=2)
        axes.plot([one.p], [place], color=colour, marker="o", markersize=6)
    axes.axvline(report.bound, color=INK, linewidth=1.2, linestyle="--")
    axes.text(report.bound, len(shown) - 0.4, f" alarm at {report.bound:g}", color=INK, fontsize=8)
    axes.set_xscale("log")
    axes.set(xlim=(1.3, least / 1.6), ylim=(-0.6, len(shown) - 0.1))
    axes.set_yticks(list(places), [one.name for one in shown])
    return to_png(figure)


def values(reference: Sample, window: Sample, report: Report) -> bytes:
    """The share of pictures below each value, reference and window, one panel a feature."""
    usual, now = features(reference), features(window)
    names = [name for name in usual if name in now]
    rows = -(-len(names) // COLUMNS)
    figure = canvas(8.4, 0.5 + 2.3 * rows)
    grid = np.atleast_1d(np.asarray(figure.subplots(rows, COLUMNS))).reshape(-1)
    for axes, name in zip(grid, names, strict=False):
        dress(axes, name, "", "share below")
        if name in report.drifted:
            axes.set_title(f"{name}: moved", loc="left", color=RED, fontsize=12, fontweight="bold")
        _steps(axes, usual[name], USUAL, "validation")
        _steps(axes, now[name], NOW, "now")
        axes.set_ylim(-0.02, 1.02)
    grid[0].legend(frameon=False, fontsize=8, loc="lower right")
    for axes in grid[len(names) :]:
        axes.set_visible(False)
    return to_png(figure)


def likeness(reference: Sample, window: Sample) -> bytes:
    """Embeddings of both on the two main directions of the reference's."""
    assert reference.embeddings is not None
    assert window.embeddings is not None
    usual, now = directions(reference.embeddings), directions(window.embeddings)
    middle = usual.mean(axis=0)
    main = np.linalg.svd(usual - middle, full_matrices=False)[2][:2]
    figure = canvas(4.4, 4.2)
    axes = figure.subplots()
    dress(axes, "Embeddings", "first main direction", "second")
    for part, colour, label in ((usual, USUAL, "validation"), (now, NOW, "now")):
        x, y = ((part - middle) @ main.T).T
        axes.scatter(x, y, s=16, color=colour, alpha=0.55, linewidths=0, label=label)
    axes.legend(frameon=False, loc="best")
    return to_png(figure)


def timeline(
    evidence: Floats, spacing: float, alarm: int | None, windows: Sequence[Report]
) -> bytes:
    """Evidence after every picture with its limit, and below it the p-value of every window."""
    figure = canvas(8.4, 4.8)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    dress(above, "Evidence of drift", "", "evidence")
    places, heights = _thinned(evidence)
    above.plot(places, np.maximum(heights, 1e-2), color=BLUE, linewidth=1.6)
    above.axhline(spacing, color=INK, linewidth=1.2, linestyle="--", label="alarm")
    if alarm is not None:
        above.axvline(alarm, color=RED, linewidth=1.6, label=f"alarm at picture {alarm:,}")
    above.set_yscale("log")
    top = max(float(heights.max(initial=1.0)), spacing)
    above.set_ylim(0.5, min(top, spacing * 1e4) * 4)
    above.legend(frameon=False, fontsize=8, loc="upper left")
    dress(below, "Windows", "pictures", "p-value")
    ends = np.cumsum([one.pictures for one in windows])
    for end, one in zip(ends.tolist(), windows, strict=True):
        colour = RED if one.alarm else BLUE
        below.plot([end - one.pictures, end], [one.p, one.p], color=colour, linewidth=2.5)
    below.axhline(windows[-1].bound, color=GREY, linewidth=1, linestyle="--")
    below.set_yscale("log")
    below.set_ylim(1.5, 0.6 / (EXCHANGES + 1))
    return to_png(figure)


def has_map(reference: Sample, window: Sample, report: Report) -> bool:
    """Whether both sides have embeddings to draw."""
    named = any(one.name == EMBEDDING for one in report.findings)
    return named and reference.embeddings is not None and window.embeddings is not None


def _steps(axes: "Axes", found: NDArray[np.float64], colour: str, label: str) -> None:
    ranked = np.sort(found)
    axes.step(ranked, np.arange(1, len(ranked) + 1) / len(ranked), where="post", color=colour,
              linewidth=1.8, label=label)  # fmt: skip


def _thinned(evidence: Floats) -> tuple[NDArray[np.int64], Floats]:
    """At most 2,000 points of a curve, each the largest of its stretch."""
    step = -(-len(evidence) // POINTS)
    starts = np.arange(0, len(evidence), step)
    return starts + 1, np.maximum.reduceat(evidence, starts)
