"""The commit of a checkout is found and its state told truly."""

import subprocess
from pathlib import Path

import pytest

from pulmo.core.bundle import Lineage
from pulmo.jobs import lineage
from pulmo.jobs.lineage import CHANGED, RECALIBRATED, commit_of, resumed, unreproducible


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@t.invalid"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_a_checkout_has_a_commit_and_is_clean_until_a_file_changes(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / "a").write_text("1")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-qm", "one")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert commit_of(tmp_path) == (head, True)
    (tmp_path / "a").write_text("2")
    assert commit_of(tmp_path) == (head, False)


def test_a_folder_inside_a_checkout_of_something_else_has_no_commit(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / "site-packages").mkdir()
    assert commit_of(tmp_path / "site-packages") == (None, None)


def test_a_folder_outside_git_has_no_commit(tmp_path: Path) -> None:
    assert commit_of(tmp_path) == (None, None)


@pytest.mark.parametrize(
    ("commit", "clean", "reason"),
    [
        ("a" * 40, True, None),
        ("a" * 40, False, "uncommitted changes to commit aaaaaaaaaaaa"),
        ("a" * 40, None, "uncommitted changes"),
        (None, None, "outside a git checkout"),
    ],
)
def test_only_a_clean_commit_can_be_trained_again(
    commit: str | None, clean: bool | None, reason: str | None
) -> None:
    found = unreproducible(trained(commit, clean))
    assert (found is None) if reason is None else (found is not None and reason in found)


def trained(commit: str | None, clean: bool | None, *notes: str) -> Lineage:
    return Lineage(
        data_name="toy",
        data_digest="0" * 64,
        commit=commit,
        clean=clean,
        configuration={},
        seed=0,
        machine="none",
        created_at="2026-01-01T00:00:00+00:00",
        notes=notes,
    )


@pytest.mark.parametrize(
    ("now", "told"),
    [
        (("a" * 40, True), None),
        (("b" * 40, True), f"commit {'b' * 40}"),
        (("b" * 40, False), f"commit {'b' * 40} with uncommitted changes"),
        (("a" * 40, False), f"commit {'a' * 40} with uncommitted changes"),
        ((None, None), "no checkout"),
    ],
)
def test_a_run_that_goes_on_with_other_code_says_so_once(
    monkeypatch: pytest.MonkeyPatch, now: tuple[str | None, bool | None], told: str | None
) -> None:
    monkeypatch.setattr(lineage, "commit_of", lambda _: now)
    origin = trained("a" * 40, True, "a note")
    once = resumed(origin)
    assert once.commit == origin.commit
    assert once.notes == (("a note",) if told is None else ("a note", f"{lineage.RESUMED}: {told}"))
    assert resumed(once) == once
    assert (unreproducible(once) is None) == (told is None)


def test_a_model_that_no_training_gives_is_not_trained_again() -> None:
    changed = trained("a" * 40, True, "doctor.allow_errors", f"{CHANGED}: noise")
    assert unreproducible(changed) == "it was changed after its training: noise"
    assert unreproducible(trained("a" * 40, True, f"{RECALIBRATED} a@b")) is None


def test_what_was_exported_from_a_commit_names_it(tmp_path: Path) -> None:
    (tmp_path / "COMMIT").write_text("a" * 40 + "\n")
    assert commit_of(tmp_path) == ("a" * 40, True)
    (tmp_path / "COMMIT").write_text("the newest\n")
    assert commit_of(tmp_path) == (None, None)
    (tmp_path / "COMMIT").write_text("a" * 40 + "\n")
    git(tmp_path, "init", "-q")  # a checkout knows better
    assert commit_of(tmp_path) == (None, None)
