"""Every route has a role, and nobody without it gets in: found by walking the application."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from fastapi.testclient import TestClient

from pulmo.config.hooks import HookSettings
from pulmo.config.settings import Settings
from pulmo.core import keys
from pulmo.core.bundle import Bundle
from pulmo.serving.access import Guarded, Role
from pulmo.serving.app import create_app
from pulmo.serving.models import Pinned, Present
from pulmo.serving.webhooks import Receiver

NAME = "server.example"
PROBES = ("/livez", "/readyz")  # asked by whatever name the machine is found by
OPENAPI = json.loads((Path(__file__).parents[3] / "docs/openapi.json").read_text("utf-8"))

# What each route is for. A new route must be written down here, with its role.
ROLES: dict[str, Role] = {
    "HEAD /health": "public",
    "HEAD /livez": "public",
    "HEAD /readyz": "public",
    "GET /docs": "public",
    "GET /health": "public",
    "GET /livez": "public",
    "GET /openapi.json": "public",
    "GET /readyz": "public",
    "GET /v2": "public",
    "GET /v2/health/live": "public",
    "GET /v2/health/ready": "public",
    "POST /webhooks/github": "signed",
    "POST /webhooks/pulmo": "signed",
    "POST /webhooks/wandb": "signed",
    "GET /metrics": "predict",
    "GET /model/card": "predict",
    "GET /model/curves": "predict",
    "GET /model/info": "predict",
    "GET /registry/history": "predict",
    "GET /registry/models": "predict",
    "GET /registry/version": "predict",
    "GET /registry/versions": "predict",
    "GET /v2/models/{name}": "predict",
    "GET /v2/models/{name}/ready": "predict",
    "GET /v2/models/{name}/versions/{version}": "predict",
    "GET /v2/models/{name}/versions/{version}/ready": "predict",
    "POST /predict": "predict",
    "POST /v2/models/{name}/infer": "predict",
    "POST /v2/models/{name}/versions/{version}/infer": "predict",
    "POST /registry/{name}/promote": "admin",
    "POST /registry/{name}/rollback": "admin",
    "POST /registry/{name}/stage": "admin",
}
SIGNED = [route for route, role in ROLES.items() if role == "signed"]
GUARDED = [route for route, role in ROLES.items() if role in ("predict", "admin")]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(keys_dir=tmp_path_factory.mktemp("keys"), rate_limit="off")


@pytest.fixture(scope="module")
def heads(settings: Settings) -> dict[str, dict[str, str]]:
    """Keys by what they are, as headers."""
    made = {}
    for role in ("predict", "admin"):
        made[role], _ = keys.create(
            settings.keys_dir,
            role,
            "admin" if role == "admin" else "predict",
            any_version=True,
            actor="me",
        )
        made[f"revoked {role}"], key = keys.create(
            settings.keys_dir, role, "admin", any_version=False, actor="me"
        )
        keys.revoke(settings.keys_dir, key.id, actor="me")
    made["wrong"] = made["admin"][:-1] + ("a" if made["admin"][-1] != "a" else "b")
    made["empty"] = ""
    return {name: {"Authorization": f"Bearer {text}"} for name, text in made.items()} | {"no": {}}


@pytest.fixture(scope="module")
def client(toy_bundle: Bundle, settings: Settings, heads: object) -> Iterator[TestClient]:
    secret = "a-secret-of-at-least-sixteen-letters"
    senders = {"secret": secret, "github_secret": secret, "wandb_secret": secret}
    no_queue: Any = None  # nothing unsigned reaches it
    receiver = Receiver(no_queue, HookSettings.model_validate(senders))
    present = Present(Pinned(toy_bundle))
    app = create_app(settings, present, hosts=frozenset({NAME}), receiver=receiver)
    own = ("127.0.0.1", 50000)
    with TestClient(app, client=own, base_url=f"http://{NAME}") as client:
        yield client


def routes(app: Any) -> Iterator[tuple[str, Any]]:
    for route in app.routes:
        for method in sorted(getattr(route, "methods", None) or {"any"}):
            yield f"{method} {getattr(route, 'path', route)}", route


def asked(client: TestClient, route: str, **more: Any) -> Any:
    method, _, path = route.partition(" ")
    path = path.replace("{name}", "toy").replace("{version}", "v0")
    return client.request(method, path, **more)


def test_every_route_mount_and_socket_is_guarded_and_has_a_role(client: TestClient) -> None:
    found = dict(routes(client.app))
    assert {name: getattr(route, "role", None) for name, route in found.items()} == ROLES
    assert all(isinstance(route, Guarded) for route in found.values())
    assert set(ROLES.values()) == set(get_args(Role))


def test_the_document_asks_for_a_key_where_the_guard_does() -> None:
    told = {
        f"{method.upper()} {path}": bool(operation.get("security"))
        for path, operations in OPENAPI["paths"].items()
        for method, operation in operations.items()
    }
    hidden = {"GET /docs", "GET /openapi.json", "HEAD /health", "HEAD /livez", "HEAD /readyz"}
    assert told == {route: route in GUARDED for route in ROLES.keys() - hidden - set(SIGNED)}


@pytest.mark.parametrize("route", GUARDED)
@pytest.mark.parametrize("key", ["no", "empty", "wrong", "revoked predict", "revoked admin"])
def test_nobody_enters_without_a_key_that_is_good(
    client: TestClient, heads: dict[str, dict[str, str]], route: str, key: str
) -> None:
    answer = asked(client, route, headers=heads[key])
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="pulmo"'
    assert answer.headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize("route", SIGNED)
@pytest.mark.parametrize("key", ["no", "predict", "admin"])
def test_a_signature_is_what_opens_a_signed_route(
    client: TestClient, heads: dict[str, dict[str, str]], route: str, key: str
) -> None:
    assert asked(client, route, headers=heads[key], content=b"{}").status_code == 401


@pytest.mark.parametrize("route", [r for r, role in ROLES.items() if role != "signed"])
def test_a_predict_key_opens_no_admin_route_and_every_other(
    client: TestClient, heads: dict[str, dict[str, str]], route: str
) -> None:
    answer = asked(client, route, headers=heads["predict"])
    if ROLES[route] == "admin":
        assert (answer.status_code, "admin key" in answer.json()["detail"]) == (403, True)
    else:
        assert answer.status_code not in (401, 403)


@pytest.mark.parametrize("route", [r for r, role in ROLES.items() if role == "public"])
def test_public_routes_are_open(client: TestClient, route: str) -> None:
    assert asked(client, route).status_code == 200


@pytest.mark.parametrize("route", ROLES)
def test_another_name_of_the_server_is_refused(
    client: TestClient, heads: dict[str, dict[str, str]], route: str
) -> None:
    answer = asked(client, route, headers={**heads["admin"], "Host": "evil.example"})
    assert answer.status_code == (200 if route.endswith(PROBES) else 400)


@pytest.mark.parametrize("route", ROLES)
@pytest.mark.parametrize("origin", ["https://evil.example", "null", f"http://{NAME}.evil.example"])
def test_pages_elsewhere_reach_nothing_that_is_not_public(
    client: TestClient, heads: dict[str, dict[str, str]], route: str, origin: str
) -> None:
    answer = asked(client, route, headers={**heads["admin"], "Origin": origin})
    assert "Access-Control-Allow-Origin" not in answer.headers
    if ROLES[route] != "public":
        assert answer.status_code == 403


@pytest.mark.parametrize("method", ["OPTIONS", "HEAD", "PUT", "DELETE", "PATCH", "TRACE"])
@pytest.mark.parametrize("route", GUARDED)
def test_no_other_method_goes_round_the_guard(client: TestClient, route: str, method: str) -> None:
    path = route.partition(" ")[2]
    assert asked(client, f"{method} {path}").status_code == 401


def test_no_other_spelling_goes_round_the_guard(client: TestClient) -> None:
    for route in GUARDED:
        method, _, path = route.partition(" ")
        for spelt in (f"/{path}", f"{path}/", path.upper(), f"/.{path}", f"/v2/..{path}"):
            answer = asked(client, f"{method} {spelt}", follow_redirects=False)
            assert answer.status_code in (401, 404, 405), spelt
    assert asked(client, "GET /docs/").status_code == 404


def test_every_answer_has_the_headers_that_keep_browsers_in_check(client: TestClient) -> None:
    for route in ROLES:
        head = asked(client, route).headers
        assert head["X-Content-Type-Options"] == "nosniff"
        assert head["Referrer-Policy"] == "no-referrer"
        assert head["Cross-Origin-Resource-Policy"] == "same-origin"
        assert "frame-ancestors 'none'" in head["Content-Security-Policy"]
        assert head["Cache-Control"] == "no-store"
        if route != "GET /docs":
            assert "html" not in head["Content-Type"]
            assert head["Content-Security-Policy"].startswith("default-src 'none'; frame")
