"""A data set examined by the split doctor, told in a report and on a page; nothing is changed."""

import json
from dataclasses import dataclass
from pathlib import Path

from pulmo.config.schema import Config
from pulmo.data import files
from pulmo.data.audit import Report
from pulmo.data.manifest import home_of, load
from pulmo.data.reference import measure
from pulmo.errors import DataError
from pulmo.jobs.data import REFERENCE, REPORT, Examined, examine
from pulmo.jobs.validation_page import render

PAGE = "report.html"


@dataclass(frozen=True)
class Validated:
    """What was found, and where it can be read."""

    report: Report
    document: Path
    page: Path
    reference: Path | None = None


def validate(
    config: Config, data_dir: Path, *, against: str | None = None, save_reference: bool = False
) -> Validated:
    """Examine the configured data set, prepared already or yet to be.

    Its pictures are looked for where they lay when it was prepared, unless the configuration says
    where. `against` is the digest of another data set; a saved reference is what later ones are
    held against.
    """
    placed = _placed(config, data_dir)
    seen = examine(placed, data_dir, against)
    home = home_of(data_dir, config.data.name)
    document = json.dumps(seen.report.document(), indent=2).encode() + b"\n"
    files.write(home / REPORT, document)
    files.write(home / PAGE, render(placed, seen).encode())
    reference = _save(seen, home / REFERENCE) if save_reference else None
    return Validated(seen.report, home / REPORT, home / PAGE, reference)


def _placed(config: Config, data_dir: Path) -> Config:
    if config.data.root is not None:
        return config
    try:
        root = load(data_dir, config.data.name).root
    except DataError:  # not prepared yet
        return config
    return config.model_copy(update={"data": config.data.model_copy(update={"root": str(root)})})


def _save(seen: Examined, path: Path) -> Path:
    files.write(path, measure(seen.manifest, seen.looks).model_dump_json(indent=2).encode())
    return path
