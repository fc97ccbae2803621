"""The split doctor: what is wrong with a data set before anything is trained on it."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pulmo.data.manifest import EXCLUDED, GATE, TEST, TRAIN, VAL, Manifest, Row
from pulmo.data.scan import Unreadable

MIN_PER_CLASS = 10  # below this a metric of a class says next to nothing


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong; `where` lists the files (or splits) it was found in."""

    severity: Literal["error", "warning"]
    check: str
    message: str
    where: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """All findings about one data set, errors first, and its counts by split and class."""

    name: str
    digest: str
    counts: dict[str, dict[str, int]]
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that forbid training."""
        return tuple(f for f in self.findings if f.severity == "error")

    def document(self) -> dict[str, Any]:
        """The report as plain nested values."""
        return asdict(self)


def audit(
    manifest: Manifest,
    *,
    unreadable: Sequence[Unreadable] = (),
    skipped: Sequence[str] = (),
    patients: bool = False,
) -> Report:
    """Judge a manifest; `patients` says that file names should have told the patient."""
    findings = [
        *_files(unreadable, skipped),
        *_pictures(manifest),
        *_patients(manifest, patients),
        *_splits(manifest),
    ]
    findings.sort(key=lambda finding: finding.severity)  # "error" before "warning"
    return Report(manifest.name, manifest.digest, manifest.counts(), tuple(findings))


def _files(unreadable: Sequence[Unreadable], skipped: Sequence[str]) -> list[Finding]:
    found = []
    if unreadable:
        where = tuple(f"{bad.path}: {bad.reason}" for bad in unreadable)
        message = f"files that cannot be read: {len(where)}; mend or remove them"
        found.append(Finding("error", "unreadable", message, where))
    if skipped:
        message = f"files and folders not taken, no pictures of a class: {len(skipped)}"
        found.append(Finding("warning", "skipped", message, tuple(skipped)))
    return found


def _pictures(manifest: Manifest) -> list[Finding]:
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in manifest.rows:
        groups[row.pixels].append(row)
    several = [group for group in groups.values() if len(group) > 1]
    conflicts = [group for group in several if len({row.label for row in group}) > 1]
    repeats = [
        [row for row in group if row.split == split]
        for group in several
        for split in sorted({row.split for row in group} - {EXCLUDED})
    ]
    repeats = [group for group in repeats if len(group) > 1]
    excluded = [row.path for row in manifest.rows if row.split == EXCLUDED]
    found = []
    if conflicts:
        message = f"pictures with two labels: {len(conflicts)}; keep one file of each"
        found.append(Finding("error", "label conflict", message, _lines(conflicts)))
    if repeats:
        message = f"pictures that are there more than once within their split: {len(repeats)}"
        found.append(Finding("warning", "duplicates", message, _lines(repeats)))
    if excluded:
        message = f"files left out that repeat a picture of a more protected split: {len(excluded)}"
        found.append(Finding("warning", "excluded", message, tuple(excluded)))
    return found


def _patients(manifest: Manifest, wanted: bool) -> list[Finding]:
    alone = tuple(row.path for row in manifest.rows if "/" not in row.patient) if wanted else ()
    if not alone:
        return []
    message = f"file names that tell no patient: {len(alone)}; each picture stands alone"
    return [Finding("warning", "unknown patient", message, alone)]


def _splits(manifest: Manifest) -> list[Finding]:
    counts = manifest.counts()
    found = []
    for name in manifest.classes:
        if counts[TRAIN][name] == 0:
            message = f"class {name} has no training picture"
            found.append(Finding("error", "no training", message, (TRAIN,)))
        small = {s: counts[s][name] for s in (VAL, GATE, TEST) if counts[s][name] < MIN_PER_CLASS}
        if small:
            told = ", ".join(f"{n} in {split}" for split, n in small.items())
            message = f"class {name} has too few pictures to judge by: {told}"
            found.append(Finding("warning", "small split", message, tuple(small)))
    return found


def _lines(groups: list[list[Row]]) -> tuple[str, ...]:
    return tuple(" = ".join(row.path for row in group) for group in groups)
