"""A real API on loopback over toy models, and the pages that ask it."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from fastapi import FastAPI
from streamlit.testing.v1 import AppTest

from pulmo.config.settings import Settings
from pulmo.core import keys
from pulmo.core.bundle import Bundle
from pulmo.core.ports import Check, ModelRef, Move, Registry, Verdict, Version
from pulmo.serving.app import create_app
from pulmo.serving.limits import Limits
from pulmo.serving.models import Following, Pinned, Present
from pulmo.serving.registry_routes import Desk
from pulmo.serving.server import listen, make_server
from pulmo.wiring import open_registry

FRONTEND = Path(__file__).parents[3] / "frontend"
SUITE = "5" * 64
REASON = "<b>more</b> *data*"


@contextmanager
def running(app: FastAPI) -> Iterator[str]:
    """The address of `app` while the block runs."""
    server, taken = make_server(app, Limits()), listen("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, args=([taken],))
    thread.start()
    try:
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(name="running", scope="session")
def _running() -> Callable[[FastAPI], AbstractContextManager[str]]:
    return running


@dataclass(frozen=True)
class Served:
    """An API with a registry: three versions of `toy`, v0 of them in production and served."""

    url: str
    registry: Registry
    admin: str
    predict: str


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory, make_bundle: Callable[..., Bundle]
) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    settings = Settings(
        registry_url=f"sqlite:///{folder / 'registry.db'}",
        files_url=str(folder / "files"),
        keys_dir=folder / "keys",
        rate_limit="off",
    )
    registry = open_registry(settings)
    for number in range(3):
        made = make_bundle(folder / str(number), weights=bytes([number]), score=0.9 - number / 10)
        registry.register(made.path, actor="me")
    digests = [one.model_digest for one in registry.versions("toy")]
    check = Check("test_it", True, "0.91 ≥ 0.9")
    for mine, champion in ((digests[0], None), (digests[1], digests[0])):
        registry.record_verdict(Verdict("toy", mine, SUITE, champion, True, [check], "0" * 64))

    def promote(version: Version, actor: str, reason: str) -> Move:
        return registry.promote(
            version.name, version.number, suite_digest=SUITE, actor=actor, reason=reason
        )

    promote(registry.get(ModelRef("toy", version=0)), "me", REASON)
    texts = {}
    for role in ("admin", "predict"):
        texts[role], _ = keys.create(
            settings.keys_dir,
            role,
            "admin" if role == "admin" else "predict",
            any_version=False,
            actor="me",
        )
    present = Present(Following(registry, ModelRef("toy", alias="production")))
    with running(create_app(settings, present, desk=Desk(registry, promote))) as url:
        yield Served(url, registry, **texts)


@pytest.fixture(scope="module")
def open_api(toy_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An API over one bundle that asks this machine for no key."""
    settings = Settings(keys_dir=tmp_path_factory.mktemp("none"))
    with running(create_app(settings, Present(Pinned(toy_bundle)))) as url:
        yield url


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> Callable[..., AppTest]:
    """`pages(url, "registry")`: a page that asks the API at `url`."""

    def show(url: str, page: str = "predict", **typed: str) -> AppTest:
        monkeypatch.setenv("PULMO_API_URL", url)
        app = AppTest.from_file(FRONTEND / "app.py", default_timeout=60).run()
        for key, text in typed.items():
            app.text_input(key=key).input(text)
        if page != "predict":
            app.switch_page(f"views/{page}.py")
        shown = app.run()
        assert [one.value for one in shown.exception] == []
        return shown

    return show
