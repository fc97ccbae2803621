"""What a model is worth on the splits of a data set: figures, tables and one report."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pulmo.config.schema import EvaluateConfig
from pulmo.core import metrics
from pulmo.core.bundle import Bundle, Estimate, Specification
from pulmo.core.curves import Curves, curves
from pulmo.core.decision import Decider, Outputs, labels_of, positive_index
from pulmo.core.gate import overlap
from pulmo.core.preprocess import Pixels
from pulmo.data.cache import open_pixels
from pulmo.data.manifest import DataSet, Row
from pulmo.errors import DataError
from pulmo.inference.engine import Engine, load
from pulmo.jobs import report
from pulmo.jobs.sections import Measured, section
from pulmo.progress import track

BATCH = 32

METRICS = "metrics.json"
PREDICTIONS = "predictions.csv"
REPORT = "report.html"


@dataclass(frozen=True)
class Evaluation:
    """Where everything was written, and what was measured on each split."""

    out: Path
    splits: tuple[Measured, ...]

    @property
    def metrics(self) -> dict[str, dict[str, Estimate]]:
        """Split → metric → estimate."""
        return {measured.split: measured.metrics for measured in self.splits}


def evaluate(
    bundle: Bundle, dataset: DataSet, splits: Sequence[str], out: Path, config: EvaluateConfig
) -> Evaluation:
    """Run `bundle` over `splits` and write metrics.json, predictions.csv, PNGs and report.html.

    The report comes last: where it lies, all else does. Raises DataError for a split without
    pictures and for classes that the model does not know.
    """
    pixels = open_pixels(dataset, bundle.info.specification.input)
    engine = load(bundle)
    parts = tuple(_measure(bundle, engine, dataset, pixels, split, config) for split in splits)
    found = Evaluation(out, parts)
    out.mkdir(parents=True, exist_ok=True)
    (out / METRICS).write_text(_document(bundle, dataset, found, config), encoding="utf-8")
    _write_predictions(out / PREDICTIONS, bundle.info.specification, parts)
    sections = [section(bundle, dataset, pixels, part, out) for part in parts]
    page = report.render(bundle, sections, config.confidence)
    partial = out / f"{REPORT}.part"
    partial.write_text(page, encoding="utf-8")
    partial.replace(out / REPORT)
    return found


def measure(
    specification: Specification,
    reference: NDArray[np.float16] | None,
    outputs: Outputs,
    labels: NDArray[np.int64],
    patients: Sequence[str] | NDArray[np.str_],
    config: EvaluateConfig,
    seed: int,
) -> tuple[dict[str, Estimate], Curves]:
    """All metrics with intervals, and the curves, of n pictures with labels int64 [n].

    `reference` are the bundle's embeddings. Beside the metrics of `core.metrics`, which judge the
    answer to every picture: `accepted`, the share not referred, and `accuracy_accepted`.
    """
    answers = Decider(specification, reference).answers(outputs)
    accepted = np.array([answer.decision == "accept" for answer in answers], dtype=bool)
    positive = positive_index(specification)
    decided = labels_of(outputs.probabilities, specification)
    named = metrics.statistics(labels, outputs.probabilities, decided, positive)
    named["accepted"] = metrics.mean(accepted)
    named["accuracy_accepted"] = metrics.mean(decided == labels, accepted)
    found = metrics.bootstrap(
        named, patients, resamples=config.resamples, confidence=config.confidence, seed=seed
    )
    return found, curves(labels, outputs.probabilities, positive)


def _measure(
    bundle: Bundle, engine: Engine, dataset: DataSet, pixels: Pixels, split: str,
    config: EvaluateConfig,
) -> Measured:  # fmt: skip
    spec = bundle.info.specification
    chosen = [i for i, row in enumerate(dataset.manifest.rows) if row.split == split]
    rows = tuple(dataset.manifest.rows[i] for i in chosen)
    labels = _labels(rows, spec, dataset, split)
    outputs = _run(engine, pixels, chosen, split)
    reference = bundle.reference().get("embeddings")
    patients = [row.patient for row in rows]
    seed = bundle.info.lineage.seed  # the figures of the validation split are those of the bundle
    found, drawn = measure(spec, reference, outputs, labels, patients, config, seed)
    return Measured(
        split=split,
        rows=rows,
        labels=labels,
        decided=labels_of(outputs.probabilities, spec),
        probabilities=outputs.probabilities,
        answers=tuple(Decider(spec, reference).answers(outputs)),
        metrics=found,
        curves=drawn,
        seen=overlap(bundle.members()["digests"], (row.pixels for row in rows)),
    )


def _labels(
    rows: Sequence[Row], spec: Specification, dataset: DataSet, split: str
) -> NDArray[np.int64]:
    if not rows:
        raise DataError(f"the data set {dataset.manifest.name} has no pictures in '{split}'")
    if strangers := sorted({row.label for row in rows} - set(spec.classes)):
        raise DataError(
            f"the data set {dataset.manifest.name} shows {', '.join(strangers)}; the model knows "
            f"{', '.join(spec.classes)}: evaluate it on its own kind of data"
        )
    return np.array([spec.classes.index(row.label) for row in rows], dtype=np.int64)


def _run(engine: Engine, pixels: Pixels, chosen: Sequence[int], split: str) -> Outputs:
    """Outputs for the chosen pictures; heat maps are dropped, they would fill the memory."""
    starts = range(0, len(chosen), BATCH)
    parts = [
        engine(np.ascontiguousarray(pixels[chosen[start : start + BATCH]]))
        for start in track(starts, f"evaluating {split}", total=len(starts))
    ]
    embeddings = [part.embedding for part in parts if part.embedding is not None]
    return Outputs(
        probabilities=np.concatenate([part.probabilities for part in parts]),
        logits=np.concatenate([part.logits for part in parts]),
        embedding=np.concatenate(embeddings) if embeddings else None,
    )


def _document(bundle: Bundle, dataset: DataSet, found: Evaluation, config: EvaluateConfig) -> str:
    info = bundle.info
    classes = len(info.specification.classes)
    document: dict[str, Any] = {
        "model": info.name,
        "model_digest": info.model_digest,
        "bundle_digest": bundle.digest,
        "data": {"name": dataset.manifest.name, "digest": dataset.manifest.digest},
        "confidence": config.confidence,
        "resamples": config.resamples,
        "splits": {
            part.split: {
                "counts": part.counts,
                "seen_by_the_model": part.seen,
                "metrics": {name: one.model_dump() for name, one in part.metrics.items()},
                "curves": part.curves,
                "confusion": metrics.confusion(part.labels, part.decided, classes).tolist(),
            }
            for part in found.splits
        },
    }
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def _write_predictions(path: Path, spec: Specification, parts: Sequence[Measured]) -> None:
    head = ["path", "split", "patient", "label", "answer", "decision", "probability", "distance"]
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([*head, *(f"p_{name}" for name in spec.classes), "reasons"])
        for part in parts:
            for row, answer in zip(part.rows, part.answers, strict=True):
                distance = "" if answer.distance is None else f"{answer.distance:.6f}"
                told = [row.path, row.split, row.patient, row.label, answer.label or ""]
                told += [answer.decision, f"{answer.probability:.6f}", distance]
                shares = [f"{share:.6f}" for share in answer.probabilities]
                writer.writerow([*told, *shares, "; ".join(answer.reasons)])
