"""Drift of what a server answered: its receipts watched one by one, and judged window by window."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from pulmo.core.bundle import Bundle
from pulmo.core.detector import Detector
from pulmo.core.drift import LEAST, Report
from pulmo.core.receipt import DriftLog, DriftWindow, Receipt
from pulmo.core.sample import Floats, Sample, of_receipts, of_reference
from pulmo.core.unlabelled import Expected
from pulmo.errors import DataError
from pulmo.jobs.drift import Drift, Look, Watch, groups, look_at
from pulmo.jobs.drift_page import write
from pulmo.progress import track

WINDOW = 50
PER_ALARM = 1000  # divided by the bound: after how many pictures an alarm may be false, on average


def judge_log(
    bundle: Bundle, log: DriftLog, since: datetime | None, size: int, out: Path, bound: float
) -> Drift:
    """Watch the receipts of a bundle's model since a moment, in windows of `size` pictures.

    One may look as often as one likes: an alarm is false once in 1,000 / `bound` pictures on
    average, and within the first n pictures with a probability of n `bound` / 1,000 at most. Each
    whole window is judged once and kept in the log. Writes as `judge_files`. Raises DataError
    where there are too few receipts.
    """
    watcher = _Watcher(bundle, log, bound)
    receipts = log.receipts(bundle.info.model_digest, since)
    for group in groups(track(receipts, "watching"), size):
        watcher.take(group, whole=len(group) == size)
    log.keep(watcher.fresh)
    detector, newest = watcher.detector, watcher.newest
    if newest is None:
        raise DataError(
            f"the log holds {detector.pictures} receipts of {bundle.info.name} "
            f"({bundle.info.model_digest[:12]}) in that time: at least {LEAST} are needed"
        )
    watch = Watch(
        evidence=np.concatenate(watcher.evidence),
        spacing=detector.spacing,
        alarm=detector.alarm,
        alarm_at=watcher.alarm_at,
        windows=tuple(watcher.looks),
    )
    info, source = bundle.info, f"{detector.pictures:,} receipts"
    classes = info.specification.classes
    found = Drift(info.name, info.model_digest, classes, source, watcher.looks[-1], watch)
    write(out, found, watcher.reference, newest, [])
    return found


class _Watcher:
    """What is known so far of a log; `fresh` are windows that the log does not keep yet."""

    def __init__(self, bundle: Bundle, log: DriftLog, bound: float) -> None:
        self.reference = of_reference(bundle)
        self.detector = Detector(self.reference, PER_ALARM / bound)
        self.alarm_at: datetime | None = None
        self.evidence: list[Floats] = []
        self.looks: list[Look] = []
        self.fresh: list[DriftWindow] = []
        self.newest: Sample | None = None
        self._bundle, self._bound = bundle, bound
        self._kept = log.judged(bundle.info.model_digest, bound)

    def take(self, group: Sequence[Receipt], *, whole: bool) -> None:
        """Watch further pictures, and judge them as one window where they are enough."""
        window = of_receipts(self._bundle.info.specification, group)
        before = self.detector.pictures
        self.evidence.append(self.detector.take(window))
        if self.detector.alarm is not None and self.alarm_at is None:
            self.alarm_at = group[self.detector.alarm.picture - 1 - before].at
        if len(group) < LEAST:
            return
        known = self._kept.get((group[0].id, group[-1].id))
        look = _again(known) if known else self._judged(group, window)
        if whole and not known:
            self.fresh.append(self._window(group, look))
        self.looks.append(look)
        self.newest = window

    def _judged(self, group: Sequence[Receipt], window: Sample) -> Look:
        look = look_at(self.reference, window, self._bound)
        return Look(look.report, look.expected, group[0].at, group[-1].at)

    def _window(self, group: Sequence[Receipt], look: Look) -> DriftWindow:
        info, found = self._bundle.info, look.document()
        return DriftWindow(
            model=info.name,
            model_digest=info.model_digest,
            first=group[0].id,
            last=group[-1].id,
            begins=group[0].at,
            ends=group[-1].at,
            pictures=len(group),
            p=look.report.p,
            bound=look.report.bound,
            document={name: found[name] for name in (*_REPORT, "expected")},
        )


_REPORT = tuple(Report.__dataclass_fields__)


def _again(known: DriftWindow) -> Look:
    """A look that was kept."""
    told = dict(known.document)
    expected = TypeAdapter(Expected).validate_python(told.pop("expected"))
    report = TypeAdapter(Report).validate_python(told)
    return Look(report, expected, known.begins, known.ends)
