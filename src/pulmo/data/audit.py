"""The split doctor: what is wrong with a data set before anything is trained on it."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from pulmo.config.schema import Check, DoctorConfig
from pulmo.data.looks import Look
from pulmo.data.manifest import EXCLUDED, GATE, TEST, TRAIN, VAL, Manifest, Row
from pulmo.data.reference import Reference, distances, measure
from pulmo.data.scan import Unreadable


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong; `where` says in which files, patients or splits, a line each, and
    `groups` are the paths of the pictures that belong together in each line, where there are any.
    """

    severity: Literal["error", "warning"]
    check: Check
    message: str
    where: tuple[str, ...] = ()
    groups: tuple[tuple[str, ...], ...] = ()


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


@dataclass(frozen=True)
class Evidence:
    """What is known of a data set beyond its manifest: what reading the files gave (`looks` by
    path, `alike` from a picture's digest to that of its near duplicate), whether file names should
    tell the patient, and what to hold it against.
    """

    unreadable: Sequence[Unreadable] = ()
    skipped: Sequence[str] = ()
    patients: bool = False
    looks: Mapping[str, Look] = field(default_factory=dict)
    alike: Mapping[str, str] = field(default_factory=dict)
    reference: Reference | None = None
    against: Manifest | None = None


_Told = tuple[Check, str, list[str], list[tuple[str, ...]]]


def count_changes(before: Manifest, now: Manifest) -> list[str]:
    """Where the class counts of two data sets differ: a line for each class of a split."""
    old, new = before.counts(), now.counts()
    cells = sorted({(s, c) for counts in (old, new) for s in counts for c in counts[s]})
    pairs = [(s, c, new[s].get(c, 0), old[s].get(c, 0)) for s, c in cells]
    return [f"{s} {c}: {a} now, {b} before ({a - b:+})" for s, c, a, b in pairs if a != b]


def audit(manifest: Manifest, evidence: Evidence, doctor: DoctorConfig) -> Report:
    """Judge a manifest; what each check is worth is the configuration's choice."""
    told = [
        *_files(evidence),
        *_pictures(manifest, evidence, doctor),
        *_patients(manifest, evidence),
        *_splits(manifest, doctor),
        *_compared(manifest, evidence, doctor),
    ]
    findings = []
    for check, message, where, groups in told:
        severity = doctor.severity[check]
        if severity != "ignore":
            findings.append(Finding(severity, check, message, tuple(where), tuple(groups)))
    findings.sort(key=lambda finding: finding.severity)  # "error" before "warning"
    return Report(manifest.name, manifest.digest, manifest.counts(), tuple(findings))


def _files(evidence: Evidence) -> Iterator[_Told]:
    if bad := evidence.unreadable:
        message = f"files that cannot be read: {len(bad)}; mend or remove them"
        yield "unreadable", message, [f"{one.path}: {one.reason}" for one in bad], []
    if skipped := list(evidence.skipped):
        message = f"files and folders not taken, no pictures of a class: {len(skipped)}"
        yield "skipped", message, skipped, []


def _pictures(manifest: Manifest, evidence: Evidence, doctor: DoctorConfig) -> Iterator[_Told]:
    looks = evidence.looks
    empty = [r for r in manifest.rows if r.path in looks and looks[r.path].contrast < doctor.blank]
    if empty:
        message = f"pictures that show nothing: {len(empty)}; remove them"
        yield "blank", message, [row.path for row in empty], [(row.path,) for row in empty]
    blank = {row.path for row in empty}
    rows = [row for row in manifest.rows if row.path not in blank]
    equal = _groups(rows, lambda row: row.pixels)
    same = _groups(rows, lambda row: evidence.alike.get(row.pixels, row.pixels))
    yield from _repeated(equal, same, doctor)
    out = [row for row in manifest.rows if row.split == EXCLUDED]
    twins = {row.path: _protected(group) for group in same for row in group}
    if out:
        message = f"files left out that repeat a picture of a more protected split: {len(out)}"
        pairs = [(row, twins.get(row.path)) for row in out]
        lines = [f"{a.path} repeats {b.path} of {b.split}" if b else a.path for a, b in pairs]
        yield "excluded", message, lines, [(a.path, b.path) if b else (a.path,) for a, b in pairs]


