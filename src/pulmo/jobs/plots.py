"""Figures as PNG bytes: equal numbers give equal bytes, in colours that colour-blind eyes tell."""

import csv
import io
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pulmo.errors import DataError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito 2008, "Color universal design".
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#6b7280"
DPI = 110
INK = "#1f2937"
MOST_NAMED = 20  # classes whose names and counts still fit into a confusion matrix

Points = Mapping[str, Sequence[float]]
Better = Callable[[float, float], float]  # max or min


def roc(points: Points, area: float | None) -> bytes:
    """The ROC curve `fpr`, `tpr`; `area` is written beside it."""
    figure, axes = _square("ROC curve", "1 − specificity", "sensitivity")
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--", label="chance")
    axes.plot(points["fpr"], points["tpr"], color=BLUE, linewidth=2, label=_named("AUROC", area))
    axes.legend(loc="lower right", frameon=False)
    return to_png(figure)


def precision_recall(points: Points, area: float | None, prevalence: float | None) -> bytes:
    """The precision-recall curve; `prevalence` is the precision of a guess, where there is one."""
    figure, axes = _square("Precision and recall", "recall", "precision")
    if prevalence is not None:
        axes.axhline(prevalence, color=GREY, linewidth=1, linestyle="--", label="chance")
    label = _named("AUPRC", area)
    axes.plot(points["recall"], points["precision"], color=BLUE, linewidth=2, label=label)
    axes.legend(loc="lower left", frameon=False)
    return to_png(figure)


def reliability(
    points: Points, error: float | None, plain: Points | None = None, before: float | None = None
) -> bytes:
    """Observed frequency by predicted probability; larger dots hold more pictures.

    `plain` and `before` are the same without temperature, drawn behind.
    """
    figure, axes = _square("Calibration", "predicted probability", "observed frequency")
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--", label="perfect")
    if plain is not None:
        _dots(axes, plain, ORANGE, _named("without temperature, ECE", before))
    told = "ECE" if plain is None else "with temperature, ECE"
    _dots(axes, points, BLUE, _named(told, error))
    axes.legend(loc="upper left", frameon=False, fontsize=8 if plain is not None else None)
    return to_png(figure)


def referral(points: Points, chosen: tuple[float, float] | None, confidence: float) -> bytes:
    """Accuracy of the answers that are given, by the share `referred`, with its interval.

    `chosen` is the share that the model refers by its own band, and its accuracy there.
    """
    figure, axes = _square("Referring", "share left to a human", "accuracy of the answers given")
    x, y = points["referred"], points["accuracy"]
    told = f"{confidence:.0%} interval"
    axes.fill_between(x, points["low"], points["high"], color=BLUE, alpha=0.15, lw=0, label=told)
    axes.plot(x, y, color=BLUE, linewidth=2, label="most doubtful first")
    if chosen is not None:
        axes.plot(*chosen, color=RED, marker="D", linestyle="none", label="this model's answers")
    lowest = min([*points["low"], *([] if chosen is None else chosen[1:])], default=0.0)
    furthest = max([0.5, *([] if chosen is None else chosen[:1])])
    axes.set(xlim=(-0.005, furthest + 0.01), ylim=(max(0.0, lowest - 0.02), 1.005))
    axes.legend(loc="lower right", frameon=False)
    return to_png(figure)


def severities(grid: NDArray[np.float64], names: Sequence[str], title: str) -> bytes:
    """Values 0..1 [corruptions, 1 + severities] as colours and numbers; NaN stays empty."""
    figure, axes = _square(title, "severity (0: unchanged)", "")
    lowest = min(0.5, float(np.nanmin(grid, initial=0.5)))
    axes.imshow(grid, cmap="viridis", vmin=lowest, vmax=1.0, aspect="auto")
    rows, columns = grid.shape
    axes.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5))
    axes.grid(visible=False)
    axes.set_xticks(range(columns), [str(i) for i in range(columns)])
    axes.set_yticks(range(rows), names)
    for (row, column), value in np.ndenumerate(grid):
        if np.isfinite(value):
            colour = "white" if value < lowest + 0.6 * (1 - lowest) else INK
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour,
                      fontsize=9)  # fmt: skip
    return to_png(figure)


def confusion(counts: NDArray[np.int64], classes: Sequence[str]) -> bytes:
    """Truth by answer, int64 [K, K]; colours are shares of a row."""
    figure, axes = _square("Confusion", "answer", "truth")
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1.15, aspect="equal")
    axes.set(xlim=(-0.5, len(classes) - 0.5), ylim=(len(classes) - 0.5, -0.5))
    axes.grid(visible=False)
    if len(classes) > MOST_NAMED:
        return to_png(figure)
    size = 11 if len(classes) <= 4 else 7
    short = [name if len(name) <= 14 else f"{name[:13]}…" for name in classes]
    turn = 0 if len(classes) <= 3 else 60
    axes.set_xticks(range(len(classes)), short, rotation=turn, ha="right" if turn else "center")
    axes.set_yticks(range(len(classes)), short, rotation=90 - turn if not turn else 0, va="center")
    for (row, column), count in np.ndenumerate(counts):
        colour = "white" if shares[row, column] > 0.6 else INK
        axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=size)
    return to_png(figure)


