"""One model measured on chosen pictures of a data set: answers, figures, curves, slices."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from pulmo.config.schema import EvaluateConfig
from pulmo.core import metrics
from pulmo.core.bundle import Bundle, Estimate, Specification
from pulmo.core.calibration import softmax
from pulmo.core.curves import Curves, curves
from pulmo.core.decision import Answer, Decider, Outputs, labels_of, positive_index
from pulmo.core.gate import overlap
from pulmo.core.metrics import Labels, Mask
from pulmo.core.preprocess import Pixels
from pulmo.core.referral import refer_curve
from pulmo.data.cache import open_pixels
from pulmo.data.manifest import EXCLUDED, GATE, DataSet, Row
from pulmo.errors import DataError
from pulmo.inference.engine import Engine, load
from pulmo.jobs.slices import Slice, measure_slices
from pulmo.progress import track

BATCH = 32
CALIBRATION = ("ece", "brier", "log_loss")


@dataclass(frozen=True)
class Subject:
    """A model ready to be measured on one data set."""

    bundle: Bundle
    engine: Engine
    decider: Decider
    dataset: DataSet
    pixels: Pixels  # uint8 [rows, C, H, W], aligned with the manifest

    @classmethod
    def of(cls, bundle: Bundle, dataset: DataSet) -> "Subject":
        """Load the graph and decode the data set as this model wants it."""
        spec = bundle.info.specification
        decider = Decider(spec, bundle.reference().get("embeddings"))
        return cls(bundle, load(bundle), decider, dataset, open_pixels(dataset, spec.input))

    @property
    def spec(self) -> Specification:
        """The model's specification."""
        return self.bundle.info.specification


@dataclass(frozen=True)
class Measured:
    """n pictures: rows and their places in the manifest, labels and decided labels int64 [n],
    answers, and what follows from them.

    `decided` is what the rule says of every picture, also of those that are referred; `seen` counts
    the pictures that the model learned or was calibrated from. `plain` are calibration metrics and
    `plain_reliability` the curve of the logits without temperature.
    """

    split: str
    rows: tuple[Row, ...]
    places: NDArray[np.int64]
    labels: NDArray[np.int64]
    decided: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    answers: tuple[Answer, ...]
    metrics: dict[str, Estimate]
    curves: Curves
    plain: dict[str, Estimate]
    plain_reliability: dict[str, list[float]]
    refer: dict[str, list[float]]
    slices: tuple[Slice, ...]
    seen: int

    @property
    def accepted(self) -> Mask:
        """Which answers are given, bool [n]."""
        return accepted(self.answers)

    @property
    def counts(self) -> dict[str, int]:
        """Pictures, patients, and how many answers were withheld."""
        return {
            "pictures": len(self.rows),
            "patients": len({row.patient for row in self.rows}),
            "referred": sum(answer.decision == "refer" for answer in self.answers),
            "out of distribution": sum(answer.label is None for answer in self.answers),
        }


def measure(
    specification: Specification,
    reference: NDArray[np.float16] | None,
    outputs: Outputs,
    labels: Labels,
    patients: Sequence[str] | NDArray[np.str_],
    config: EvaluateConfig,
    seed: int,
) -> tuple[dict[str, Estimate], Curves]:
    """All metrics with intervals, and the curves, of n pictures with labels int64 [n].

    `reference` are the bundle's embeddings. Beside the metrics of `core.metrics`, which judge the
    answer to every picture: `accepted`, the share not referred, and `accuracy_accepted`.
    """
    given = accepted(Decider(specification, reference).answers(outputs))
    decided = labels_of(outputs.probabilities, specification)
    positive = positive_index(specification)
    named = statistics(labels, outputs.probabilities, decided, given, positive)
    found = metrics.bootstrap(
        named, patients, resamples=config.resamples, confidence=config.confidence, seed=seed
    )
    return found, curves(labels, outputs.probabilities, positive)


def statistics(
    labels: Labels,
    probabilities: NDArray[np.floating],
    decided: Labels,
    given: Mask,
    positive: int | None,
) -> dict[str, metrics.Statistic]:
    """What `measure` measures, as functions of weights; `given` [n]: which answers are given."""
    named = metrics.statistics(labels, probabilities, decided, positive)
    named["accepted"] = metrics.mean(given)
    named["accuracy_accepted"] = metrics.mean(decided == labels, given)
    return named


