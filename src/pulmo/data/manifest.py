"""The manifest: every picture of a data set with its label, split, patient and digests."""

import csv
import hashlib
import io
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pulmo.config.schema import SplitConfig
from pulmo.core.ports import is_name
from pulmo.data import files
from pulmo.errors import ConfigError, DataError

TRAIN, VAL, GATE, TEST, EXCLUDED = SPLITS = ("train", "val", "gate", "test", "excluded")
COLUMNS = ("path", "label", "split", "patient", "sha256", "pixels")
TABLE = "manifest.csv"
INFO = "dataset.json"

_PROTECTION = (TEST, GATE, VAL, TRAIN)  # an equal picture stays in the first of these alone
_MAX_TABLE_BYTES = 2**30
_HEX = re.compile(r"[0-9a-f]{64}")
_FOLDER_DIGITS = 16

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Picture:
    """One readable picture of a source.

    `path` is relative to the root with forward slashes; `role` says whether the source keeps it
    for `test` or leaves it to the `pool`; `sha256` is that of the file, `pixels` that of the
    decoded picture.
    """

    path: str
    label: str
    role: Literal["pool", "test"]
    sha256: str
    pixels: str


@dataclass(frozen=True, order=True)
class Row:
    """One picture of a manifest.

    `patient` is `<role>/<id>` where the file name tells it, else the start of the picture's
    digest: equal values are never dealt to different splits.
    """

    path: str
    label: str
    split: str
    patient: str
    sha256: str
    pixels: str


