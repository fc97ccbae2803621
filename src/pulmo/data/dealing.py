"""Pictures of a source dealt out to splits: by patient, and no picture on two sides."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from pulmo.config.schema import DataConfig, Role, SplitConfig
from pulmo.data.manifest import EXCLUDED, GATE, TEST, TRAIN, VAL, Manifest, Row
from pulmo.errors import ConfigError

POOL = "pool"

_PROTECTION = (TEST, GATE, VAL, TRAIN)  # an equal picture stays in the first of these alone


@dataclass(frozen=True)
class Picture:
    """One readable picture of a source.

    `path` is relative to the root with forward slashes; `role` says whether the source keeps it
    for one split or leaves it to the `pool`; `sha256` is that of the file, `pixels` that of the
    decoded picture. `patient` is known where a table names it; `slices` are names and values.
    """

    path: str
    label: str
    role: Role
    sha256: str
    pixels: str
    patient: str | None = None
    slices: tuple[tuple[str, str], ...] = ()


def build(
    data: DataConfig,
    classes: Sequence[str],
    pictures: Iterable[Picture],
    alike: Mapping[str, str] | None = None,
) -> Manifest:
    """Deal pictures out to the splits by a hash of their patients, stable as the data grows.

    `data.patient` is a regular expression on the file name: its first non-empty group, or the
    whole match, is the patient; a picture without one stands alone. `alike` maps the digest of a
    picture to that of the one it is a near duplicate of. An equal or nearly equal picture in
    several splits stays in the most protected (test, gate, val, train) and is excluded from the
    others. Raises ConfigError for an expression that cannot be read.
    """
    patient = _compile("data.patient", data.patient) if data.patient is not None else None
    named = {n: _compile(f"data.slices.{n}", text) for n, text in sorted(data.slices.items())}
    chosen = sorted(pictures, key=lambda picture: picture.path)
    has_test = any(picture.role == TEST for picture in chosen)
    rows = []
    for p in chosen:
        who = _patient(p, patient, data.splits.one_numbering)
        split = p.role if p.role != POOL else _deal(who, data.splits, has_test)
        told = {name: _first(pattern, p) or "" for name, pattern in named.items()}
        slices = tuple(sorted({**told, **dict(p.slices)}.items()))
        rows.append(Row(p.path, p.label, split, who, p.sha256, p.pixels, slices))
    return Manifest(data.name, tuple(classes), data.channels, tuple(_exclude(rows, alike or {})))


def _compile(key: str, text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise ConfigError(f"{key}='{text}' is no regular expression: {error}") from error


def _first(pattern: re.Pattern[str], picture: Picture) -> str | None:
    """The first non-empty group in a file name, or the whole match."""
    match = pattern.search(PurePosixPath(picture.path).name)
    return match and next((group for group in match.groups() if group), match[0])


def _patient(picture: Picture, pattern: re.Pattern[str] | None, one_numbering: bool) -> str:
    if picture.patient:
        return f"all/{picture.patient}"
    known = _first(pattern, picture) if pattern else None
    # Numbering restarts in an official test split: the role tells its patients apart.
    where = "all" if one_numbering else picture.role
    return f"{where}/{known}" if known else picture.pixels[:16]


def _deal(patient: str, splits: SplitConfig, has_test: bool) -> str:
    point = int.from_bytes(hashlib.sha256(patient.encode()).digest()[:8], "big") / 2**64
    test = 0.0 if has_test else splits.test  # last: an official test split moves no other patient
    for split, share in ((GATE, splits.gate), (VAL, splits.val), (TEST, test)):
        if point < share:
            return split
        point -= share
    return TRAIN


def _exclude(rows: list[Row], alike: Mapping[str, str]) -> list[Row]:
    where: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        where[alike.get(row.pixels, row.pixels)].add(row.split)
    kept = {picture: min(found, key=_PROTECTION.index) for picture, found in where.items()}
    return [
        row
        if row.split == kept[alike.get(row.pixels, row.pixels)]
        else replace(row, split=EXCLUDED)
        for row in rows
    ]
