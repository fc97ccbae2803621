"""Two models on the same pictures: how far apart they are, and where they disagree."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pulmo.config.schema import EvaluateConfig
from pulmo.core import metrics
from pulmo.core.bundle import Bundle, Estimate, Specification
from pulmo.core.decision import positive_index
from pulmo.core.metrics import Statistic
from pulmo.core.paired import difference
from pulmo.core.preprocess import Pixels
from pulmo.core.referral import mcnemar
from pulmo.data.manifest import DataSet
from pulmo.errors import ModelError, RefusedError
from pulmo.jobs.measurement import Measured, Subject, measure_split, statistics

COMPARISON = "comparison.json"
REPORT = "comparison.html"


@dataclass(frozen=True)
class Comparison:
    """A and B on the n pictures of one split; differences are those of A minus B.

    `parts` are what each of them says, in the classes' order of A; `delong` is the difference of
    AUROC with DeLong's interval, None where it is undefined. `only_a` and `only_b` count the
    pictures that one alone gets right, `p` is McNemar's of these two. `apart` are the places (of
    n) where the labels differ, the widest gap first.
    """

    names: tuple[str, str]
    bundles: tuple[Bundle, Bundle]
    dataset: DataSet
    classes: tuple[str, ...]
    parts: tuple[Measured, Measured]
    pixels: Pixels
    differences: dict[str, Estimate]
    delong: Estimate | None
    only_a: int
    only_b: int
    p: float
    apart: NDArray[np.intp]
    confidence: float

    def document(self) -> dict[str, Any]:
        """All of it as `comparison.json` has it."""
        first, second = self.parts
        return {
            "models": {
                letter: {
                    "asked_for": name,
                    "name": bundle.info.name,
                    "model_digest": bundle.info.model_digest,
                    "metrics": {key: one.model_dump() for key, one in part.metrics.items()},
                }
                for letter, name, bundle, part in zip(
                    "AB", self.names, self.bundles, self.parts, strict=True
                )
            },
            "data": {
                "name": self.dataset.manifest.name,
                "digest": self.dataset.manifest.digest,
                "split": first.split,
                "counts": {"pictures": first.counts["pictures"],
                           "patients": first.counts["patients"]},
            },
            "confidence": self.confidence,
            "differences": {key: one.model_dump() for key, one in self.differences.items()},
            "delong": None if self.delong is None else self.delong.model_dump(),
            "mcnemar": {"only_A_right": self.only_a, "only_B_right": self.only_b, "p": self.p},
            "disagreements": [
                {
                    "path": first.rows[i].path,
                    "label": first.rows[i].label,
                    "A": self._said(first, i),
                    "B": self._said(second, i),
                }
                for i in self.apart
            ],
        }  # fmt: skip

    def _said(self, part: Measured, place: int) -> dict[str, Any]:
        index = part.decided[place]
        return {
            "answer": self.classes[index],
            "probability": round(float(part.probabilities[place, index]), 6),
            "decision": part.answers[place].decision,
        }


def compare(
    names: tuple[str, str],
    bundles: tuple[Bundle, Bundle],
    dataset: DataSet,
    split: str,
    out: Path,
    config: EvaluateConfig,
) -> Comparison:
    """Measure both on `split`, paired, and write comparison.json and comparison.html.

    Raises ModelError where they do not answer the same question, RefusedError where either has
    seen any of the pictures: the comparison would favour it.
    """
    subjects = [Subject.of(bundle, dataset) for bundle in bundles]
    positive = _one_question(subjects[0].spec, subjects[1].spec)
    first, second = (measure_split(subject, split, config) for subject in subjects)
    for name, part in zip(names, (first, second), strict=True):
        if part.seen:
            raise RefusedError(
                f"{name} has seen {part.seen} of the {len(part.rows)} pictures of the split "
                f"{split}: compare on pictures that neither has seen, such as --split test"
            )
    second = _aligned(second, subjects[1].spec.classes, subjects[0].spec.classes)
    found = _compared(names, bundles, subjects[0], (first, second), positive, config)
    from pulmo.jobs.comparison_page import render

    out.mkdir(parents=True, exist_ok=True)
    document = json.dumps(found.document(), indent=2, allow_nan=False)
    (out / COMPARISON).write_text(f"{document}\n", encoding="utf-8")
    (out / REPORT).write_text(render(found), encoding="utf-8")
    return found


def _compared(
    names: tuple[str, str],
    bundles: tuple[Bundle, Bundle],
    subject: Subject,
    parts: tuple[Measured, Measured],
    positive: int | None,
    config: EvaluateConfig,
) -> Comparison:
    first, second = parts
    right = [part.decided == part.labels for part in parts]
    patients = [row.patient for row in first.rows]
    named = [
        statistics(part.labels, part.probabilities, part.decided, part.accepted, positive)
        for part in parts
    ]
    return Comparison(
        names=names,
        bundles=bundles,
        dataset=subject.dataset,
        classes=subject.spec.classes,
        parts=parts,
        pixels=subject.pixels,
        differences=metrics.bootstrap(
            {key: _minus(named[0][key], named[1][key]) for key in named[0]},
            patients,
            resamples=config.resamples,
            confidence=config.confidence,
            seed=subject.bundle.info.lineage.seed,
        ),
        delong=_delong(parts, patients, positive, config.confidence),
        only_a=int((right[0] & ~right[1]).sum()),
        only_b=int((right[1] & ~right[0]).sum()),
        p=mcnemar(right[0], right[1]),
        apart=_apart(first, second),
        confidence=config.confidence,
    )


def _one_question(first: Specification, second: Specification) -> int | None:
    """The positive class of both, as A numbers it; None where neither looks for one."""
    if sorted(first.classes) != sorted(second.classes):
        raise ModelError(
            f"the models know other classes: {', '.join(first.classes)} and "
            f"{', '.join(second.classes)}; compare models of one task"
        )
    wanted = {
        spec.decision.positive for spec in (first, second) if positive_index(spec) is not None
    }
    if len(wanted) > 1:
        raise ModelError(
            f"one model looks for {' and the other for '.join(sorted(map(str, wanted)))}"
        )
    return first.classes.index(str(wanted.pop())) if wanted else None


def _aligned(part: Measured, own: Sequence[str], wanted: Sequence[str]) -> Measured:
    """What a model says with its classes in another order."""
    order = [own.index(name) for name in wanted]
    number = np.argsort(order)
    return replace(
        part,
        labels=number[part.labels],
        decided=number[part.decided],
        probabilities=part.probabilities[:, order],
    )


def _minus(first: Statistic, second: Statistic) -> Statistic:
    """Paired: both see the same resample."""
    return lambda weights: first(weights) - second(weights)


def _delong(
    parts: tuple[Measured, Measured],
    patients: Sequence[str],
    positive: int | None,
    confidence: float,
) -> Estimate | None:
    first, second = parts
    one_sided = (1 + confidence) / 2
    asked = partial(difference, first.labels, patients, positive)
    down = asked(first.probabilities, second.probabilities, one_sided)
    up = asked(second.probabilities, first.probabilities, one_sided)
    if down is None or up is None:
        return None
    return Estimate(value=down[0], low=down[1], high=-up[1])


def _apart(first: Measured, second: Measured) -> NDArray[np.intp]:
    places = np.flatnonzero(first.decided != second.decided)
    gap = np.abs(first.probabilities - second.probabilities).max(axis=1)
    return places[np.argsort(-gap[places], kind="stable")]
