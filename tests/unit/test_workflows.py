"""The workflows do only what a task does, with pinned actions, and no payload reaches a shell."""

import ast
import os
import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.y*ml"))
COMMAND = re.compile(
    r"uv sync --locked( --no-default-groups)?( --(only-)?group [a-z]+)*"
    r"|uv run --locked( --no-sync)?( --(only-)?group [a-z]+)* invoke (?P<tasks>.+)"
)
DIGEST = "0123456789abcdef" * 4


def document(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text("utf-8"))


def jobs(path: Path) -> list[dict[str, Any]]:
    return list(document(path)["jobs"].values())


def steps(path: Path) -> list[dict[str, Any]]:
    return [step for job in jobs(path) for step in job.get("steps", [])]


def known_tasks() -> set[str]:
    listed = subprocess.run(
        [sys.executable, "-m", "invoke", "--list", "--list-format=json"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout
    return {task["name"] for task in yaml.safe_load(listed)["tasks"]}


def test_there_are_workflows() -> None:
    assert {path.stem for path in WORKFLOWS} >= {
        "tests", "linting", "data_changes", "train", "stage_model", "test_staged_model",
        "report", "docs", "deploy",
    }  # fmt: skip


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_every_action_is_pinned_to_a_commit(path: Path) -> None:
    used = [step["uses"] for step in steps(path) if "uses" in step]
    used += [job["uses"] for job in jobs(path) if "uses" in job]
    loose = [one for one in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", one)]
    assert [one for one in loose if not one.startswith("$/.github/workflows/")] == []


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_step_is_a_task_and_holds_no_value_from_outside(path: Path) -> None:
    tasks = known_tasks()
    for step in steps(path):
        if "run" in step:
            match = COMMAND.fullmatch(step["run"])
            assert match, step["run"]
            assert "${{" not in step["run"]
            for word in (match["tasks"] or "").split(" --")[0].split():
                assert word in tasks or word == '"$TASK"', word


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_has_the_least_rights(path: Path) -> None:
    rights = document(path)["permissions"]
    assert rights in ({}, {"contents": "read"})
    for job in jobs(path):
        assert "write-all" not in str(job.get("permissions"))
    for step in steps(path):
        if str(step.get("uses", "")).startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


def used_tasks() -> set[str]:
    """Every task that a step of a workflow runs."""
    used = set(matrix_tasks())
    for step in (step for path in WORKFLOWS for step in steps(path) if "run" in step):
        match = COMMAND.fullmatch(step["run"])
        assert match, step["run"]
        used |= set((match["tasks"] or "").split(" --")[0].split()) - {'"$TASK"'}
    return used


def matrix_tasks() -> set[str]:
    matrix = document(ROOT / ".github/workflows/tests.yaml")["jobs"]["tests"]["strategy"]["matrix"]
    return {*matrix["task"], *(one["task"] for one in matrix["include"])}


def executed_by() -> dict[str, set[str]]:
    """Task → the files that run it: `.ci/run`, and tests with "invoke" and its name in a call."""
    found: dict[str, set[str]] = {}
    for line in (ROOT / ".ci/run").read_text("utf-8").splitlines():
        _, invoked, words = line.partition(" invoke ")
        for word in words.split() if invoked else ():
            found.setdefault(word, set()).add(".ci/run")
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            words = [getattr(one, "value", None) for one in words_of(node)]
            for before, word in pairwise(words):
                if before == "invoke" and isinstance(word, str) and not word.startswith("-"):
                    found.setdefault(word, set()).add(path.name)
    return found


def words_of(node: ast.AST) -> list[ast.expr]:
    if isinstance(node, ast.Call):
        return node.args
    return node.elts if isinstance(node, ast.List | ast.Tuple) else []


def test_every_task_of_a_workflow_is_executed_by_a_test_or_by_ci() -> None:
    executed = executed_by()
    assert {task for task in used_tasks() if task not in executed} == set()
    assert executed["lint"] == {".ci/run"}
    assert set(executed) <= known_tasks()


def test_hooks_before_a_commit_are_the_same_tasks() -> None:
    hooks = document(ROOT / ".pre-commit-config.yaml")["repos"]
    assert [repository["repo"] for repository in hooks] == ["local"]
    entries = [hook["entry"] for hook in hooks[0]["hooks"]]
    found = [re.fullmatch(r"uv run --locked invoke ([a-z-]+)", entry) for entry in entries]
    assert all(found), entries
    named = {match[1] for match in found if match}
    assert named <= known_tasks()
    assert {"lint", "types", "layers", "workflows", "test"} <= named


def test_the_matrix_names_tasks() -> None:
    assert matrix_tasks() <= known_tasks()


@pytest.mark.parametrize("tool", [("actionlint",), ("zizmor", "--offline", "--quiet", ".github")])
def test_the_linters_find_nothing(tool: tuple[str, ...]) -> None:
    program = shutil.which(tool[0], path=f"{Path(sys.executable).parent}{os.pathsep}{os.defpath}")
    assert program, f"{tool[0]} is not installed"
    done = subprocess.run(
        [program, *tool[1:]], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def check_event(tmp_path: Path, name: str, digest: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "invoke", "check-event"],
        cwd=ROOT,
        env={
            **os.environ,
            "MODEL_NAME": name,
            "MODEL_DIGEST": digest,
            "GITHUB_OUTPUT": str(tmp_path / "output"),
        },
        capture_output=True,
        text=True,
        check=False,
    )


def test_an_event_names_a_model(tmp_path: Path) -> None:
    assert check_event(tmp_path, "pneumonia", DIGEST).returncode == 0
    assert (tmp_path / "output").read_text() == f"model=pneumonia@{DIGEST}\n"


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("pneumonia\nother=1", DIGEST),
        ("$(touch x)", DIGEST),
        ("--help", DIGEST),
        ("pneumonia", DIGEST[:-1]),
        ("pneumonia", DIGEST + "\n"),
        ("", ""),
    ],
)
def test_what_is_no_model_gets_no_further(tmp_path: Path, name: str, digest: str) -> None:
    done = check_event(tmp_path, name, digest)
    assert done.returncode == 1
    assert "names no model" in done.stderr
    assert not (tmp_path / "output").exists()


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> Any:
    import importlib

    for name in ("STORAGE_EMULATOR_HOST", "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("GDRIVE_CREDENTIALS_DATA", raising=False)
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("scripts.workflow_tasks")


def test_a_missing_login_is_told_in_one_sentence(
    tasks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = tasks.missing_login("gs://bucket/dvc", {}, tmp_path)
    assert "GOOGLE_APPLICATION_CREDENTIALS" in bucket
    assert "gcloud auth application-default login" in bucket
    monkeypatch.setattr(tasks.importlib.util, "find_spec", lambda name: None)
    assert "uv add --group data dvc-gdrive" in tasks.missing_login("gdrive://folder", {}, tmp_path)
    monkeypatch.setattr(tasks.importlib.util, "find_spec", lambda name: name)
    drive = tasks.missing_login("gdrive://folder", {}, tmp_path)
    assert "gdrive_service_account_json_file_path" in drive
    assert "\n" not in bucket + drive


def test_a_login_that_is_there_is_enough(
    tasks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks.importlib.util, "find_spec", lambda name: name)
    given = {"credentialpath": "key.json"}
    assert tasks.missing_login("../.dvc-store", {}, tmp_path) is None
    assert tasks.missing_login("gs://bucket/dvc", given, tmp_path) is None
    file = {"gdrive_service_account_json_file_path": "key.json"}
    assert tasks.missing_login("gdrive://folder", file, tmp_path) is None
    login = tmp_path / tasks.LOGIN
    login.parent.mkdir(parents=True)
    login.write_text("{}")
    assert tasks.missing_login("gs://bucket/dvc", {}, tmp_path) is None
    monkeypatch.setenv("GDRIVE_CREDENTIALS_DATA", "{}")
    assert tasks.missing_login("gdrive://folder", {}, tmp_path) is None
