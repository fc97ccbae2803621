import numpy as np
from samples import make_sample

from pulmo.core.detector import Alarm
from pulmo.jobs.drift import Drift, Watch, groups, look_at


def watched(alarm: Alarm | None) -> Drift:
    look = look_at(make_sample(60, 0), make_sample(20, 1, shift=2), 0.01)
    watch = Watch(np.array([1.0, 2.0]), 100.0, alarm, None, (look,))
    return Drift("toy", "0" * 64, ("WELL", "SICK"), "2 receipts", look, watch)


def test_a_log_alarms_by_its_evidence_alone() -> None:
    quiet = watched(None)
    assert quiet.look.report.alarm
    assert not quiet.alarm
    assert quiet.moved == ()
    loud = watched(Alarm(2, {"score": 0.85, "dark": 0.12, "bright": 0.03}))
    assert loud.alarm
    assert loud.moved == ("score", "dark")
    assert loud.document()["log"]["alarm"] == {
        "picture": 2,
        "shares": {"score": 0.85, "dark": 0.12, "bright": 0.03},
    }


def test_groups_leave_nothing_out() -> None:
    assert list(groups(range(5), 2)) == [(0, 1), (2, 3), (4,)]
    assert list(groups([], 2)) == []
