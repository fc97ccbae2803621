import json
from pathlib import Path

from pulmo.jobs.runs import find


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
