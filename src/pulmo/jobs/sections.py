"""One measured split as a section of the report: figures, the worst mistakes, what to mind."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pulmo.core import metrics
from pulmo.core.bundle import Bundle, Estimate, Specification
from pulmo.core.curves import Curves
from pulmo.core.decision import Answer, positive_index
from pulmo.core.preprocess import Pixels
from pulmo.data.manifest import DataSet, Row
from pulmo.jobs import plots, report

MISTAKES = 12


@dataclass(frozen=True)
class Measured:
    """One split: n rows, labels and decided labels int64 [n], answers, and what follows from them.

    `decided` is what the rule says of every picture, also of those that are referred; `seen` counts
    the pictures that the model learned or was calibrated from.
    """

    split: str
    rows: tuple[Row, ...]
    labels: NDArray[np.int64]
    decided: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    answers: tuple[Answer, ...]
    metrics: dict[str, Estimate]
    curves: Curves
    seen: int

    @property
    def counts(self) -> dict[str, int]:
        """Pictures, patients, and how many answers were withheld."""
        return {
            "pictures": len(self.rows),
            "patients": len({row.patient for row in self.rows}),
            "referred": sum(answer.decision == "refer" for answer in self.answers),
            "out of distribution": sum(answer.label is None for answer in self.answers),
        }


def section(
    bundle: Bundle, dataset: DataSet, pixels: Pixels, part: Measured, out: Path
) -> report.Section:
    """One split as the report shows it; its figures are also written to `out`."""
    index = {row.path: i for i, row in enumerate(dataset.manifest.rows)}
    wrong = np.flatnonzero(part.decided != part.labels)
    surest = wrong[np.argsort(-_sureness(part)[wrong], kind="stable")][:MISTAKES]
    classes = bundle.info.specification.classes
    mistakes = [
        report.Mistake(
            pixels=pixels[index[part.rows[i].path]],
            path=part.rows[i].path,
            truth=classes[part.labels[i]],
            answer=classes[part.decided[i]],
            probability=float(_sureness(part)[i]),
            decision=_told(part.answers[i]),
        )
        for i in surest
    ]
    drawn = _figures(bundle.info.specification, part)
    for name, figure in drawn.items():
        (out / f"{part.split}_{name}.png").write_bytes(figure.png)
    return report.Section(
        split=part.split,
        note=_note(bundle, dataset, part),
        counts=part.counts,
        metrics=part.metrics,
        figures=tuple(drawn.values()),
        mistakes=mistakes,
        wrong=len(wrong),
    )


def _sureness(part: Measured) -> NDArray[np.float32]:
    sure: NDArray[np.float32] = part.probabilities[np.arange(len(part.decided)), part.decided]
    return sure


def _told(answer: Answer) -> str:
    if answer.label is None:
        return "not answered: out of distribution"
    return "referred to a human" if answer.decision == "refer" else "answered"


def _note(bundle: Bundle, dataset: DataSet, part: Measured) -> str:
    if dataset.manifest.digest != bundle.info.lineage.data_digest:
        told = "This is not the state of the data that the model was made from. "
    else:
        told = ""
    if part.split == "val":
        return told + "Threshold, temperature and refer band were chosen on it: it flatters."
    if part.seen:
        return told + f"The model has seen {part.seen} of these pictures: the figures flatter."
    return told + "The model has seen none of these pictures."


def _figures(spec: Specification, part: Measured) -> dict[str, report.Figure]:
    """The figures of one split by name; a curve that is undefined is left out."""
    values = {name: one.value for name, one in part.metrics.items()}
    positive, found = positive_index(spec), {}
    who = "means over the classes" if positive is None else f"positive: {spec.classes[positive]}"
    if "roc" in part.curves:
        png = plots.roc(part.curves["roc"], values["auroc"])
        found["roc"] = report.Figure(f"Ranking, {who}", "ROC curve", png)
        prevalence = None if positive is None else float(np.mean(part.labels == positive))
        png = plots.precision_recall(part.curves["pr"], values["auprc"], prevalence)
        found["pr"] = report.Figure(f"Finding, {who}", "precision-recall curve", png)
    png = plots.reliability(part.curves["reliability"], values["ece"])
    found["reliability"] = report.Figure(
        "On the diagonal a probability means what it says", "reliability diagram", png
    )
    counts = metrics.confusion(part.labels, part.decided, len(spec.classes))
    png = plots.confusion(counts, spec.classes)
    found["confusion"] = report.Figure(
        "Answers to all pictures, also the referred ones", "confusion matrix", png
    )
    found["scores"] = _histogram(spec, part, positive)
    return found


def _histogram(spec: Specification, part: Measured, positive: int | None) -> report.Figure:
    scores: NDArray[np.float64] = part.probabilities.astype(np.float64)
    decision = spec.decision
    band = (decision.refer_low, decision.refer_high)
    if positive is None:
        top, right = scores.max(axis=1), part.decided == part.labels
        parts = {"right": top[right], "wrong": top[~right]}
        png = plots.histogram(parts, "largest probability", None, band)
    else:
        of = scores[:, positive]
        parts = {name: of[part.labels == k] for k, name in enumerate(spec.classes)}
        png = plots.histogram(
            parts, f"probability of {spec.classes[positive]}", decision.threshold, band
        )
    return report.Figure("Scores by truth, and what is referred", "histogram of scores", png)
