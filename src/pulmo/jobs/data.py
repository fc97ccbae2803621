"""A source of pictures to a data set that can be trained on."""

import json
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from pulmo.config.schema import Config
from pulmo.data import files
from pulmo.data.audit import Report, audit
from pulmo.data.manifest import DataSet, build, home_of, store
from pulmo.data.scan import scan
from pulmo.data.sources import collect
from pulmo.errors import RefusedError

REPORT = "report.json"
SHOWN = 3


@dataclass(frozen=True)
class Prepared:
    """A data set and what the audit found in it (warnings only)."""

    dataset: DataSet
    report: Report


def prepare(config: Config, data_dir: Path) -> Prepared:
    """Collect, read, split and audit the configured source; make it the current data set.

    Pictures that have not changed since the last time are not decoded again. Raises RefusedError
    where the audit finds errors; the data set that was current before then stays so.
    """
    data = config.data
    home = home_of(data_dir, data.name)
    home.mkdir(parents=True, exist_ok=True)
    with FileLock(home / ".lock"):
        collection = collect(data, data_dir)
        seen = scan(collection, data.channels, home / "files.json")
        manifest = build(
            data.name,
            collection.classes,
            data.channels,
            seen.pictures,
            data.splits,
            data.patient,
        )
        report = audit(
            manifest,
            unreadable=seen.unreadable,
            skipped=collection.skipped,
            patients=data.patient is not None,
        )
        files.write(home / REPORT, json.dumps(report.document(), indent=2).encode() + b"\n")
        if report.errors:
            raise RefusedError(_refusal(report, home / REPORT))
        return Prepared(store(manifest, collection.root, data_dir), report)


def _refusal(report: Report, path: Path) -> str:
    told = []
    for finding in report.errors:
        more = "; …" if len(finding.where) > SHOWN else ""
        told.append(f"{finding.message} ({'; '.join(finding.where[:SHOWN])}{more})")
    return f"the data set {report.name} has errors: {'. '.join(told)}. All findings: {path}"