def histogram(
    parts: Mapping[str, NDArray[np.float64]],
    of: str,
    threshold: float | None,
    band: tuple[float, float],
) -> bytes:
    """How scores in 0..1 are spread in each named part, with threshold and refer band."""
    figure, axes = _square("Scores", of, "pictures (logarithmic)")
    if band[1] > band[0]:
        axes.axvspan(*band, color=GREY, alpha=0.18, linewidth=0, label="left to a human")
    edges = np.linspace(0, 1, 31).tolist()
    most = 1.0
    for (name, scores), colour in zip(parts.items(), (BLUE, ORANGE), strict=False):
        counts, *_ = axes.hist(scores, edges, color=colour, alpha=0.3)
        axes.hist(scores, edges, color=colour, histtype="step", linewidth=1.5, label=name)
        most = max(most, float(np.max(counts)))
    if threshold is not None:
        axes.axvline(threshold, color=INK, linewidth=1.2, linestyle="--", label="threshold")
    axes.set_yscale("log")
    axes.set(xlim=(0, 1), ylim=(0.7, most * 1.5))
    axes.legend(loc="upper center", fontsize=8, framealpha=0.9, edgecolor="none")
    return to_png(figure)


def training_curves(table: Path, out: Path) -> None:
    """Draw Lightning's `metrics.csv` (epoch, train_loss, val_loss, val_auroc) into the PNG `out`.

    Raises DataError where the table is missing or has no epochs.
    """
    columns = {name: _column(table, name) for name in ("train_loss", "val_loss", "val_auroc")}
    if not any(columns.values()):
        raise DataError(f"{table} has no epochs to draw: did the training end at once?")
    figure = canvas(7.6, 3.4)
    left, right = figure.subplots(1, 2)
    dress(left, "Loss", "epoch", "log loss")
    dress(right, "Ranking on validation data", "epoch", "AUROC")
    drawn = (
        (left, "train_loss", "training", ORANGE),
        (left, "val_loss", "validation", BLUE),
        (right, "val_auroc", "validation", BLUE),
    )
    for axes, name, label, colour in drawn:
        epochs, values = sorted(columns[name]), [columns[name][e] for e in sorted(columns[name])]
        if epochs:
            axes.plot(epochs, values, color=colour, linewidth=2, marker=".", label=label)
            axes.legend(frameon=False)
        axes.xaxis.get_major_locator().set_params(integer=True)
    out.write_bytes(to_png(figure))


def history(points: Sequence[tuple[int, float]], what: str, better: Better) -> bytes:
    """The value of every trial of a search, and the best one so far."""
    from matplotlib.ticker import MaxNLocator

    figure = canvas(7.6, 3.4)
    axes = figure.subplots()
    dress(axes, "Trials", "trial", what)
    numbers, values = [number for number, _ in points], [value for _, value in points]
    best = list(itertools.accumulate(values, better))
    axes.plot(numbers, values, color=ORANGE, marker="o", linestyle="none", label="trial")
    axes.step(numbers, best, where="post", color=BLUE, linewidth=2, label="best so far")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False)
    return to_png(figure)


def importance(shares: Mapping[str, float]) -> bytes:
    """How much each setting of a search decides; the shares add up to 1."""
    figure = canvas(7.6, 1.2 + 0.35 * len(shares))
    axes = figure.subplots()
    dress(axes, "What decides", "share of the importance", "")
    names = sorted(shares, key=lambda name: shares[name])
    axes.barh(names, [shares[name] for name in names], color=BLUE, height=0.6)
    axes.set(xlim=(0, 1))
    return to_png(figure)


def _column(table: Path, name: str) -> dict[int, float]:
    """The last finite value of a column in each epoch: Lightning leaves most cells empty."""
    try:
        with table.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        cells = [(int(row["epoch"]), float(row[name])) for row in rows if row.get(name)]
    except (OSError, KeyError, ValueError) as error:
        raise DataError(f"{table} holds no training curves: {error}") from error
    return {epoch: value for epoch, value in cells if np.isfinite(value)}


def _dots(axes: "Axes", points: Points, colour: str, label: str) -> None:
    count = np.asarray(points["count"], dtype=np.float64)
    area = 10 + 30 * count / max(count.max(initial=1.0), 1.0)
    x, y = points["confidence"], points["frequency"]
    axes.plot(x, y, color=colour, linewidth=1, label=label)
    axes.scatter(x, y, s=area, color=colour, clip_on=False, zorder=3)


def _named(what: str, value: float | None) -> str:
    return what if value is None else f"{what} {value:.3f}"


def canvas(width: float, height: float) -> "Figure":
    """An empty white figure of so many inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _square(title: str, x: str, y: str) -> "tuple[Figure, Axes]":
    figure = canvas(4.4, 4.2)
    axes = figure.subplots()
    dress(axes, title, x, y)
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.02))
    return figure, axes


def dress(axes: "Axes", title: str, x: str, y: str) -> None:
    """Title, labels, grid and spines as every figure has them."""
    axes.set_title(title, loc="left", color=INK, fontsize=12, fontweight="bold")
    axes.set_xlabel(x, color=INK)
    axes.set_ylabel(y, color=INK)
    axes.grid(visible=True, color="#e5e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, length=0)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color("#9ca3af")


def to_png(figure: "Figure") -> bytes:
    """A figure as PNG bytes without anything that changes from run to run."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
