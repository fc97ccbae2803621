"""Pictures in files are held against the reference, and what cannot be read is told."""

import json
from pathlib import Path

import pytest
from drifting import draw, save, with_reference

from pulmo.core.bundle import Bundle
from pulmo.errors import DataError
from pulmo.jobs import drift_files
from pulmo.jobs.drift_files import judge_files


@pytest.fixture(scope="module")
def bundle(toy_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return with_reference(toy_bundle, tmp_path_factory.mktemp("drift") / "bundle")


def test_pictures_like_the_reference_do_not_alarm(bundle: Bundle, tmp_path: Path) -> None:
    folder = save(tmp_path / "pictures", draw(50, 1))
    found = judge_files(bundle, [str(folder)], tmp_path / "out", 0.01)
    assert not found.alarm
    assert (found.moved, found.failed, found.watch) == ((), {}, None)
    assert found.look.report.pictures == 50
    assert found.look.expected.doubt is None
    assert found.model_digest == bundle.info.model_digest
    written = json.loads((tmp_path / "out/drift.json").read_text(encoding="utf-8"))
    assert written == json.loads(json.dumps(found.document()))
    names = {"drift.html", "drift.json"}
    names |= {f"drift-{name}.png" for name in ("findings", "likeness", "values")}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names


def test_brighter_pictures_alarm_and_the_page_shows_them(bundle: Bundle, tmp_path: Path) -> None:
    folder = save(tmp_path / "pictures", draw(50, 1, lift=50))
    found = judge_files(bundle, [str(folder)], tmp_path / "out", 0.01)
    assert found.alarm
    assert "brightness" in found.moved
    page = (tmp_path / "out/drift.html").read_text(encoding="utf-8")
    assert page.count("<code>00") == drift_files.SHOWN
    assert "Drift of" in page


def test_equal_pictures_give_equal_bytes(bundle: Bundle, tmp_path: Path) -> None:
    folder = save(tmp_path / "pictures", draw(25, 1))
    for out in ("one", "two"):
        judge_files(bundle, [str(folder)], tmp_path / out, 0.01)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


def test_what_cannot_be_read_is_told_and_does_not_count(bundle: Bundle, tmp_path: Path) -> None:
    folder = save(tmp_path / "pictures", draw(20, 1))
    (folder / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    inputs = [str(folder), str(tmp_path / "nowhere.png")]
    found = judge_files(bundle, inputs, tmp_path / "out", 0.01)
    assert found.look.report.pictures == 20
    assert sorted(Path(path).name for path in found.failed) == ["nowhere.png", "torn.png"]
    (folder / "0000.png").unlink()
    told = r"19 pictures \(2 of the inputs could not be read\) .* at least 20 are needed"
    with pytest.raises(DataError, match=told):
        judge_files(bundle, inputs, tmp_path / "again", 0.01)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match="0 pictures"):
        judge_files(bundle, [str(empty)], tmp_path / "again", 0.01)
    assert not (tmp_path / "again").exists()


def test_of_many_files_some_are_looked_at(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drift_files, "MOST", 30)
    folder = save(tmp_path / "pictures", draw(70, 1))
    found = judge_files(bundle, [str(folder)], tmp_path / "out", 0.01)
    assert found.look.report.pictures == 30


def test_without_matplotlib_there_is_a_page_without_plots(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pulmo.jobs.drift_page.find_spec", lambda name: None)
    folder = save(tmp_path / "pictures", draw(20, 1))
    judge_files(bundle, [str(folder)], tmp_path / "out", 0.01)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"drift.html", "drift.json"}
