import csv
import io
from collections.abc import Callable
from typing import Any

import pytest
from ui import answers
from ui.answers import Answered, Item
from ui.api import Api, ApiError

from pulmo.config.settings import Settings
from pulmo.core.bundle import Bundle
from pulmo.serving.app import create_app
from pulmo.serving.models import Pinned, Present


def rows(table: bytes) -> list[dict[str, str]]:
    assert table.startswith(b"\xef\xbb\xbf")
    return list(csv.DictReader(io.StringIO(table.decode("utf-8-sig"), newline="")))


def test_a_picture_is_answered_once_and_its_bytes_are_let_go(
    open_api: str, grey_png: Callable[[int], bytes]
) -> None:
    item = Item("a.png", grey_png(200))
    item.ask(Api(open_api))
    assert item.encoded == b""
    assert item.answered is not None
    assert item.answered.answer is not None
    assert item.answered.answer["prediction"] == "BRIGHT"
    assert item.answered.made is not None
    assert not {"image_png", "heatmap_png"} & set(item.answered.answer)


def test_a_torn_picture_has_its_own_trouble(open_api: str) -> None:
    told = answers.ask(Api(open_api), "torn.png", b"torn").trouble
    assert told is not None
    assert told.status == 400


def test_a_trouble_of_all_leaves_the_picture_waiting(grey_png: Callable[[int], bytes]) -> None:
    item = Item("a.png", grey_png(1))
    with pytest.raises(ApiError):
        item.ask(Api("http://127.0.0.1:9"))
    assert (item.answered, item.encoded) == (None, grey_png(1))


def test_a_model_without_heat_maps_is_asked_without(
    running: Callable[..., Any],
    make_bundle: Callable[..., Bundle],
    tmp_path_factory: pytest.TempPathFactory,
    grey_png: Callable[[int], bytes],
) -> None:
    folder = tmp_path_factory.mktemp("plain")
    outputs = ("probabilities", "logits", "embedding")
    bundle = make_bundle(folder / "bundle", outputs=outputs)
    app = create_app(Settings(keys_dir=folder / "keys"), Present(Pinned(bundle)))
    with running(app) as url:
        one = answers.ask(Api(url), "a.png", grey_png(200))
    assert one.answer is not None
    assert one.made is None
    assert one.picture is not None
    assert one.picture.size == (32, 32)


def test_an_answer_that_is_none_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for sent in ({"prediction": "A"}, ["A"], {"image_png": "x"}):
        monkeypatch.setattr(Api, "predict", lambda *_, sent=sent, **__: sent)
        told = answers.ask(Api("http://127.0.0.1:9"), "a", b"")
        assert told.trouble is not None
        assert "cannot be read" in told.trouble.detail


def test_the_table_has_a_line_a_picture(open_api: str, grey_png: Callable[[int], bytes]) -> None:
    asked = Api(open_api)
    told = [
        answers.ask(asked, "=1+1.png", grey_png(200)),
        answers.ask(asked, "b, c.png", grey_png(128)),
        answers.ask(asked, "torn", b"torn"),
    ]
    first, second, torn = rows(answers.table(told))
    assert list(first) == [*answers.HEADS, "p(BRIGHT)", "p(DARK)", *answers.TAIL]
    assert first["file"] == "'=1+1.png"
    assert (first["prediction"], first["decision"], first["problem"]) == ("BRIGHT", "accept", "")
    assert float(first["p(BRIGHT)"]) + float(first["p(DARK)"]) == pytest.approx(1)
    assert (first["model"], first["version"], len(first["model_digest"])) == ("toy", "", 64)
    assert (second["decision"], "a human decides" in second["reasons"]) == ("refer", True)
    assert (torn["file"], torn["prediction"], torn["id"]) == ("torn", "", "")
    assert torn["problem"] == told[2].trouble.detail  # type: ignore[union-attr]


@pytest.mark.parametrize("begin", ["=", "+", "-", "@", "\t", "\r", " =", "\n=", "＝", "＠"])
def test_no_cell_is_a_formula(begin: str) -> None:
    made = answers.table([Answered(f"{begin}cmd", trouble=ApiError(f"{begin}x", 400))])
    (row,) = rows(made)
    assert row["file"] == f"'{begin}cmd"
    assert row["problem"] == f"'{begin}x"
    assert answers.harmless("a=1") == "a=1"
    assert answers.harmless(-1.5) == -1.5


def test_an_empty_table_has_its_heads() -> None:
    assert rows(answers.table([])) == []
