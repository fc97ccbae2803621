import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pulmo.config.settings import load
from pulmo.core.bundle import Bundle
from pulmo.core.ports import ModelRef, Version
from pulmo.errors import RefusedError
from pulmo.jobs import release
from pulmo.jobs.rehearsal import _workflow
from pulmo.wiring import open_queue, open_registry

Cli = Callable[..., tuple[int, str, str]]
NAME = "phantom-demo"  # a name that a data set declares, so that a worker knows how to judge it


@pytest.fixture
def model(cli: Cli, tmp_path: Path, make_bundle: Callable[..., Bundle]) -> str:
    """A registered model in the folder of `cli`; its reference."""
    bundle = make_bundle(tmp_path / "made", name=NAME)
    return open_registry(load()).register(bundle.path, actor="ada").label


@pytest.fixture
def no_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    """No staged tests: they take a process and a data set."""

    def judge(registry: Any, version: Version, *_: object) -> None:
        raise RefusedError(f"{version.label} was not liked")

    monkeypatch.setattr(release, "judge", judge)


def told(cli: Cli, *arguments: object) -> Any:
    code, out, err = cli(*arguments, "--json")
    assert code == 0, err
    return json.loads(out)


@pytest.mark.usefixtures("no_judge")
def test_what_was_staged_for_later_is_delivered_worked_at_and_listed(cli: Cli, model: str) -> None:
    code, out, _ = cli("registry", "stage", model, "--later")
    assert (code, out) == (0, f"{model} is staged: `pulmo hooks work` tests it\n")
    assert told(cli, "hooks", "list") == {"deliveries": [], "jobs": []}
    assert told(cli, "hooks", "deliver") == {"arrived": 1, "failed": 0}
    assert cli("hooks", "deliver")[1] == "0 delivered, 0 failed\n"
    (job,) = told(cli, "hooks", "list")["jobs"]
    assert (job["state"], job["name"]) == ("waiting", NAME)
    assert cli("hooks", "work")[1] == f"refused: {model} was not liked\n"
    assert told(cli, "hooks", "list")["jobs"] == []
    everything = told(cli, "hooks", "list", "--all")
    assert [d["state"] for d in everything["deliveries"]] == ["delivered"]
    assert [j["state"] for j in everything["jobs"]] == ["refused"]
    assert job["key"] in cli("hooks", "list", "--all")[1]


@pytest.mark.usefixtures("no_judge")
def test_a_refusal_in_the_foreground_ends_with_three(cli: Cli, model: str) -> None:
    code, _, err = cli("registry", "stage", model)
    assert code == 3
    assert f"{model} was not liked" in err


def test_without_a_worker_here_staging_says_who_was_told(
    cli: Cli, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PULMO_HOOKS_TARGETS", "https://hooks.invalid/x")
    monkeypatch.setenv("PULMO_HOOKS_SECRET", "secret-0123456789")
    code, out, err = cli("registry", "stage", model)
    assert code == 0, err
    assert out == f"{model} is staged, and https://hooks.invalid/x told of it\n"
    assert "did not take" in err
    (waiting,) = told(cli, "hooks", "list")["deliveries"]
    assert (waiting["state"], waiting["attempts"]) == ("waiting", 1)


def test_github_is_refused_before_anything_moves(
    cli: Cli, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PULMO_HOOKS_TARGETS", "github")
    monkeypatch.setenv("PULMO_HOOKS_GITHUB_REPOSITORY", "me/mine")
    monkeypatch.setenv("PULMO_HOOKS_GITHUB_TOKEN", "github-token-0123456789")
    code, _, err = cli("registry", "stage", model)
    assert code == 2
    assert "this machine alone" in err
    assert open_registry(load()).get(ModelRef.parse(model)).aliases == ("best", "latest")


@pytest.mark.usefixtures("no_judge")
def test_reconcile_finds_what_no_event_told(cli: Cli, model: str) -> None:
    cli("registry", "stage", model, "--later")
    (found,) = told(cli, "hooks", "reconcile")
    assert found["told"] == f"{model} is not tested: queued"
    assert cli("hooks", "reconcile")[1].splitlines()[0].split() == ["model", "alias", "seen"]


def test_what_failed_is_tried_again_when_asked_for(cli: Cli, model: str) -> None:
    assert cli("hooks", "resend")[0] == 2
    assert cli("hooks", "resend", "x", "--all")[0] == 2
    code, _, err = cli("hooks", "resend", "unknown")
    assert code == 1
    assert "no delivery" in err
    queue = open_queue(load())
    queue.enqueue("event:1", NAME, {"ref": model})
    job = queue.claim()
    assert job is not None
    queue.finish(job, "failed", "no data")
    assert told(cli, "hooks", "resend", "event:1") == {"deliveries": 0, "jobs": 1}
    assert cli("hooks", "resend", "--all")[1] == ("0 deliveries and 0 jobs will be tried again\n")


@pytest.mark.usefixtures("no_judge")
def test_a_rehearsal_shows_every_step_and_moves_nothing(cli: Cli, model: str) -> None:
    registry = open_registry(load())
    before = registry.history(NAME)
    steps = told(cli, "hooks", "rehearse", "--model", model)
    answers = [step["told"].get("answer", "") for step in steps]
    assert [answer[:20] for answer in answers if answer] == ['202 {"status": "queu'] * 2
    assert [s["told"]["state"] for s in steps if s["title"] == "worked"] == ["refused", "refused"]
    _, out, _ = cli("hooks", "rehearse", "--model", model)
    assert "Bearer ***" in out
    assert "ADD_ARTIFACT_ALIAS" in out
    assert registry.history(NAME) == before
    assert open_queue(load()).jobs() == []


def test_a_rehearsal_names_the_workflow_that_would_start(tmp_path: Path) -> None:
    assert _workflow(tmp_path).title.startswith("no workflow")
    (tmp_path / "other.yaml").write_text("on: push\njobs: {}\n")
    (tmp_path / "stage.yaml").write_text(
        "on:\n  repository_dispatch:\n    types: [staged_model]\n"
        "jobs:\n  one:\n    steps:\n      - uses: x\n      - run: invoke stage\n"
    )
    assert _workflow(tmp_path).told == {"stage.yaml": ["invoke stage"]}