@dataclass(frozen=True)
class Manifest:
    """The rows of a data set, sorted by path, and what they show."""

    name: str
    classes: tuple[str, ...]
    channels: Literal[1, 3]
    rows: tuple[Row, ...]

    @cached_property
    def digest(self) -> str:
        """SHA-256 over classes, channels and rows: never over names, places or times."""
        head = json.dumps({"channels": self.channels, "classes": self.classes}, sort_keys=True)
        return hashlib.sha256(f"{head}\n".encode() + self.table()).hexdigest()

    def table(self) -> bytes:
        """The rows as CSV in the only form they are stored in: UTF-8, bare newlines, a header."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([getattr(row, name) for name in COLUMNS] for row in self.rows)
        return text.getvalue().encode()

    def counts(self) -> dict[str, dict[str, int]]:
        """Pictures of every class in every split."""
        found = Counter((row.split, row.label) for row in self.rows)
        return {s: {name: found[s, name] for name in self.classes} for s in SPLITS}


@dataclass(frozen=True)
class DataSet:
    """A manifest on this machine: its own folder and the root that its paths begin at."""

    folder: Path
    root: Path
    manifest: Manifest

    def path(self, row: Row) -> Path:
        """Where a picture lies."""
        return self.root / row.path


class _Info(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    name: str
    digest: str = Field(pattern=_HEX.pattern)
    root: str  # relative to the folder above, where the pictures lie beneath it
    classes: tuple[str, ...] = Field(min_length=2)
    channels: Literal[1, 3]
    counts: dict[str, dict[str, int]]


class _Pointer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    digest: str = Field(pattern=_HEX.pattern)


def build(
    name: str, classes: Sequence[str], channels: Literal[1, 3], pictures: Iterable[Picture],
    splits: SplitConfig, patient: str | None,
) -> Manifest:  # fmt: skip
    """Deal pictures out to the splits by a hash of their patients, stable as the data grows.

    `patient` is a regular expression on the file name: its first non-empty group, or the whole
    match, is the patient; a picture without one stands alone. An equal picture in several splits
    stays in the most protected (test, gate, val, train) and is excluded from the others. Raises
    ConfigError for an expression that cannot be read.
    """
    pattern = _compile(patient)
    chosen = sorted(pictures, key=lambda picture: picture.path)
    has_test = any(picture.role == TEST for picture in chosen)
    rows = []
    for p in chosen:
        who = _patient(p, pattern)
        split = TEST if p.role == TEST else _deal(who, splits, has_test)
        rows.append(Row(p.path, p.label, split, who, p.sha256, p.pixels))
    return Manifest(name, tuple(classes), channels, tuple(_exclude(rows)))


def store(manifest: Manifest, root: Path, data_dir: Path) -> DataSet:
    """Write a data set below `data_dir` and make it the current one of its name."""
    home = home_of(data_dir, manifest.name)
    folder = home / manifest.digest[:_FOLDER_DIGITS]
    inside = root.is_relative_to(home)
    info = _Info(
        name=manifest.name,
        digest=manifest.digest,
        root=(root.relative_to(home) if inside else root).as_posix(),
        classes=manifest.classes,
        channels=manifest.channels,
        counts=manifest.counts(),
    )
    files.write(folder / TABLE, manifest.table())
    files.write(folder / INFO, info.model_dump_json(indent=2).encode() + b"\n")
    pointer = _Pointer(digest=manifest.digest)
    files.write(home / INFO, pointer.model_dump_json(indent=2).encode() + b"\n")
    return DataSet(folder, root, manifest)


def load(data_dir: Path, name: str) -> DataSet:
    """The current data set called `name`. Raises DataError with the command that makes it."""
    home = home_of(data_dir, name)
    if not (home / INFO).is_file():
        raise DataError(f"there is no data set '{name}' in {data_dir}: {_remedy(name)}")
    digest = _parse(_Pointer, home / INFO, name).digest
    return open_at(home / digest[:_FOLDER_DIGITS], digest)


def find(data_dir: Path, digest: str) -> DataSet:
    """The data set with this manifest digest, current or not. Raises DataError."""
    if _HEX.fullmatch(digest):
        for info in sorted(data_dir.resolve().glob(f"*/{digest[:_FOLDER_DIGITS]}/{INFO}")):
            return open_at(info.parent, digest)
    raise DataError(
        f"no data set in {data_dir} has the digest {digest[:_FOLDER_DIGITS]}…: make it from the "
        "same pictures with: uv run main.py data data=…"
    )


def home_of(data_dir: Path, name: str) -> Path:
    """The absolute folder of everything that belongs to the data set `name`."""
    if not is_name(name):
        raise ConfigError(
            f"data.name='{name}' cannot name a folder: use lower case letters, digits, . _ -"
        )
    return data_dir.resolve() / name


def _compile(patient: str | None) -> re.Pattern[str] | None:
    try:
        return None if patient is None else re.compile(patient)
    except re.error as error:
        raise ConfigError(f"data.patient='{patient}' is no regular expression: {error}") from error


def _patient(picture: Picture, pattern: re.Pattern[str] | None) -> str:
    match = pattern.search(PurePosixPath(picture.path).name) if pattern else None
    known = match and next((group for group in match.groups() if group), match[0])
    # Numbering restarts in an official test split: the role tells its patients apart.
    return f"{picture.role}/{known}" if known else picture.pixels[:16]


def _deal(patient: str, splits: SplitConfig, has_test: bool) -> str:
    point = int.from_bytes(hashlib.sha256(patient.encode()).digest()[:8], "big") / 2**64
    test = 0.0 if has_test else splits.test  # last: an official test split moves no other patient
    for split, share in ((GATE, splits.gate), (VAL, splits.val), (TEST, test)):
        if point < share:
            return split
        point -= share
    return TRAIN


def _exclude(rows: list[Row]) -> list[Row]:
    where: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        where[row.pixels].add(row.split)
    kept = {pixels: min(found, key=_PROTECTION.index) for pixels, found in where.items()}
    return [
        row
        if row.split == kept[row.pixels]
        else Row(row.path, row.label, EXCLUDED, row.patient, row.sha256, row.pixels)
        for row in rows
    ]


def open_at(folder: Path, digest: str) -> DataSet:
    """The data set in a folder of its own. Raises DataError unless it has this digest."""
    home = folder.parent
    info = _parse(_Info, folder / INFO, home.name)
    rows = _rows(folder / TABLE, home.name)
    manifest = Manifest(info.name, info.classes, info.channels, rows)
    if manifest.digest != digest or info.name != home.name:
        raise DataError(f"{folder} does not hold the data set {digest[:12]}…: {_remedy(home.name)}")
    return DataSet(folder, home / info.root, manifest)


def _rows(path: Path, name: str) -> tuple[Row, ...]:
    # Whatever is wrong in here changes the digest; only what cannot be a row is looked for.
    try:
        text = files.read(path, _MAX_TABLE_BYTES).decode()
        head, *lines = csv.reader(io.StringIO(text, newline=""), strict=True)
        if tuple(head) != COLUMNS:
            raise ValueError(f"its columns are {', '.join(head)}")
        return tuple(Row(*line) for line in lines)
    except (ValueError, TypeError, csv.Error) as error:
        raise DataError(f"{path} is damaged ({error}): {_remedy(name)}") from error


def _parse(model: type[M], path: Path, name: str) -> M:
    try:
        return model.model_validate_json(files.read(path))
    except ValidationError as error:
        raise DataError(f"{path} is damaged: {_remedy(name)}") from error


def _remedy(name: str) -> str:
    return f"make it with: uv run main.py data data={name}"