def _repeated(
    equal: list[list[Row]], same: list[list[Row]], doctor: DoctorConfig
) -> Iterator[_Told]:
    conflicts = [group for group in same if len({row.label for row in group}) > 1]
    stand_ins = [group for group in equal if len(group) >= doctor.placeholder]
    inside = list(_within(equal))
    near = [group for group in _within(same) if len({row.pixels for row in group}) > 1]
    kinds: tuple[tuple[Check, str, list[list[Row]]], ...] = (
        ("label_conflict", "pictures with two labels: {}; keep one file of each", conflicts),
        ("placeholder", "pictures that stand in for many: {}; remove them", stand_ins),
        ("duplicates", "pictures that are there more than once within their split: {}", inside),
        (
            "near_duplicates",
            "pictures that are there in several encodings within a split: {}",
            near,
        ),
    )
    for check, message, groups in kinds:
        if groups:
            lines = [" = ".join(_named(row, check) for row in group) for group in groups]
            paths = [tuple(row.path for row in group) for group in groups]
            yield check, message.format(len(groups)), lines, paths


def _named(row: Row, check: Check) -> str:
    return f"{row.path} ({row.label})" if check == "label_conflict" else row.path


def _within(groups: list[list[Row]]) -> Iterator[list[Row]]:
    """The parts of groups that lie in one split, where those are several pictures."""
    for group in groups:
        yield from _groups([row for row in group if row.split != EXCLUDED], lambda r: r.split)


def _groups(rows: Iterable[Row], key: Callable[[Row], str]) -> list[list[Row]]:
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        found[key(row)].append(row)
    return [group for group in found.values() if len(group) > 1]


def _protected(group: list[Row]) -> Row | None:
    return next((row for row in group if row.split != EXCLUDED), None)


def _patients(manifest: Manifest, evidence: Evidence) -> Iterator[_Told]:
    known = [row for row in manifest.rows if "/" in row.patient and row.split != EXCLUDED]
    several = _groups(known, lambda row: row.patient)
    leaks = [group for group in several if len({row.split for row in group}) > 1]
    if leaks:
        message = f"patients in more than one split: {len(leaks)}; keep each in one"
        lines = [
            f"{group[0].patient}: {', '.join(f'{row.path} ({row.split})' for row in group)}"
            for group in leaks
        ]
        yield "patient_leak", message, lines, [tuple(row.path for row in g) for g in leaks]
    alone = [row.path for row in manifest.rows if "/" not in row.patient]
    if alone and evidence.patients:
        message = f"file names that tell no patient: {len(alone)}; each picture stands alone"
        yield "unknown_patient", message, alone, []


def _splits(manifest: Manifest, doctor: DoctorConfig) -> Iterator[_Told]:
    counts, least = manifest.counts(), doctor.min_per_class
    for name in manifest.classes:
        if counts[TRAIN][name] == 0:
            yield "no_training", f"class {name} has no training picture", [TRAIN], []
        small = {s: counts[s][name] for s in (VAL, GATE, TEST) if counts[s][name] < least}
        if small:
            told = ", ".join(f"{n} in {split}" for split, n in small.items())
            message = f"class {name} has too few pictures to judge by: {told}"
            yield "small_split", message, list(small), []


def _compared(manifest: Manifest, evidence: Evidence, doctor: DoctorConfig) -> Iterator[_Told]:
    if evidence.reference is not None:
        apart = distances(evidence.reference, measure(manifest, evidence.looks))
        far = {name: value for name, value in apart.items() if value > doctor.drift}
        if far:
            message = f"unlike the saved reference {evidence.reference.digest[:12]}: {len(far)}"
            yield "drift", message, [f"{name}: {value:.2f}" for name, value in far.items()], []
    if evidence.against is not None:
        lines = count_changes(evidence.against, manifest)
        if lines:
            message = f"class counts differ from {evidence.against.digest[:12]}: {len(lines)}"
            yield "counts", message, lines, []
