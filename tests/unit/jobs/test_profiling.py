"""A profile counts every second once and names what takes the most."""

import json
from pathlib import Path

import pytest
import torch
from pytorch_lightning.profilers import PassThroughProfiler, SimpleProfiler

from pulmo.jobs import profiling
from pulmo.jobs.profiling import Traced


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that the profiler reads; a test moves it."""
    now = [0.0]
    monkeypatch.setattr(profiling.time, "perf_counter", lambda: now[0])
    return now


def test_what_an_inner_action_takes_is_not_the_outer_ones(
    tmp_path: Path, clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "pulmo")
    traced = Traced(tmp_path / "profile", gpu=False)
    with traced.profile("before"):  # no phase has begun
        clock[0] += 5
    for _ in range(12):
        with traced.profile("embedding"):
            torch.ones(8) + 1
            clock[0] += 1
    with traced.profile("run_training_epoch"):
        for _ in range(3):
            with traced.profile("run_training_batch"):
                clock[0] += 1
                with traced.profile("[Strategy]SingleDeviceStrategy.backward"):
                    torch.ones(8) * 2
                    clock[0] += 4
    traced.describe()
    table = (tmp_path / "profile/profile.txt").read_text()
    assert "embedding: 12.00 s in 12 steps" in table
    assert "training: 15.00 s in 3 steps" in table
    assert "backward                    12.00 s   80.0%" in table
    assert "bottleneck of the training: backward, 80% of the time" in caplog.text
    for phase in ("embedding", "training"):
        events = json.loads((tmp_path / f"profile/{phase}.json").read_text())["traceEvents"]
        assert any(str(event.get("name", "")).startswith("aten::") for event in events)


def test_a_training_that_had_nothing_left_to_do_leaves_no_profile(tmp_path: Path) -> None:
    Traced(tmp_path / "profile", gpu=False).describe()
    assert not (tmp_path / "profile").exists()


def test_the_kind_is_what_was_asked_for(tmp_path: Path) -> None:
    assert isinstance(profiling.make(None, tmp_path, gpu=False), PassThroughProfiler)
    assert isinstance(profiling.make("simple", tmp_path, gpu=False), SimpleProfiler)
    assert isinstance(profiling.make("pytorch", tmp_path, gpu=False), Traced)
