"""The benchmarks run, and what they make of windows is right."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pulmo.core.bundle import Bundle

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks import serving, training  # noqa: E402 - beside the package, not in it
from benchmarks.arms import Window  # noqa: E402
from benchmarks.client import request  # noqa: E402
from benchmarks.page import page  # noqa: E402
from benchmarks.ratios import Row, interval, ratio  # noqa: E402


def test_a_ratio_is_the_median_over_rounds_with_its_interval() -> None:
    rounds = [
        {"a": Window(2 * n, 1.0, 1.0), "b": Window(n, 1.0, 1.0, client=0.8)} for n in range(50, 62)
    ]
    row = ratio("S1", "a ÷ b", rounds, "a", "b", 1.9)
    assert (row.value, row.low, row.high, row.cpu) == (2, 2, 2, 2)
    assert row.reached
    assert "80% of its core" in row.notes[1]


def test_a_goal_is_reached_on_the_worse_bound_only() -> None:
    value, low, high = interval([1.0, 1.1, 1.2, 1.3, 1.4])
    assert low <= value <= high
    assert value == 1.2
    assert Row("S1", "", value, low, high, 1.2).reached is False
    assert Row("S2", "", value, low, high, 1.2, "less").reached is False
    assert Row("S2", "", value, low, high, high, "less").reached is True
    assert Row("S6", "", value, low, high).reached is None


@pytest.mark.parametrize("transport", ["raw", "multipart", "base64"])
def test_a_request_tells_its_length(transport: str) -> None:
    head, _, body = request(b"picture", transport).partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head


@pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="server and client each need a core",
)
def test_a_quick_run_makes_results_and_page(toy_bundle: Bundle, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 400), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.jpeg")
    results = tmp_path / "results.json"
    words = ["--quick", "--only", "S5,T5", "--results", results, "--model", toy_bundle.path]
    words += ["--pictures", tmp_path, "--large", tmp_path]
    command = [sys.executable, "-m", "benchmarks.serving", *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(results.read_text("utf-8"))
    assert list(told["measured"]) == ["S5", "T5"]
    assert all(row["value"] > 0 for one in told["measured"].values() for row in one["rows"])
    assert "| T5 | decode and resize" in page(told)


def test_a_measurement_leaves_the_engine_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def until_listening(_: object) -> float:
        asked.append(os.environ["PULMO_ENGINE"])
        return 1.0

    monkeypatch.setenv("PULMO_ENGINE", "openvino")
    monkeypatch.setattr(serving, "_until_listening", until_listening)
    monkeypatch.setattr(serving.subprocess, "run", lambda *_, **__: None)  # an environment is made
    client: Any = None
    serving.c3(serving.Plan(tmp_path, [], [], 1, 1.0), client)
    assert asked == ["onnxruntime"] * 4
    assert os.environ["PULMO_ENGINE"] == "openvino"


def test_what_training_costs_stands_below_what_serving_costs(tmp_path: Path) -> None:
    row = Row("T1", "training ÷ plain PyTorch + timm, CPU", 1.3, 1.2, 1.4, 1.1).document()
    one = {"rows": [row], "rounds": 12, "seconds": 10.0, "network": "the default", "at": "2026-01"}
    told = page({"measured": {}}, {"machine": {"GPU": "none"}, "measured": {"loops": one}})
    serving, _, training = told.partition("## Training")
    assert "T1" not in serving
    assert "| T1 | training ÷ plain PyTorch + timm, CPU | 1.3 | 1.2 – 1.4 | ≥ 1.1 |" in training
    assert "reached" in training
    assert "## Training" not in page({"measured": {}})


def test_what_ran_whole_is_told_as_often_as_it_ran(tmp_path: Path) -> None:
    row = Row("T4", "time", 0.9, 0.8, 1.0)
    plan = training.Plan((), (), 12, 10.0, 0.98, None, None, on_gpu=False)
    path = tmp_path / "training.json"
    for name in ("loops", "T4", "sweep"):
        training.store(name, [row], plan, path)
    told = page({"measured": {}}, json.loads(path.read_text("utf-8")))
    assert "- loops: 12 rounds of 10 s, the default data set" in told
    for name in ("T4", "sweep"):
        assert f"- {name}: 3 whole runs, the default data set" in told


def test_loops_that_do_not_do_the_same_are_told() -> None:
    training._same([1.0, 0.5], [1.0, 0.5004])
    with pytest.raises(SystemExit, match="the loops disagree"):
        training._same([1.0, 0.5], [1.0, 0.502])
