from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from pulmo.config.settings import Settings
from pulmo.core import keys
from pulmo.core.bundle import Bundle
from pulmo.core.ports import Check, ModelRef, Move, Registry, Verdict, Version
from pulmo.errors import RegistryError
from pulmo.serving.app import create_app
from pulmo.serving.models import Following, Model, Pinned, Present
from pulmo.serving.registry_routes import Desk
from pulmo.wiring import open_registry

OWN = ("127.0.0.1", 50000)
PNG = {"Content-Type": "image/png"}
SUITE = "5" * 64


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        registry_url=f"sqlite:///{tmp_path / 'registry.db'}",
        files_url=str(tmp_path / "files"),
        keys_dir=tmp_path / "keys",
    )


@pytest.fixture
def registry(settings: Settings, make_bundle: Callable[..., Bundle], tmp_path: Path) -> Registry:
    """Three versions of a model, v0 of them `live`."""
    opened = open_registry(settings)
    for number in range(3):
        made = make_bundle(tmp_path / str(number), weights=bytes([number]), score=0.9 - number / 10)
        opened.register(made.path, actor="me")
    opened.set_alias("toy", "live", 0, expected=None, actor="me", reason="start")
    return opened


Ask = Callable[..., Any]


@pytest.fixture
def ask(settings: Settings, registry: Registry) -> Iterator[Ask]:
    """`ask("admin", "POST", path, json=…)`: an answer for a key of a role."""
    heads = {None: {}}
    for role, wide in (("predict", False), ("wide", True), ("admin", False)):
        text, _ = keys.create(
            settings.keys_dir,
            role,
            "admin" if role == "admin" else "predict",
            any_version=wide,
            actor="me",
        )
        heads[role] = {"Authorization": f"Bearer {text}"}
    present = Present(Following(registry, ModelRef("toy", alias="live")))

    def promote(version: Version, actor: str, reason: str) -> Move:
        return registry.promote(
            version.name, version.number, suite_digest=SUITE, actor=actor, reason=reason
        )

    app = create_app(settings, present, desk=Desk(registry, promote))
    with TestClient(app, client=OWN) as client:

        def call(role: str | None, method: str, path: str, **body: Any) -> Any:
            head = {**heads[role], **body.pop("headers", {})}
            return client.request(method, path, headers=head, **body)

        yield call


def passing(registry: Registry, number: int, champion: str | None = None) -> None:
    version = registry.get(ModelRef("toy", version=number))
    check = Check("test_it", True, "fine")
    registry.record_verdict(
        Verdict("toy", version.model_digest, SUITE, champion, True, [check], "0" * 64)
    )


def test_what_there_is_can_be_read_with_a_predict_key(ask: Ask) -> None:
    aliases = {"latest": "v2", "best": "v0", "live": "v0"}
    assert ask("predict", "GET", "/registry/models").json() == [
        {"name": "toy", "versions": 3, "aliases": aliases}
    ]
    told = ask("predict", "GET", "/registry/versions").json()
    assert [one["version"] for one in told] == ["v0", "v1", "v2"]
    assert sorted(told[0]["aliases"]) == ["best", "live"]
    moves = ask("predict", "GET", "/registry/history?name=toy&limit=1").json()
    assert [(one["alias"], one["before"], one["after"]) for one in moves] == [("live", None, "v0")]
    assert ask("predict", "GET", "/registry/versions?name=none").status_code == 404
    assert ask("predict", "GET", "/registry/versions?name=A").status_code == 422
    assert ask(None, "GET", "/registry/models").status_code == 401


def test_one_version_is_told_with_its_origins_and_verdicts(ask: Ask, registry: Registry) -> None:
    passing(registry, 1)
    told = ask("predict", "GET", "/registry/version?version=v1").json()
    assert told["version"]["version"] == "v1"
    (verdict,) = told["verdicts"]
    assert (verdict["passed"], verdict["champion_digest"]) == (True, None)
    assert verdict["checks"] == [{"name": "test_it", "passed": True, "detail": "fine"}]
    (lineage,) = told["lineages"]
    assert lineage["data_name"] == "toy"
    assert not {"configuration", "machine"} & set(lineage)
    assert ask("predict", "GET", "/registry/version?version=v9").status_code == 404
    assert ask("predict", "GET", "/registry/version").status_code == 422
    assert ask(None, "GET", "/registry/version?version=v1").status_code == 401


def test_staging_moves_the_alias_and_enqueues_its_event(ask: Ask, registry: Registry) -> None:
    path, body = "/registry/toy/stage", {"version": "v1", "reason": "try it"}
    answer = ask("admin", "POST", path, json=body)
    assert answer.status_code == 202
    told = answer.json()
    assert (told["alias"], told["before"], told["after"]) == ("staging", None, "v1")
    assert (told["reason"], told["actor"][:7]) == ("try it", "admin (")
    again = ask("admin", "POST", path, json=body).json()
    assert (again["before"], again["after"]) == ("v1", "v1")  # its tests are asked for again
    assert registry.get(ModelRef("toy", alias="staging")).number == 1


