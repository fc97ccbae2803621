import json
from pathlib import Path

import pytest

from pulmo.errors import ModelError
from pulmo.jobs.runs import Difference, compare, find


def write(root: Path, name: str, document: object) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    text = document if isinstance(document, str) else json.dumps(document)
    (folder / "run.json").write_text(text)
    return folder


def test_runs_are_listed_newest_first(tmp_path: Path) -> None:
    whole = {
        "name": "toy",
        "status": "done",
        "recipe": "probe",
        "model_digest": "ab",
        "data_digest": "cd",
        "metrics": {"val": {"auroc": 0.9}},
    }
    old = write(tmp_path, "a", {**whole, "created_at": "2026-01-01T00:00:00+00:00"})
    new = write(tmp_path, "deep/b", {**whole, "created_at": "2026-01-02T00:00:00+00:00"})
    (tmp_path / "no-run").mkdir()
    runs = find(tmp_path)
    assert [run.dir for run in runs] == [new, old]
    assert (runs[0].name, runs[0].model_digest, runs[0].note) == ("toy", "ab", None)
    assert runs[0].score("auroc") == 0.9
    assert runs[0].score("f1") is None


def test_a_failed_run_says_why(tmp_path: Path) -> None:
    told = {"name": "toy", "status": "failed", "created_at": "2026", "error": "DataError: gone"}
    write(tmp_path, "a", told)
    assert find(tmp_path)[0].note == "DataError: gone"


def test_damaged_runs_are_listed_last_with_a_note(tmp_path: Path) -> None:
    write(tmp_path, "broken", "{")
    write(tmp_path, "list", [])
    write(tmp_path, "thin", {"name": 3, "status": "done", "metrics": {"val": 1}})
    right = write(tmp_path, "right", {"name": "t", "status": "done", "created_at": "2026"})
    runs = {run.dir.name: run for run in find(tmp_path)}
    assert next(iter(runs)) == right.name
    assert "cannot be read" in (runs["broken"].note or "")
    assert runs["list"].note == "run.json holds no run"
    assert runs["thin"].note == "run.json lacks name, created_at"
    assert runs["thin"].metrics == {}


def test_no_folder_holds_no_runs(tmp_path: Path) -> None:
    assert find(tmp_path / "nowhere") == []


def run_of(root: Path, name: str, configuration: object, metrics: object) -> Path:
    document = {"name": "toy", "status": "done", "created_at": "2026", "metrics": metrics}
    folder = write(root, name, document)
    lineage = {
        "data_name": "toy",
        "data_digest": "0" * 64,
        "configuration": configuration,
        "seed": 0,
        "machine": "none",
        "created_at": "2026",
    }
    (folder / "lineage.json").write_text(json.dumps(lineage))
    return folder


def test_two_runs_are_told_apart_by_what_was_configured_and_came_out(tmp_path: Path) -> None:
    one = {"seed": 0, "model": {"options": {}, "size": 96}, "recipe": {"balance": True}}
    two = {"seed": 0, "model": {"options": {"width": 8}, "size": 64}, "recipe": {"balance": True}}
    one["run"], two["run"] = {"dir": "a"}, {"dir": "b"}  # where a run lies decides nothing
    first = run_of(tmp_path, "one", one, {"val": {"auroc": 0.9, "f1": 0.5}})
    run_of(tmp_path, "two", two, {"val": {"auroc": 0.9}})
    found = compare(str(first), "two", tmp_path)
    assert [run.dir.name for run in found.runs] == ["one", "two"]
    assert found.configuration == (
        Difference("model.options", {}, None),
        Difference("model.size", 96, 64),
        Difference("model.options.width", None, 8),
    )
    assert found.metrics == (Difference("auroc", 0.9, 0.9), Difference("f1", 0.5, None))


def test_a_run_without_metrics_can_be_compared(tmp_path: Path) -> None:
    run_of(tmp_path, "one", {"seed": 0}, {})
    found = compare("one", "one", tmp_path)
    assert (found.configuration, found.metrics) == ((), ())


def test_what_is_no_run_is_named(tmp_path: Path) -> None:
    run_of(tmp_path, "one", {}, {})
    with pytest.raises(ModelError, match="other is no run"):
        compare("one", "other", tmp_path)
