from pathlib import Path

import pytest

from pulmo.core.bundle import FILES, GRAPH, SIGNATURE, SUMS, Bundle, verify
from pulmo.errors import ConfigError, ModelError
from pulmo.jobs.download import download


def test_a_download_is_the_same_bundle(toy_bundle: Bundle, tmp_path: Path) -> None:
    made = download(toy_bundle, tmp_path / "deep/copy")
    assert made.digest == toy_bundle.digest
    assert {path.name for path in made.path.iterdir()} == {*FILES, SUMS}


def test_a_signature_comes_along(toy_bundle: Bundle, tmp_path: Path) -> None:
    first = download(toy_bundle, tmp_path / "first")
    (first.path / SIGNATURE).write_bytes(b"signed")
    assert download(verify(first.path), tmp_path / "second").signature == b"signed"


def test_a_folder_that_holds_something_is_left_alone(toy_bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    for taken in (tmp_path, tmp_path / "mine"):
        with pytest.raises(ConfigError, match="is not empty"):
            download(toy_bundle, taken)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_what_changed_meanwhile_is_not_delivered(toy_bundle: Bundle, tmp_path: Path) -> None:
    source = download(toy_bundle, tmp_path / "source")
    (source.path / GRAPH).write_bytes(b"another graph")
    with pytest.raises(ModelError, match="does not match"):
        download(source, tmp_path / "copy")
    foreign = toy_bundle.model_copy(update={"digest": "0" * 64})
    with pytest.raises(ModelError, match="changed while it was copied"):
        download(foreign, tmp_path / "foreign")