def test_promotion_and_rollback_say_what_the_command_line_says(
    ask: Ask, registry: Registry
) -> None:
    refused = ask("admin", "POST", "/registry/toy/promote", json={"version": "v1"})
    assert refused.status_code == 409
    assert "has not been tested" in refused.json()["detail"]
    passing(registry, 1)
    assert ask("admin", "POST", "/registry/toy/promote", json={"version": "v1"}).json()["evidence"][
        "suite_digest"
    ] == (SUITE)
    nothing = ask("admin", "POST", "/registry/toy/rollback", json={})
    assert (nothing.status_code, "no earlier version" in nothing.text) == (409, True)
    never = ask("admin", "POST", "/registry/toy/rollback", json={"to": "v2"})
    assert "was never in production" in never.json()["detail"]
    passing(registry, 2, registry.get(ModelRef("toy", version=1)).model_digest)
    assert ask("admin", "POST", "/registry/toy/promote", json={"version": "v2"}).status_code == 200
    back = ask("admin", "POST", "/registry/toy/rollback", json={}).json()
    assert (back["action"], back["before"], back["after"]) == ("rollback", "v2", "v1")


@pytest.mark.parametrize("verb", ["stage", "promote", "rollback"])
def test_aliases_are_moved_by_admin_keys_alone(ask: Ask, verb: str, registry: Registry) -> None:
    before = registry.history("toy")
    for role, status in ((None, 401), ("predict", 403), ("wide", 403)):
        answer = ask(role, "POST", f"/registry/toy/{verb}", json={"version": "v1"})
        assert answer.status_code == status
    assert registry.history("toy") == before


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"content": b"{"}, 400),
        ({"json": {"version": "1"}}, 422),
        ({"json": {"version": "v1", "more": 1}}, 422),
        ({"json": {"version": "v9"}}, 404),
        ({"content": bytes(20_000)}, 413),
        ({"content": b"{}", "headers": {"Content-Type": "text/plain"}}, 415),
    ],
)
def test_a_wrong_body_moves_nothing(ask: Ask, body: dict[str, Any], status: int) -> None:
    body = {"headers": {"Content-Type": "application/json"}, **body}
    answer = ask("admin", "POST", "/registry/toy/stage", **body)
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "application/problem+json"


def test_a_name_that_cannot_be_one_is_not_there(ask: Ask) -> None:
    answer = ask("admin", "POST", "/registry/A%20b/stage", json={"version": "v1"})
    assert answer.status_code == 404


def test_a_server_for_reading_moves_nothing(
    settings: Settings, registry: Registry, toy_bundle: Bundle
) -> None:
    text, _ = keys.create(settings.keys_dir, "x", "admin", any_version=False, actor="me")
    head = {"Authorization": f"Bearer {text}"}
    for desk, status in ((Desk(registry), 200), (None, 404)):
        app = create_app(settings, Present(Pinned(toy_bundle)), desk=desk)
        with TestClient(app, client=OWN, headers=head) as client:
            assert client.get("/registry/models").status_code == status
            moved = client.post("/registry/toy/stage", json={"version": "v1"})
            assert (moved.status_code, "serve --admin" in moved.text) == (403, True)


def test_a_registry_that_fails_is_told_without_its_places(
    ask: Ask, registry: Registry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object) -> None:
        raise RegistryError("the database /secret/place is locked")

    monkeypatch.setattr(type(registry), "names", fails)
    answer = ask("predict", "GET", "/registry/models")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert "secret" not in answer.text
    assert "/secret/place" in caplog.text


def test_other_versions_answer_those_who_may_ask_them(
    ask: Ask, grey_png: Callable[[int], bytes]
) -> None:
    def version(role: str, query: str) -> tuple[int, Any]:
        answer = ask(role, "POST", f"/predict{query}", content=grey_png(200), headers=PNG)
        return answer.status_code, answer.json().get("model", {}).get("version")

    assert version("predict", "?version=v0") == (200, "v0")
    assert version("predict", "?version=v1") == (403, None)
    assert version("predict", "?alias=latest") == (403, None)
    for role in ("wide", "admin"):
        assert version(role, "?alias=latest") == (200, "v2")
        assert version(role, "?version=v1") == (200, "v1")
        assert version(role, "?alias=live") == (200, "v0")
    assert version("admin", "?version=v7") == (404, None)
    assert version("admin", "?alias=Latest") == (422, None)
    assert version("admin", "?alias=latest&version=v1") == (404, None)
    assert version("admin", "?alias=latest&version=v2") == (200, "v2")


def test_few_versions_are_kept_and_none_is_loaded_twice(
    ask: Ask, grey_png: Callable[[int], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    load = Model.__init__

    def counted(
        self: Model, bundle: Bundle, version: Version | None = None, *more: Any, **named: Any
    ) -> None:
        made.append(version.number if version else None)
        load(self, bundle, version, *more, **named)

    monkeypatch.setattr(Model, "__init__", counted)
    monkeypatch.setattr("pulmo.serving.shelf.PLACES", 1)
    for query in ("version=v1", "version=v1", "alias=latest", "version=v2", "version=v1"):
        answer = ask("admin", "POST", f"/predict?{query}", content=grey_png(200), headers=PNG)
        assert answer.status_code == 200
    assert made == [1, 2, 1]


def test_a_bundle_without_a_registry_has_no_other_versions(
    client: TestClient, grey_png: Callable[[int], bytes]
) -> None:
    answer = client.post("/predict?version=v1", content=grey_png(5), headers=PNG)
    assert answer.status_code == 404
