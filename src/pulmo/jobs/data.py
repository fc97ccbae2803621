"""A source of pictures to a data set that can be trained on."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock
from pydantic import BaseModel, ValidationError

from pulmo import logs
from pulmo.config.schema import Check, Config, DoctorConfig
from pulmo.core.decision import require_others
from pulmo.data import files
from pulmo.data.alike import find_alike
from pulmo.data.audit import Evidence, Report, audit, count_changes
from pulmo.data.dealing import build
from pulmo.data.looks import Look
from pulmo.data.manifest import VAL, DataSet, Manifest, find, home_of, load, store
from pulmo.data.reference import Reference
from pulmo.data.scan import scan
from pulmo.data.sources import collect
from pulmo.errors import ConfigError, DataError, RefusedError

REPORT = "report.json"
REFERENCE = "reference.json"
SHOWN = 3

log = logs.get_logger(__name__)


@dataclass(frozen=True)
class Prepared:
    """A data set and what the audit found in it (warnings, and errors that were allowed).

    `before` is the digest of the data set of this name that was current until now, None where there
    was none or it is the same one; `changes` are the lines in which their class counts differ.
    """

    dataset: DataSet
    report: Report
    before: str | None = None
    changes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Examined:
    """A data set as it would be: where its pictures lie, how they look, what is wrong."""

    root: Path
    manifest: Manifest
    looks: dict[str, Look]
    report: Report


class _Told(BaseModel):
    check: Check
    message: str


class _Findings(BaseModel):
    findings: list[_Told]


def prepare(config: Config, data_dir: Path) -> Prepared:
    """Collect, read, split and audit the configured source; make it the current data set.

    Pictures that have not changed since the last time are not decoded again. Raises RefusedError
    where the audit finds errors that are not allowed; the data set that was current before then
    stays so.
    """
    home = _home(config, data_dir)
    with FileLock(home / ".lock"):
        seen = _examine(config, data_dir, home)
        document = json.dumps(seen.report.document(), indent=2).encode() + b"\n"
        files.write(home / REPORT, document)
        if seen.report.errors:
            if not config.doctor.allow_errors:
                raise RefusedError(refusal(seen.report, f"All findings: {home / REPORT}"))
            log.warning("%s", refusal(seen.report, "Allowed by doctor.allow_errors"))
        last = _current(config.data.name, data_dir)
        dataset = store(seen.manifest, seen.root, data_dir)
        files.write(dataset.folder / REPORT, document)
        if last is None or last.digest == dataset.manifest.digest:
            return Prepared(dataset, seen.report)
        changes = tuple(count_changes(last, dataset.manifest))
        return Prepared(dataset, seen.report, last.digest, changes)


def examine(config: Config, data_dir: Path, against: str | None = None) -> Examined:
    """What `prepare` would make, judged also against a saved reference and the data set with the
    digest `against`; nothing becomes current.
    """
    home = _home(config, data_dir)
    with FileLock(home / ".lock"):
        return _examine(config, data_dir, home, against)


def allowed_errors(dataset: DataSet, doctor: DoctorConfig) -> tuple[str, ...]:
    """What a model should remember of the errors in its data: a note for each.

    What was found when the data set was prepared is weighed by the severities of today. Raises
    RefusedError where there are errors that `doctor.allow_errors` does not allow.
    """
    path = dataset.folder / REPORT
    if not path.is_file():  # another machine's, or made before there were reports
        return ()
    try:
        found = _Findings.model_validate_json(files.read(path)).findings
    except ValidationError as error:
        raise DataError(f"{path} is damaged: make the data set again") from error
    errors = [one for one in found if doctor.severity[one.check] == "error"]
    if errors and not doctor.allow_errors:
        told = "; ".join(one.message for one in errors)
        raise RefusedError(
            f"the data set {dataset.manifest.name} has errors: {told}. Look at it with: "
            f"pulmo validate data={dataset.manifest.name}; to train all the same, say "
            "doctor.allow_errors=true, which is recorded with the model"
        )
    return tuple(f"data with errors, allowed: {one.message}" for one in errors)


def require_choices(config: Config, manifest: Manifest) -> None:
    """Say before a training why nothing could be chosen for its model on the validation pictures.

    Raises ConfigError for a `data.positive` that is not one of exactly two classes, DataError where
    a class that a threshold needs, or other patients' pictures, are missing.
    """
    require_positive(config, manifest)
    if config.data.positive is not None:
        require_validated(manifest)
    patients = np.array([row.patient for row in manifest.rows if row.split == VAL], dtype=np.str_)
    require_others(patients, config.decision.neighbours)


def require_positive(config: Config, manifest: Manifest) -> None:
    """Raise ConfigError for a `data.positive` that is not one of exactly two classes."""
    positive, classes = config.data.positive, manifest.classes
    if positive is not None and (positive not in classes or len(classes) != 2):
        raise ConfigError(
            f"data.positive={positive}, but the data set {manifest.name} shows "
            f"{', '.join(classes)}: name one of two classes, or set data.positive=null"
        )


def require_validated(manifest: Manifest) -> None:
    """Raise DataError for a class without validation pictures."""
    missing = [name for name, n in manifest.counts()[VAL].items() if n == 0]
    if missing:
        raise DataError(
            f"no validation picture of the data set {manifest.name} shows {', '.join(missing)}: "
            "add some, raise data.splits.val or set data.classes, and make the data set again"
        )


def refusal(report: Report, where: str) -> str:
    """The errors of a report in a sentence, and where to look further."""
    told = []
    for finding in report.errors:
        more = "; …" if len(finding.where) > SHOWN else ""
        told.append(f"{finding.message} ({'; '.join(finding.where[:SHOWN])}{more})")
    return f"the data set {report.name} has errors: {'. '.join(told)}. {where}"


def _current(name: str, data_dir: Path) -> Manifest | None:
    try:
        return load(data_dir, name).manifest
    except DataError:  # none, or a damaged one, which is about to be replaced
        return None


def _home(config: Config, data_dir: Path) -> Path:
    home = home_of(data_dir, config.data.name)
    home.mkdir(parents=True, exist_ok=True)
    return home


def _examine(config: Config, data_dir: Path, home: Path, against: str | None = None) -> Examined:
    data = config.data
    other = find(data_dir, against).manifest if against is not None else None
    collection = collect(data, data_dir)
    seen = scan(collection, data, home / "files.json")
    alike = find_alike(collection.root, seen.pictures, seen.looks, data, config.doctor)
    manifest = build(data, collection.classes, seen.pictures, alike)
    evidence = Evidence(
        unreadable=seen.unreadable,
        skipped=collection.skipped,
        patients=data.patient is not None,
        looks=seen.looks,
        alike=alike,
        reference=_reference(home / REFERENCE),
        against=other,
    )
    report = audit(manifest, evidence, config.doctor)
    return Examined(collection.root, manifest, seen.looks, report)


def _reference(path: Path) -> Reference | None:
    if not path.is_file():
        return None
    try:
        return Reference.model_validate_json(files.read(path))
    except ValidationError as error:
        raise DataError(f"{path} is damaged: save the reference again") from error
