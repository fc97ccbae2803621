import gc
import threading
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from pulmo.config.settings import Settings
from pulmo.core.bundle import GRAPH, Bundle
from pulmo.core.ports import ModelRef
from pulmo.errors import BusyError, ConfigError, ModelError, NotFoundError, RegistryError
from pulmo.registry.local import LocalRegistry, open_registry
from pulmo.serving import app as application
from pulmo.serving import life
from pulmo.serving.models import Awaited, Following, Model, Pinned, Present, Source

LIVE = ModelRef("toy", alias="live")

OWN = ("127.0.0.1", 50000)


@pytest.fixture
def registry(tmp_path: Path, make_bundle: Callable[..., Bundle]) -> LocalRegistry:
    """Versions v0 and v1, and an alias at v0."""
    registry = open_registry(f"sqlite:///{tmp_path}/registry.db", str(tmp_path / "files"))
    for number in range(2):
        bundle = make_bundle(tmp_path / f"made-{number}", weights=b"%d" % number)
        registry.register(bundle.path, actor="me")
    registry.set_alias("toy", "live", 0, expected=None, actor="me", reason="start")
    return registry


def move(registry: LocalRegistry, before: int, after: int) -> None:
    registry.set_alias("toy", "live", after, expected=before, actor="me", reason="a move")


def version(present: Present) -> str | None:
    return present.model.name.version


def test_a_moved_alias_is_taken_over_and_the_old_model_freed(registry: LocalRegistry) -> None:
    present = Present(Following(registry, LIVE))
    present.refresh()
    old = present.model
    present.refresh()
    assert (present.model is old, version(present), present.swaps) == (True, "v0", 0)
    move(registry, 0, 1)
    present.refresh()
    assert (version(present), present.swaps, old.name.version) == ("v1", 1, "v0")
    former = weakref.ref(old)
    del old
    gc.collect()
    assert former() is None


def test_a_damaged_model_never_takes_over(
    registry: LocalRegistry, grey_png: Callable[[int], bytes]
) -> None:
    present = Present(Following(registry, LIVE))
    present.refresh()
    graph = registry.fetch(ModelRef("toy", version=1)) / GRAPH
    graph.chmod(0o644)
    graph.write_bytes(graph.read_bytes() + b"x")
    move(registry, 0, 1)
    with pytest.raises((ModelError, RegistryError)):
        present.refresh()
    assert version(present) == "v0"
    assert present.model.answer([grey_png(5)], explain=False)[0].prediction == "DARK"


def test_a_removed_alias_leaves_the_present_model(registry: LocalRegistry) -> None:
    present = Present(Following(registry, LIVE))
    present.refresh()
    registry.remove_alias("toy", "live", expected=0, actor="me", reason="gone")
    with pytest.raises(NotFoundError):
        present.refresh()
    assert version(present) == "v0"


def test_a_pinned_model_is_loaded_once(toy_bundle: Bundle) -> None:
    present = Present(Pinned(toy_bundle))
    with pytest.raises(BusyError):
        _ = present.model
    present.refresh()
    first = present.model
    present.refresh()
    assert present.model is first
    assert str(first.name) == f"toy@{toy_bundle.info.model_digest[:12]}"


class Flaky:
    """A source that fails now and then, and counts how often it was asked."""

    moves = True

    def __init__(self, model: Model) -> None:
        self.model, self.asked = model, 0

    def newest(self, present: Model | None) -> Model:
        self.asked += 1
        if self.asked in (2, 3):
            raise RegistryError("the database is away")
        return self.model


def test_a_source_that_fails_is_asked_again_and_told_of_once(
    toy_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(life, "POLL_SECONDS", 0.001)
    source = Flaky(Model(toy_bundle))
    with TestClient(application.create_app(Settings(), Present(source)), client=OWN) as client:
        while source.asked < 6:
            assert client.get("/readyz").status_code == 200
    assert caplog.text.count("the present model stays: the database is away") == 1


def test_a_server_that_waits_begins_without_a_model_and_takes_it_over(
    toy_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(life, "POLL_SECONDS", 0.001)
    asked: list[bool] = []
    there = threading.Event()

    def find() -> Source:
        asked.append(there.is_set())
        if not there.is_set():
            raise ConfigError("no models are in production")
        return Pinned(toy_bundle)

    present = Present(Awaited(find), waits=True)
    with TestClient(application.create_app(Settings(), present), client=OWN) as client:
        while len(asked) < 3:
            unready = client.get("/readyz")
            assert unready.status_code == 503
            assert "no model is there yet" in unready.json()["reason"]
            assert client.get("/livez").status_code == 200
        there.set()
        while client.get("/readyz").status_code != 200:
            assert client.get("/livez").status_code == 200
    assert asked.count(True) == 1
    assert caplog.text.count("there is no model yet: no models are in production") == 1