def measure_split(subject: Subject, split: str, config: EvaluateConfig) -> Measured:
    """The model on one split. Raises DataError where it is empty or shows other classes."""
    rows = subject.dataset.manifest.rows
    return measure_rows(subject, split, [i for i, row in enumerate(rows) if row.split == split],
                        config)  # fmt: skip


def measure_all(subject: Subject, config: EvaluateConfig) -> Measured:
    """The model on a whole data set that is not its own: but for the gate split, which is the
    staged tests' alone, and what its makers excluded.
    """
    rows = subject.dataset.manifest.rows
    chosen = [i for i, row in enumerate(rows) if row.split not in (GATE, EXCLUDED)]
    return measure_rows(subject, subject.dataset.manifest.name, chosen, config)


def measure_rows(
    subject: Subject, name: str, chosen: Sequence[int], config: EvaluateConfig
) -> Measured:
    """The model on the rows `chosen` of its data set's manifest, called `name`."""
    spec, bundle = subject.spec, subject.bundle
    rows = tuple(subject.dataset.manifest.rows[i] for i in chosen)
    labels = _labels(rows, spec, subject.dataset, name)
    outputs = _run(subject, chosen, name)
    patients = [row.patient for row in rows]
    seed = bundle.info.lineage.seed  # the figures of the validation split are those of the bundle
    reference = bundle.reference().get("embeddings")
    found, drawn = measure(spec, reference, outputs, labels, patients, config, seed)
    answers = tuple(subject.decider.answers(outputs))
    decided, positive = labels_of(outputs.probabilities, spec), positive_index(spec)
    plain = softmax(outputs.logits.astype(np.float64))
    judged = metrics.statistics(labels, plain, decided, positive)
    draw = partial(
        metrics.bootstrap,
        groups=patients,
        resamples=config.resamples,
        confidence=config.confidence,
        seed=seed,
    )
    return Measured(
        split=name,
        rows=rows,
        places=np.array(chosen, dtype=np.int64),
        labels=labels,
        decided=decided,
        probabilities=outputs.probabilities,
        answers=answers,
        metrics=found,
        curves=drawn,
        plain=draw({key: judged[key] for key in CALIBRATION}),
        plain_reliability=curves(labels, plain, positive)["reliability"],
        refer=refer_curve(
            decided == labels, scores(outputs.probabilities, spec), spec.decision.threshold, draw
        ),
        slices=measure_slices(
            rows, spec.classes, labels, outputs.probabilities, decided, accepted(answers),
            positive, config, seed,
        ),
        seen=overlap(bundle.members()["digests"], (row.pixels for row in rows)),
    )  # fmt: skip


def scores(probabilities: NDArray[np.float32], spec: Specification) -> NDArray[np.float64]:
    """What the decision rule looks at: the positive class's probability, or the largest one."""
    positive = positive_index(spec)
    wide: NDArray[np.float64] = probabilities.astype(np.float64)
    return np.max(wide, axis=1) if positive is None else wide[:, positive]


def accepted(answers: Sequence[Answer]) -> Mask:
    """Which of n answers are given and not referred, bool [n]."""
    return np.array([answer.decision == "accept" for answer in answers], dtype=bool)


def _labels(rows: Sequence[Row], spec: Specification, dataset: DataSet, name: str) -> Labels:
    if not rows:
        raise DataError(f"the data set {dataset.manifest.name} has no pictures in '{name}'")
    if strangers := sorted({row.label for row in rows} - set(spec.classes)):
        raise DataError(
            f"the data set {dataset.manifest.name} shows {', '.join(strangers)}; the model knows "
            f"{', '.join(spec.classes)}: evaluate it on its own kind of data"
        )
    return np.array([spec.classes.index(row.label) for row in rows], dtype=np.int64)


def _run(subject: Subject, chosen: Sequence[int], name: str) -> Outputs:
    """Outputs for the chosen pictures; heat maps are dropped, they would fill the memory."""
    starts = range(0, len(chosen), BATCH)
    parts = [
        subject.engine(np.ascontiguousarray(subject.pixels[chosen[start : start + BATCH]]))
        for start in track(starts, f"evaluating {name}", total=len(starts))
    ]
    embeddings = [part.embedding for part in parts if part.embedding is not None]
    return Outputs(
        probabilities=np.concatenate([part.probabilities for part in parts]),
        logits=np.concatenate([part.logits for part in parts]),
        embedding=np.concatenate(embeddings) if embeddings else None,
    )
