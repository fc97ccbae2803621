"""The page says the verdict, how sure it is and when not to believe it."""

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
from samples import blind, make_sample

from pulmo.core.detector import Alarm
from pulmo.jobs.drift import Drift, Watch, look_at
from pulmo.jobs.drift_page import Shown, render, verdict
from pulmo.jobs.page import Figure

REFERENCE = make_sample(80, 0)
QUIET = look_at(REFERENCE, make_sample(30, 1), 0.01)
MOVED = look_at(REFERENCE, make_sample(30, 1, shift=3), 0.01)
AT = datetime(2026, 11, 1, 12, 30, tzinfo=UTC)


def found(look: object = QUIET, **changes: object) -> Drift:
    return replace(Drift("toy<", "0" * 64, ("A", "B"), "30 files", QUIET), look=look, **changes)  # type: ignore[arg-type]


def test_a_quiet_page_gives_the_accuracy_and_loads_nothing() -> None:
    shown = [Shown("folder/a.png", 0.25, "B<", np.zeros((1, 4, 4), dtype=np.uint8))]
    html = render(found(), {"values": Figure("drawn", "lines", b"png")}, shown)
    assert "no drift" in html
    assert "Not to be believed" not in html
    assert f"{QUIET.expected.accuracy:.3f}" in html
    assert "30 files held against 80 validation pictures" in html
    assert "figures broad" in html
    assert "toy&lt;" in html
    assert "No drift: chance alone" in html
    assert f"B {QUIET.expected.mix[1]:.3f}" in html
    assert "B&lt;" in html
    assert "toy<" not in html
    assert 'src="http' not in html
    assert "<script" not in html


def test_drift_is_told_with_what_moved_and_the_accuracy_is_not() -> None:
    drift = found(MOVED, failed={"torn.png": "cannot be read"})
    html = render(drift, {}, [])
    assert "<strong>drift</strong>" in html
    assert "<strong>unknown</strong>" in html
    assert "Not to be believed: the pictures of one class have changed" in html
    assert "torn.png" in html
    assert verdict(drift).startswith("drift of embedding, brightness")
    assert verdict(drift).endswith("fewer than one window in 100 looks so unlike the validation")


def test_a_log_tells_when_and_how_its_bound_holds() -> None:
    window = replace(MOVED, begins=AT, ends=AT)
    alarm = Alarm(17, {"brightness": 0.9, "score": 0.1})
    watch = Watch(np.array([1.0, 2e5]), 100_000.0, alarm, AT, (window,))
    html = render(found(window, watch=watch), {}, [])
    assert (
        "Drift of brightness, score: enough evidence at picture 17 (2026-11-01 12:30 UTC)" in html
    )
    assert "false once in 100,000 pictures on average" in html
    assert "2026-11-01 12:30" in html
    assert "evidence 200,000, alarm at 100,000" in html
    endless = replace(watch, evidence=np.array([1e15]))
    assert "over 10,000,000" in render(found(window, watch=endless), {}, [])
    quiet = Watch(np.array([1.0]), 100_000.0, None, None, (replace(QUIET, begins=AT, ends=AT),))
    assert verdict(found(watch=quiet)) == "no drift: the evidence never reached 100,000"


def test_what_is_not_known_is_told() -> None:
    look = look_at(REFERENCE, blind(make_sample(30, 1)), 0.01)
    html = render(found(look), {}, [])
    assert "one side does not know them: embedding, brightness, contrast" in html
