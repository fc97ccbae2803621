import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pulmo.verbs import loop

Cli = Callable[..., tuple[int, str, str]]

SMALL = (
    "data=phantom",
    "debug=fast",
    "data.phantom.images=500",
    "data.phantom.size=32",
    "trainer.max_epochs=8",
    "evaluate.resamples=100",
)
EASY = (
    "gate.floors.auroc=0.1",
    "gate.floors.balanced_accuracy=0.1",
    "gate.class_floor=0",
    "gate.ece=1",
    "gate.stability=0",
    "gate.nonsense=0",
    "gate.latency_ratio=100",
    "gate.min_per_class=2",
    "gate.resamples=200",
    "gate.above_baseline=-1",
    "gate.false_alarms=1",
    "gate.direction=0",
    "gate.robustness_floor=0",
    "gate.grey_gain=1",
    "gate.more_referred=-1",
)


def test_the_verbs_of_the_loop_pass_their_work_on(cli: Cli) -> None:
    def told(*arguments: object, expect: int = 0) -> Any:
        code, out, err = cli(*arguments, "--json")
        assert code == expect, err
        return json.loads(out)

    report = told("data", *SMALL)["report"]
    assert sum(sum(found.values()) for found in report["counts"].values()) == 500
    _, out, _ = cli("data", *SMALL)
    assert out.splitlines()[0].split() == ["split", "NORMAL", "PNEUMONIA", "all"]
    assert report["digest"][:12] in out.splitlines()[-1]

    code, out, _ = cli("train", *SMALL, "run.dir=runs/one", "--stage", *EASY)
    assert code == 0
    assert "passed (against no champion)" in out
    assert "val    auroc" in out
    trained = told("train", *SMALL, "run.dir=runs/two", "seed=1")
    assert trained["verdict"] is None
    assert 0 <= trained["metrics"]["val"]["auroc"]["value"] <= 1

    runs = told("runs", "list")
    assert {run["dir"]: run["status"] for run in runs} == {"runs/one": "done", "runs/two": "done"}
    assert trained["model_digest"][:12] in cli("runs", "list")[1]

    newest = told("export", "data=phantom")
    assert newest["model"] == trained["model_digest"]
    assert "runs/one/bundle" in cli("export", "--run", "runs/one")[1]

    impossible = (*EASY, "gate.floors.auroc=1.0")
    verdict = told("test-staged", "phantom-demo:v0", *impossible, expect=3)
    assert not verdict["passed"]


def test_a_folder_that_is_not_there_cannot_be_staged(cli: Cli) -> None:
    code, _, err = cli("registry", "stage", "./nowhere")
    assert (code, "is no folder" in err) == (1, True)


def test_the_tests_pass_their_code_on(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    checkout = tmp_path / "checkout"
    (checkout / "tests").mkdir(parents=True)
    fake = checkout / "src" / "pulmo" / "verbs" / "loop.py"
    monkeypatch.setattr(loop, "__file__", str(fake))
    (checkout / "tests" / "test_one.py").write_text("def test_one():\n    assert False\n")
    assert cli("test")[0] == 1
    (checkout / "tests" / "test_one.py").write_text("def test_one():\n    pass\n")
    assert cli("test")[0] == 0


def test_an_installed_package_has_no_tests_to_run(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(loop, "__file__", str(tmp_path / "a" / "b" / "c" / "loop.py"))
    code, _, err = cli("test")
    assert (code, "checkout" in err) == (2, True)
