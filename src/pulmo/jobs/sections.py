"""One measured split as a section of the report: figures, the worst mistakes, what to mind."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pulmo.core import metrics
from pulmo.core.bundle import Specification
from pulmo.core.decision import Answer, positive_index
from pulmo.core.overlay import blend
from pulmo.jobs import plots
from pulmo.jobs.measurement import Measured, Subject, scores
from pulmo.jobs.page import LABELS, Figure
from pulmo.jobs.report import Mistake, Section
from pulmo.jobs.robustness import SHOWN, Robustness

MISTAKES = 12


def section(subject: Subject, part: Measured, confidence: float, out: Path) -> Section:
    """One split as the report shows it; its figures are also written to `out`."""
    wrong = np.flatnonzero(part.decided != part.labels)
    surest = wrong[np.argsort(-_sureness(part)[wrong], kind="stable")][:MISTAKES]
    drawn = _figures(subject.spec, part, confidence)
    _write(drawn, part.split, out)
    return Section(
        split=part.split,
        note=_note(subject, part),
        counts=part.counts,
        metrics=part.metrics,
        plain=part.plain,
        slices=part.slices,
        figures=tuple(drawn.values()),
        mistakes=_mistakes(subject, part, surest),
        wrong=len(wrong),
    )


def robustness_figures(found: Robustness, out: Path) -> tuple[Figure, ...]:
    """What corruption does to each metric, one figure each; they are also written to `out`."""
    names = tuple(found.cells)
    drawn = {
        name: Figure(
            f"{LABELS[name][0]} of {found.pictures} pictures",
            f"{LABELS[name][0]} by corruption and severity",
            plots.severities(found.grid(name), names, LABELS[name][0]),
        )
        for name in SHOWN
    }
    _write(drawn, "robustness", out)
    return tuple(drawn.values())


def _write(drawn: dict[str, Figure], prefix: str, out: Path) -> None:
    for name, figure in drawn.items():
        (out / f"{prefix}_{name}.png").write_bytes(figure.png)


def _mistakes(subject: Subject, part: Measured, chosen: NDArray[np.intp]) -> list[Mistake]:
    if not len(chosen):
        return []
    pixels = np.ascontiguousarray(subject.pixels[part.places[chosen]])
    saliency = subject.engine(pixels).saliency
    classes = subject.spec.classes
    return [
        Mistake(
            pixels=pixels[k],
            overlay=None if saliency is None else blend(pixels[k], saliency[k, part.decided[i]]),
            path=part.rows[i].path,
            truth=classes[part.labels[i]],
            answer=classes[part.decided[i]],
            probability=float(_sureness(part)[i]),
            decision=_told(part.answers[i]),
        )
        for k, i in enumerate(chosen)
    ]


def _sureness(part: Measured) -> NDArray[np.float32]:
    sure: NDArray[np.float32] = part.probabilities[np.arange(len(part.decided)), part.decided]
    return sure


def _told(answer: Answer) -> str:
    if answer.label is None:
        return "not answered: out of distribution"
    return "referred to a human" if answer.decision == "refer" else "answered"


def _note(subject: Subject, part: Measured) -> str:
    own, manifest = subject.bundle.info.lineage, subject.dataset.manifest
    if manifest.name == own.data_name and manifest.digest != own.data_digest:
        told = "This is not the state of the data that the model was made from. "
    else:
        told = ""
    if part.split == "val":
        return told + "Threshold, temperature and refer band were chosen on it: it flatters."
    if part.seen:
        return told + f"The model has seen {part.seen} of these pictures: the figures flatter."
    return told + "The model has seen none of these pictures."


def _figures(spec: Specification, part: Measured, confidence: float) -> dict[str, Figure]:
    """The figures of one split by name; a curve that is undefined is left out."""
    values = {name: one.value for name, one in part.metrics.items()}
    positive, found = positive_index(spec), {}
    who = "means over the classes" if positive is None else f"positive: {spec.classes[positive]}"
    if "roc" in part.curves:
        png = plots.roc(part.curves["roc"], values["auroc"])
        found["roc"] = Figure(f"Ranking, {who}", "ROC curve", png)
        prevalence = None if positive is None else float(np.mean(part.labels == positive))
        png = plots.precision_recall(part.curves["pr"], values["auprc"], prevalence)
        found["pr"] = Figure(f"Finding, {who}", "precision-recall curve", png)
    counts = metrics.confusion(part.labels, part.decided, len(spec.classes))
    png = plots.confusion(counts, spec.classes)
    found["confusion"] = Figure(
        "Answers to all pictures, also the referred ones", "confusion matrix", png
    )
    found["scores"] = _histogram(spec, part, positive)
    png = plots.reliability(
        part.curves["reliability"], values["ece"], part.plain_reliability, part.plain["ece"].value
    )
    found["reliability"] = Figure(
        "On the diagonal a probability means what it says", "reliability diagram", png
    )
    found["refer"] = _referral(part, confidence)
    return found


def _referral(part: Measured, confidence: float) -> Figure:
    given, right = part.metrics["accepted"].value, part.metrics["accuracy_accepted"].value
    chosen = None if given is None or right is None else (1 - given, right)
    png = plots.referral(part.refer, chosen, confidence)
    caption = "The more doubtful answers a human takes, the fewer of the rest are wrong"
    return Figure(caption, "accuracy by share referred", png)


def _histogram(spec: Specification, part: Measured, positive: int | None) -> Figure:
    of, decision = scores(part.probabilities, spec), spec.decision
    band = (decision.refer_low, decision.refer_high)
    if positive is None:
        right = part.decided == part.labels
        parts = {"right": of[right], "wrong": of[~right]}
        png = plots.histogram(parts, "largest probability", None, band)
    else:
        parts = {name: of[part.labels == k] for k, name in enumerate(spec.classes)}
        png = plots.histogram(
            parts, f"probability of {spec.classes[positive]}", decision.threshold, band
        )
    return Figure("Scores by truth, and what is referred", "histogram of scores", png)
