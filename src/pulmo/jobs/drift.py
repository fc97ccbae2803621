"""What was found when pictures of today were held against those that a model was validated on."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from itertools import islice
from typing import Any, TypeVar

from pulmo.core.detector import Alarm
from pulmo.core.drift import Report, judge
from pulmo.core.sample import Floats, Sample
from pulmo.core.unlabelled import Expected, expect

T = TypeVar("T")


@dataclass(frozen=True)
class Look:
    """One window: what is different about it, and what accuracy is to be expected of it."""

    report: Report
    expected: Expected
    begins: datetime | None = None
    ends: datetime | None = None

    def document(self) -> dict[str, Any]:
        """The look as `drift.json` has it."""
        report = asdict(self.report)
        return {
            "begins": self.begins,
            "ends": self.ends,
            "p": self.report.p,
            "drifted": self.report.drifted,
            **report,
            "expected": asdict(self.expected),
        }


@dataclass(frozen=True)
class Watch:
    """A log of receipts from its first to its last: the evidence [n] after each picture that they
    are no longer as in validation, and the moment at which it reached `spacing`.
    """

    evidence: Floats
    spacing: float
    alarm: Alarm | None
    alarm_at: datetime | None
    windows: tuple[Look, ...]

    def document(self) -> dict[str, Any]:
        """The watch as `drift.json` has it: the evidence at the end alone."""
        return {
            "pictures": len(self.evidence),
            "evidence": float(self.evidence[-1]),
            "spacing": self.spacing,
            "alarm": None if self.alarm is None else asdict(self.alarm),
            "alarm_at": self.alarm_at,
            "windows": [one.document() for one in self.windows],
        }


@dataclass(frozen=True)
class Drift:
    """What was found of a model. `look` is that of all files, or of the newest window of a log;
    `watch` is None for files, and `failed` says why files could not be read.
    """

    model: str
    model_digest: str
    classes: tuple[str, ...]
    source: str
    look: Look
    watch: Watch | None = None
    failed: Mapping[str, str] = field(default_factory=dict)

    @property
    def alarm(self) -> bool:
        """Whether the pictures are no longer like those of the validation."""
        return self.look.report.alarm if self.watch is None else self.watch.alarm is not None

    @property
    def moved(self) -> tuple[str, ...]:
        """What an alarm rests on; of a log, the features with a tenth of the evidence or more."""
        if self.watch is None or self.watch.alarm is None:
            return self.look.report.drifted if self.alarm else ()
        return tuple(name for name, share in self.watch.alarm.shares.items() if share >= 0.1)

    def document(self) -> dict[str, Any]:
        """Everything but the evidence of single pictures, as `drift.json` has it."""
        return {
            "model": self.model,
            "model_digest": self.model_digest,
            "classes": self.classes,
            "source": self.source,
            "alarm": self.alarm,
            "moved": self.moved,
            "look": self.look.document(),
            "log": None if self.watch is None else self.watch.document(),
            "failed": dict(self.failed),
        }


def look_at(reference: Sample, window: Sample, bound: float) -> Look:
    """A window held against the reference. Raises as `core.drift.judge`."""
    report = judge(reference, window, bound)
    return Look(report, expect(reference, window, report))


def groups(items: Iterable[T], size: int) -> Iterator[tuple[T, ...]]:
    """Consecutive items, `size` at a time; the last may be fewer."""
    iterator = iter(items)
    while group := tuple(islice(iterator, size)):
        yield group
