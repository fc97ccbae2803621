import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pulmo.core.bundle import Bundle
from pulmo.errors import DataError
from pulmo.jobs.predict import Prediction, find, predict


@pytest.fixture
def pictures(tmp_path: Path, grey_png: Callable[[int], bytes]) -> Path:
    folder = tmp_path / "pictures"
    for name, level in (("a.png", 250), ("b/a.png", 10), ("b/c/d.PNG", 128)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(grey_png(level))
    (folder / "notes.txt").write_text("no picture")
    return folder


def ask(bundle: Bundle, *inputs: object, overlay: Path | None = None) -> list[Prediction]:
    return list(predict(bundle, map(str, inputs), overlay=overlay))


def test_a_folder_is_answered_picture_by_picture(toy_bundle: Bundle, pictures: Path) -> None:
    found = ask(toy_bundle, pictures)
    assert [Path(one.path).relative_to(pictures).as_posix() for one in found] == [
        "a.png",
        "b/a.png",
        "b/c/d.PNG",
    ]
    assert [one.label for one in found] == ["BRIGHT", "DARK", "BRIGHT"]
    assert [one.decision for one in found] == ["accept", "accept", "refer"]
    assert found[0].probability == pytest.approx(1 / (1 + np.exp(-2 * 8 * (250 / 255 - 0.5))))
    assert found[0].probabilities["DARK"] == pytest.approx(
        1 - (found[0].probability or 0), abs=1e-6
    )
    assert {one.model_digest for one in found} == {toy_bundle.info.model_digest}


def test_files_and_patterns_are_found_in_the_order_given(pictures: Path) -> None:
    inputs = [str(pictures / "b" / "**" / "*.[pP]*"), str(pictures / "a.png"), "-", "missing"]
    found = [one.removeprefix(f"{pictures}{os.sep}") for one in find(inputs)]
    assert found == ["b/a.png", "b/c/d.PNG", "a.png", "-", "missing"]


def test_what_cannot_be_read_is_told_and_the_rest_goes_on(
    toy_bundle: Bundle, pictures: Path
) -> None:
    empty = pictures / "empty"
    empty.mkdir()
    inputs = [pictures / "notes.txt", "missing.png", empty, pictures / "a.png"]
    notes, missing, nothing, right = ask(toy_bundle, *inputs)
    assert "not a picture" in (notes.error or "")
    assert missing.error == "No such file or directory"
    assert nothing.error == "the folder holds no pictures"
    assert (notes.label, notes.probability, notes.decision) == (None, None, None)
    assert (right.label, right.error) == ("BRIGHT", None)


def test_a_group_with_no_readable_picture_asks_no_model(toy_bundle: Bundle) -> None:
    assert [one.error is not None for one in ask(toy_bundle, *["missing"] * 20)] == [True] * 20


def test_more_pictures_than_a_batch_keep_their_order(toy_bundle: Bundle, pictures: Path) -> None:
    order = [pictures / "a.png", pictures / "b/a.png", "missing"] * 15
    labels = [one.label for one in ask(toy_bundle, *order)]
    assert labels == ["BRIGHT", "DARK", None] * 15


def test_a_picture_comes_from_standard_input(
    toy_bundle: Bundle, grey_png: Callable[[int], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    stdin = io.TextIOWrapper(io.BytesIO(grey_png(255)))
    monkeypatch.setattr("sys.stdin", stdin)
    (found,) = ask(toy_bundle, "-")
    assert (found.path, found.label) == ("-", "BRIGHT")


def test_what_is_out_of_distribution_gets_no_label(toy_bundle: Bundle, tmp_path: Path) -> None:
    stripes = np.zeros((16, 16), dtype=np.uint8)
    stripes[:, ::8] = 255
    stripes[:8] = 0
    Image.fromarray(stripes).save(tmp_path / "strange.png")
    (found,) = ask(toy_bundle, tmp_path / "strange.png")
    assert (found.label, found.decision) == (None, "refer")
    assert "unlike" in found.reasons[0]
    assert found.probability is not None


def test_heat_maps_of_equally_named_files_do_not_collide(
    toy_bundle: Bundle, pictures: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "heat"
    found = ask(toy_bundle, pictures, "missing", overlay=folder)
    drawn = [one.overlay for one in found[:3] if one.overlay is not None]
    assert len(set(drawn)) == 3
    assert sorted(drawn) == sorted(folder.iterdir())
    assert found[3].overlay is None
    with Image.open(drawn[0]) as image:
        assert (image.mode, image.size) == ("RGB", (512, 512))


def test_the_heat_map_of_standard_input_has_a_name(
    toy_bundle: Bundle,
    grey_png: Callable[[int], bytes],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(grey_png(255))))
    (found,) = ask(toy_bundle, "-", overlay=tmp_path)
    assert found.overlay is not None
    assert found.overlay.name.startswith("stdin-")


def test_heat_maps_are_refused_where_the_model_draws_none(
    make_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    blind = make_bundle(tmp_path / "blind", outputs=("probabilities", "logits", "embedding"))
    with pytest.raises(DataError, match="draws no heat maps"):
        ask(blind, "x.png", overlay=tmp_path / "heat")


def test_pictures_are_read_only_as_answers_are_taken(toy_bundle: Bundle, pictures: Path) -> None:
    taken = []

    def endless() -> object:
        while True:
            taken.append(1)
            yield str(pictures / "a.png")

    answers = predict(toy_bundle, endless())
    assert next(answers).label == "BRIGHT"
    assert len(taken) == 1
