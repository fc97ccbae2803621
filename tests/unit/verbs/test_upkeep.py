"""The verbs of upkeep pass their work on, print it both ways and end with the right code."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pulmo.config.schema import Config
from pulmo.core.ports import Verdict
from pulmo.jobs.doctor import Finding
from pulmo.jobs.reproduce import Line, Reproduction
from pulmo.verbs.staging import Staged
from pulmo.wiring import open_bundle_folder

Cli = Callable[..., tuple[int, str, str]]

SMALL = (
    "data=phantom",
    "debug=fast",
    "data.phantom.images=160",
    "data.phantom.size=32",
    "evaluate.resamples=100",
    "decision.neighbours=2",
)


def told(cli: Cli, *arguments: object, expect: int = 0) -> Any:
    code, out, err = cli(*arguments, "--json")
    assert code == expect, err
    return json.loads(out)


def test_a_model_is_trained_from_a_file_recalibrated_staged_and_compared(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli("data", *SMALL)[0] == 0
    config = told(cli, "config", "show", "train", *SMALL, "run.dir=runs/one")["config"]
    Path("config.json").write_text(json.dumps(config))
    assert cli("train", "--config", "config.json", "seed=1")[0] == 2
    trained = told(cli, "train", "--config", "config.json")
    assert trained["run"] == "runs/one"

    changed = ("evaluate.resamples=100", "decision.neighbours=2", "decision.refer=0.2")
    found = told(cli, "recalibrate", "runs/one", *changed, "run.dir=runs/three")
    assert found["verdict"] is None
    assert found["model_digest"] not in (trained["model_digest"], None)

    def stage(_: object, target: str, config: Config, reason: str) -> Staged:
        assert (target, config.decision.refer) == ("runs/two", 0.2)
        digest = open_bundle_folder(Path(target)).info.model_digest
        verdict = Verdict("phantom-demo", digest, "suite", None, True, [], "data")
        return Staged("phantom-demo:v0", verdict, ("local",))

    monkeypatch.setattr("pulmo.verbs.staging.stage_now", stage)  # its own tests run it for real
    code, out, _ = cli("recalibrate", "runs/one", *changed, "run.dir=runs/two", "--stage")
    assert code == 0
    told_last = out.splitlines()[-1]
    digest = found["model_digest"][:12]
    assert told_last == f"phantom-demo@{digest} passed (against no champion)"

    compared = told(cli, "runs", "compare", "one", "runs/three")
    told_apart = {one["name"]: (one["first"], one["second"]) for one in compared["configuration"]}
    assert told_apart["decision.refer"] == (0.1, 0.2)
    assert "auroc" in {one["name"] for one in compared["metrics"]}
    lines = cli("runs", "compare", "one", "three")[1].splitlines()
    assert lines[0].split() == ["setting", "one", "three"]
    assert ["decision.refer", "0.1000", "0.2000"] in [line.split() for line in lines]


def test_a_data_set_is_pushed_to_its_address(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli("data", *SMALL)[0] == 0
    code, _, err = cli("data-push", *SMALL)
    assert (code, "PULMO_DATA_URL is not set" in err) == (2, True)
    monkeypatch.setenv("PULMO_DATA_URL", f"file://{tmp_path}/there")
    found = told(cli, "data-push", *SMALL)
    assert found["place"] == f"file://{tmp_path}/there/{found['digest']}"
    assert (tmp_path / "there" / found["digest"] / "dataset.json").is_file()
    assert cli("data-push", *SMALL) == (0, f"{found['place']}\n", "")
    shutil.rmtree(tmp_path / "data")
    assert cli("data-push", *SMALL)[0] == 1


def reproduction(*lines: Line, around: tuple[Line, ...] = ()) -> Callable[..., Reproduction]:
    """What the job gives back, whatever it is asked."""

    def run(_registry: object, _ref: object, _places: object, folder: Path) -> Reproduction:
        return Reproduction("toy:v0", folder, lines, around)

    return run


DIGEST = "a" * 64
EQUAL = (Line("weights", DIGEST, DIGEST), Line("val auroc", "0.9 [0.8, 1.0]", "0.9 [0.8, 1.0]"))


@pytest.fixture
def registry(cli: Cli, tmp_path: Path) -> None:
    from pulmo.config import settings
    from pulmo.wiring import open_registry

    open_registry(settings.load())


def test_an_equal_reproduction_is_shown_and_ends_with_zero(
    cli: Cli, registry: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pulmo.jobs.reproduce.reproduce", reproduction(*EQUAL))
    code, out, _ = cli("reproduce", "toy:v0")
    assert code == 0
    assert [line.split() for line in out.splitlines()] == [
        ["-", "recorded", "reproduced", "same"],
        ["weights", "a" * 12, "a" * 12, "yes"],
        ["val", "auroc", "0.9", "0.9", "yes"],
    ]
    found = told(cli, "reproduce", "toy:v0", "--out", "there")
    assert (found["same"], found["run_dir"]) == (True, "there")
    assert [line["same"] for line in found["lines"]] == [True, True]


def test_another_model_ends_with_three_and_says_what_differs(
    cli: Cli, registry: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Line("val f1", "0.9 [0.8, 1.0]", "0.9 [0.7, 1.0]")
    machine = Line("machine", "Linux, 4 threads", "Linux, 2 threads")
    lines = reproduction(*EQUAL, other, Line("graph", DIGEST, "b" * 64), around=(machine,))
    monkeypatch.setattr("pulmo.jobs.reproduce.reproduce", lines)
    code, out, err = cli("reproduce", "toy:v0")
    assert code == 3
    assert "0.9 [0.7, 1.0]" in out
    assert "another machine: Linux, 4 threads then, Linux, 2 threads now" in out
    assert err.startswith(
        "error: toy:v0 was not reproduced: val f1, graph differ (another machine)"
    )
    assert told(cli, "reproduce", "toy:v0", expect=3)["same"] is False
    monkeypatch.setattr("pulmo.jobs.reproduce.reproduce", reproduction(other))
    assert "the recorded circumstances are the same" in cli("reproduce", "toy:v0")[2]


def test_a_model_that_is_not_registered_is_said(cli: Cli, registry: None) -> None:
    assert cli("reproduce", "toy:v0")[0] == 1
    assert cli("reproduce", "Toy:v0")[0] == 2


@pytest.mark.parametrize(("severity", "code"), [("warning", 0), ("error", 1)])
def test_the_doctor_ends_with_one_where_something_is_broken(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, severity: Any, code: int
) -> None:
    findings = [Finding("a", "ok", "whole"), Finding("b", severity, "torn", "mend it")]
    monkeypatch.setattr("pulmo.jobs.doctor.examine", lambda *_: findings)
    ended, out, _ = cli("doctor")
    assert ended == code
    assert out.splitlines()[1].split() == ["ok", "a", "whole"]
    assert out.splitlines()[-1] == f"{severity}: b: mend it"
    assert told(cli, "doctor", expect=code)[1]["fix"] == "mend it"


def test_the_doctor_examines_a_fresh_folder(cli: Cli) -> None:
    findings = told(cli, "doctor")
    assert {"Python", "ONNX Runtime", "registry"} <= {one["name"] for one in findings}
