"""The pages without a browser, over a real API."""

from collections.abc import Callable
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest
from ui import words

from pulmo.core.ports import ModelRef

Pages = Callable[..., AppTest]
AWAY = "http://127.0.0.1:9"


def text(app: AppTest) -> str:
    """All that a page says in words."""
    kinds = (app.title, app.subheader, app.markdown, app.caption, app.error, app.warning)
    more = (app.info, app.success, app.code)
    return "\n".join(str(one.value) for kind in (*kinds, *more) for one in kind)


def drop(app: AppTest, *files: tuple[str, bytes]) -> AppTest:
    told = [(name, content, "application/octet-stream") for name, content in files]
    app.file_uploader[0].set_value(told)
    return app.run()


def tables(app: AppTest) -> str:
    return "\n".join(one.value.to_csv() for one in app.table).replace("\\", "")


@pytest.mark.parametrize("page", ["predict", "model", "registry"])
@pytest.mark.parametrize("address", ["api", "nobody"])
def test_every_page_says_what_it_is_not_for(
    pages: Pages, open_api: str, page: str, address: str
) -> None:
    app = pages(open_api if address == "api" else AWAY, page)
    assert words.INTENDED_USE in text(app)
    assert app.title[0].value.lower() == page


def test_pictures_are_answered_each_by_itself(
    pages: Pages, open_api: str, grey_png: Callable[[int], bytes]
) -> None:
    app = drop(
        pages(open_api),
        ("bright.png", grey_png(200)),
        ("between.png", grey_png(128)),
        ("<b>torn</b>.png", b"torn"),
    )
    said = text(app)
    assert "1 answer accepted" in said
    assert "1 picture for a person" in said
    assert "1 not answered" in said
    assert "**BRIGHT**, with a probability of" in said
    assert "where a human decides" in said.replace("\\", "")
    assert "**This file cannot be read as a picture.**" in said
    assert "<b>" not in said.replace("\\<", "")
    assert [one.value for one in app.slider] == [60, 60]
    assert len(app.get("image")) == 2
    assert "main.py predict PICTURES --model toy" in said


def test_the_slider_changes_the_picture(
    pages: Pages, open_api: str, grey_png: Callable[[int], bytes]
) -> None:
    app = drop(pages(open_api), ("bright.png", grey_png(200)))
    before = app.get("image")[0].proto.imgs[0].url
    app.slider[0].set_value(0).run()
    assert app.get("image")[0].proto.imgs[0].url != before


def test_no_picture_is_asked_twice_and_what_is_taken_out_is_forgotten(
    pages: Pages, open_api: str, grey_png: Callable[[int], bytes]
) -> None:
    app = drop(pages(open_api), ("a.png", grey_png(200)), ("b.png", grey_png(5)))
    first = {name: item.answered for name, item in app.session_state["items"].items()}
    app.run()
    assert {name: item.answered for name, item in app.session_state["items"].items()} == first
    app.switch_page("views/model.py").run()
    app.switch_page("views/predict.py").run()
    assert "2 answers accepted" in text(app)
    next(one for one in app.button if one.label == "Clear").click().run()
    assert app.session_state["items"] == {}
    assert "accepted" not in text(app)


def test_pictures_wait_for_an_api_that_is_away(
    pages: Pages,
    open_api: str,
    grey_png: Callable[[int], bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = drop(pages(AWAY), ("a.png", grey_png(200)))
    assert "**The API is away.**" in text(app)
    assert "1 picture waits for an answer" in text(app)
    monkeypatch.setenv("PULMO_API_URL", open_api)
    app.run()
    assert "1 answer accepted" in text(app)
    assert "waits" not in text(app)


def test_a_key_is_asked_for_and_taken(
    pages: Pages, served: Any, grey_png: Callable[[int], bytes]
) -> None:
    url, key = served.url, served.predict
    app = drop(pages(url), ("a.png", grey_png(200)))
    assert "**The server asks for a key.**" in text(app)
    assert app.text_input(key="key").proto.type == app.text_input(key="key").proto.PASSWORD
    app.text_input(key="key").input("pulmo_wrong").run()
    assert "not known here" in text(app)
    app.text_input(key="key").input(key).run()
    assert "1 answer accepted" in text(app)
    assert key not in text(app)


def test_many_pictures_come_in_pages(
    pages: Pages, open_api: str, grey_png: Callable[[int], bytes]
) -> None:
    app = drop(pages(open_api), *((f"{i}.png", grey_png(200)) for i in range(14)))
    assert "14 answers accepted" in text(app)
    assert len(app.slider) == 12


def test_the_model_page_tells_what_answers(pages: Pages, open_api: str) -> None:
    app = pages(open_api, "model")
    assert [one.value for one in app.metric] == ["0.900"]
    assert "0.850 to 1.000" in text(app)
    assert "DARK, BRIGHT" in tables(app)
    assert "BRIGHT from a probability of 0.500 up" in tables(app)
    assert "toy" in text(app)
    assert "without curves" in text(app)


def test_the_model_page_shows_the_refusal_without_a_key(pages: Pages, served: Any) -> None:
    url = served.url
    assert "**The server asks for a key.**" in text(pages(url, "model"))
    shown = pages(url, "model", key=served.predict)
    assert "registry show toy:v0" in text(shown)


def test_an_api_over_a_bundle_has_no_registry(pages: Pages, open_api: str) -> None:
    assert "this server has no registry" in text(pages(open_api, "registry")).lower()


def test_the_registry_is_shown_with_its_history(pages: Pages, served: Any) -> None:
    app = pages(served.url, "registry", key=served.predict)
    told = tables(app)
    for word in ("v0", "v1", "v2", "production", "auroc 0.9000", "latest: v1 → v2", "promote"):
        assert word in told
    assert "suite digest 555555555555" in told
    assert "<b>more</b>" in told  # escaped in the table itself
    assert r"\<b\>more\<" in "".join(one.value.to_csv() for one in app.table)
    assert "not run yet" in told
    assert "passed. 0.91 ≥ 0.9" in told


def act(app: AppTest, verb: str, **chosen: str) -> AppTest:
    app.segmented_control(key="verb").set_value(verb).run()
    for key, value in chosen.items():
        app.selectbox(key=key.replace("_", "-")).select(value)
    return app.button(key="do").click().run()


def test_aliases_are_moved_with_an_admin_key_alone(pages: Pages, served: Any) -> None:
    url, registry = served.url, served.registry
    history = registry.history("toy")
    app = act(pages(url, "registry", key=served.predict), "stage", version_stage="v1")
    assert "**The server refuses this.**" in text(app)
    assert "admin key" in text(app)
    assert registry.history("toy") == history
    app.text_input(key="admin_key").input(served.admin)
    app.text_input(key="reason").input("try it").run()
    assert "uv run main.py registry stage toy:v1 --later --reason 'try it'" in text(app)
    act(app, "stage", version_stage="v1")
    assert r"Done: staging → v1, by admin" in text(app).replace("\\", "")
    assert registry.get(ModelRef("toy", alias="staging")).number == 1
    act(app, "promote", version_promote="v2")
    assert "**Refused, and nothing was changed.**" in text(app)
    act(app, "promote", version_promote="v1")
    assert registry.get(ModelRef("toy", alias="production")).number == 1
    assert "registry rollback" not in text(app)
    act(app, "rollback")
    assert registry.get(ModelRef("toy", alias="production")).number == 0
    assert "uv run main.py registry rollback toy --reason 'try it'" in text(app)
    assert registry.history("toy")[-1].reason == "try it"
    assert served.admin not in text(app)
