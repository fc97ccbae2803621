"""What a model is worth on the splits of a data set: figures, tables, a report and a card."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pulmo.config.schema import EvaluateConfig
from pulmo.core import metrics
from pulmo.core.bundle import Bundle, Estimate, Specification
from pulmo.core.corruptions import SEVERITIES
from pulmo.data.manifest import DataSet
from pulmo.errors import DataError
from pulmo.jobs import report
from pulmo.jobs.evaluation_card import evaluation_card
from pulmo.jobs.measurement import Measured, Subject, measure_all, measure_split
from pulmo.jobs.robustness import Cell, Robustness, measure_robustness
from pulmo.jobs.sections import robustness_figures, section

METRICS = "metrics.json"
PREDICTIONS = "predictions.csv"
CARD = "model_card.md"
REPORT = "report.html"


@dataclass(frozen=True)
class Evaluation:
    """Where everything was written, what was measured, and all of it as `metrics.json` has it."""

    out: Path
    splits: tuple[Measured, ...]
    robustness: Robustness | None
    external: Measured | None
    document: dict[str, Any]

    @property
    def metrics(self) -> dict[str, dict[str, Estimate]]:
        """Split, or the name of the external data set → metric → estimate."""
        parts = [*self.splits, *([self.external] if self.external else [])]
        return {measured.split: measured.metrics for measured in parts}


def evaluate(
    bundle: Bundle,
    dataset: DataSet,
    splits: Sequence[str],
    out: Path,
    config: EvaluateConfig,
    external: DataSet | None = None,
) -> Evaluation:
    """Run `bundle` over `splits` and write metrics.json, predictions.csv, model_card.md, PNGs and
    report.html.

    The last split is also measured under corruptions. `external` is another data set of the same
    classes, all of whose pictures are measured, apart from the rest. The report comes last: where
    it lies, all else does. Raises DataError for a split without pictures and for classes that the
    model does not know.
    """
    subject = Subject.of(bundle, dataset)
    parts = tuple(measure_split(subject, split, config) for split in splits)
    stranger = None if external is None else _stranger(subject, external)
    outside = None if stranger is None else measure_all(stranger, config)
    robust = measure_robustness(subject, parts[-1], config) if config.robustness else None
    out.mkdir(parents=True, exist_ok=True)
    document = _document(subject, parts, robust, stranger, outside, config)
    _write_json(out / METRICS, document)
    everything = [*parts, *([outside] if outside else [])]
    _write_predictions(out / PREDICTIONS, subject.spec, everything)
    card = evaluation_card(bundle, parts, robust, outside, config.confidence)
    (out / CARD).write_text(card, encoding="utf-8")
    page = report.render(
        bundle,
        [section(subject, part, config.confidence, out) for part in parts],
        config.confidence,
        corrupted=report.Corrupted(robust, robustness_figures(robust, out)) if robust else None,
        external=section(stranger, outside, config.confidence, out)
        if stranger and outside
        else None,
    )
    partial = out / f"{REPORT}.part"
    partial.write_text(page, encoding="utf-8")
    partial.replace(out / REPORT)
    return Evaluation(out, parts, robust, outside, document)


def _stranger(subject: Subject, external: DataSet) -> Subject:
    name = external.manifest.name
    own = (subject.dataset.manifest.name, subject.bundle.info.lineage.data_name)
    if name in own:
        raise DataError(f"the model was made from the data set {name}: name another as external")
    return Subject.of(subject.bundle, external)


def _document(
    subject: Subject,
    parts: Sequence[Measured],
    robust: Robustness | None,
    stranger: Subject | None,
    outside: Measured | None,
    config: EvaluateConfig,
) -> dict[str, Any]:
    info, bundle = subject.bundle.info, subject.bundle
    found: dict[str, Any] = {
        "model": info.name,
        "model_digest": info.model_digest,
        "bundle_digest": bundle.digest,
        "data": _data(subject),
        "confidence": config.confidence,
        "resamples": config.resamples,
        "splits": {part.split: _part(part, subject.spec) for part in parts},
    }
    if robust is not None:
        found["robustness"] = _robustness(robust)
    if stranger is not None and outside is not None:
        found["external"] = {"data": _data(stranger), **_part(outside, subject.spec)}
    return found


def _data(subject: Subject) -> dict[str, str]:
    return {
        "name": subject.dataset.manifest.name,
        "digest": subject.dataset.manifest.digest,
    }


def _part(part: Measured, spec: Specification) -> dict[str, Any]:
    return {
        "counts": part.counts,
        "seen_by_the_model": part.seen,
        "metrics": _estimates(part.metrics),
        "without_temperature": _estimates(part.plain),
        "curves": {
            **part.curves,
            "reliability_without_temperature": part.plain_reliability,
            "refer": part.refer,
        },
        "confusion": metrics.confusion(part.labels, part.decided, len(spec.classes)).tolist(),
        "slices": [
            {
                "attribute": one.attribute,
                "value": one.value,
                "counts": one.counts,
                "patients": one.patients,
                "metrics": _estimates(one.metrics),
            }
            for one in part.slices
        ],
    }


def _robustness(found: Robustness) -> dict[str, Any]:
    return {
        "split": found.split,
        "pictures": found.pictures,
        "unchanged": _estimates(found.clean),
        "corruptions": {
            name: {
                str(severity): _estimates(cell)
                for severity, cell in zip(SEVERITIES, cells, strict=True)
            }
            for name, cells in found.cells.items()
        },
    }


def _estimates(found: Cell) -> dict[str, Any]:
    return {name: one.model_dump() for name, one in found.items()}


def _write_json(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _write_predictions(path: Path, spec: Specification, parts: Sequence[Measured]) -> None:
    head = ["path", "split", "patient", "label", "answer", "decision", "probability", "distance"]
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([*head, *(f"p_{name}" for name in spec.classes), "reasons"])
        for part in parts:
            for row, answer in zip(part.rows, part.answers, strict=True):
                distance = "" if answer.distance is None else f"{answer.distance:.6f}"
                told = [row.path, part.split, row.patient, row.label, answer.label or ""]
                told += [answer.decision, f"{answer.probability:.6f}", distance]
                shares = [f"{share:.6f}" for share in answer.probabilities]
                writer.writerow([*told, *shares, "; ".join(answer.reasons)])
