import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from pulmo.config.hooks import HookSettings
from pulmo.config.settings import Settings
from pulmo.core import events, signatures
from pulmo.core.events import Event
from pulmo.registry.queue import SqlJobs
from pulmo.serving.app import create_app
from pulmo.serving.models import Present
from pulmo.serving.webhooks import BODY_BYTES, Receiver
from pulmo.store.database import open_database

SECRET, OLD, TOKEN = "secret-0123456789", "before-0123456789", "token-0123456789"
NOW, DIGEST = 1_800_000_000, "ab" * 32
REF = f"toy@{DIGEST}"
PAYLOAD = {
    "id": "event-1", "move": 1, "name": "toy", "alias": "staging", "action": "set", "before": None,
    "after": 3, "model_digest": DIGEST, "bundle_digest": DIGEST, "actor": "a", "reason": "r",
    "at": "2026-01-01T00:00:00+00:00",
}  # fmt: skip
EVENT = Event("event-1", "toy", PAYLOAD)
VARIABLES = {
    "event_type": "ADD_ARTIFACT_ALIAS",
    "alias": "staging",
    "artifact_version": "wandb-artifact://_id/QXJ0aWZhY3Q6NTE3ODg5ODg3",
    "artifact_version_string": "entity/wandb-registry-model/toy:v3",
    "artifact_collection_name": "toy",
    "entity_name": "entity",
    "project_name": "wandb-registry-model",
    "event_author": 'a "quoted" author',
    "artifact_metadata.model_digest": DIGEST,
}
ALL = {"secret": f"{SECRET} {OLD}", "github_secret": SECRET, "wandb_secret": SECRET,
       "wandb_token": TOKEN}  # fmt: skip


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[SqlJobs]:
    database = open_database(f"sqlite:///{tmp_path}/registry.db")
    yield SqlJobs(database)
    database.close()


@pytest.fixture
def hooked(present: Present, queue: SqlJobs, tmp_path: Path) -> Iterator[Callable[..., TestClient]]:
    opened = []

    def start(**secrets: str) -> TestClient:
        chosen = HookSettings.model_validate(secrets)
        receiver = Receiver(queue, chosen, lambda: NOW)
        app = create_app(Settings(keys_dir=tmp_path), present, receiver=receiver)
        client = TestClient(app, base_url="http://127.0.0.1", client=("127.0.0.1", 1))
        opened.append(client)
        return client.__enter__()

    yield start
    for client in opened:
        client.__exit__()


def wandb(**changes: str) -> bytes:
    return events.rendered(events.WANDB_PAYLOAD, {**VARIABLES, **changes})


def github(document: dict[str, Any]) -> bytes:
    return events.github_body(json.dumps(document).encode(), "me/mine")


def by_github(body: bytes, event: str = "repository_dispatch") -> dict[str, str]:
    return {**signatures.sign_github(SECRET, body), "X-GitHub-Event": event}


def test_without_its_secret_a_route_is_not_there(hooked: Callable[..., TestClient]) -> None:
    client = hooked(github_secret=SECRET)
    codes = [client.post(f"/webhooks/{w}").status_code for w in ("pulmo", "wandb", "github")]
    assert codes == [404, 404, 401]
    assert not Receiver(queue=None, chosen=HookSettings())  # type: ignore[arg-type]


@pytest.mark.parametrize("secret", [SECRET, OLD])
def test_our_own_event_is_queued_once(
    secret: str, hooked: Callable[..., TestClient], queue: SqlJobs
) -> None:
    client = hooked(**ALL)
    headers = signatures.sign(secret, EVENT.id, NOW - 299, EVENT.body)
    told = [client.post("/webhooks/pulmo", content=EVENT.body, headers=headers) for _ in range(2)]
    assert [(one.status_code, one.json()["status"]) for one in told] == [
        (202, "queued"),
        (202, "known"),
    ]
    (job,) = queue.jobs()
    assert (job.key, job.name, job.payload["ref"]) == ("event:event-1", "toy", REF)


def test_forged_stale_and_altered_events_are_refused(
    hooked: Callable[..., TestClient], queue: SqlJobs
) -> None:
    client = hooked(**ALL)
    for headers, body in (
        (signatures.sign("x" * 20, EVENT.id, NOW, EVENT.body), EVENT.body),
        (signatures.sign(SECRET, EVENT.id, NOW - 301, EVENT.body), EVENT.body),
        (signatures.sign(SECRET, EVENT.id, NOW, EVENT.body), EVENT.body + b" "),
        ({}, EVENT.body),
    ):
        refused = client.post("/webhooks/pulmo", content=body, headers=headers)
        assert refused.status_code == 401
        assert refused.headers["Content-Type"] == "application/problem+json"
    assert queue.jobs() == []


def test_events_that_ask_for_nothing_are_taken(
    hooked: Callable[..., TestClient], queue: SqlJobs
) -> None:
    client = hooked(**ALL)
    moved = Event("event-2", "toy", {**PAYLOAD, "alias": "production"})
    ping = b'{"zen": "Keep it logically awesome."}'
    other = github({"event_type": "deploy", "client_payload": {}})
    production = github(
        {"event_type": "staged_model", "client_payload": {"name": "toy", "alias": "production",
                                                          "model_digest": DIGEST}}
    )  # fmt: skip
    linked = wandb(event_type="LINK_ARTIFACT", alias="")
    for path, body, headers in (
        ("pulmo", moved.body, signatures.sign(SECRET, "event-2", NOW, moved.body)),
        ("github", ping, by_github(ping, "ping")),
        ("github", other, by_github(other)),
        ("github", production, by_github(production)),
        ("wandb", linked, signatures.sign_wandb(SECRET, linked, TOKEN)),
    ):
        told = client.post(f"/webhooks/{path}", content=body, headers=headers)
        assert (told.status_code, told.json()) == (202, {"status": "ignored"})
    assert queue.jobs() == []


def test_a_dispatch_that_github_tells_is_the_event_it_came_from(
    hooked: Callable[..., TestClient], queue: SqlJobs
) -> None:
    client = hooked(**ALL)
    body = events.github_body(events.dispatch(EVENT), "me/mine")
    told = client.post("/webhooks/github", content=body, headers=by_github(body))
    assert told.json() == {"status": "queued", "job": "event:event-1"}
    ours = signatures.sign(SECRET, EVENT.id, NOW, EVENT.body)
    told = client.post("/webhooks/pulmo", content=EVENT.body, headers=ours)
    assert told.json()["status"] == "known"


def test_a_dispatch_without_an_id_is_known_by_its_body(
    hooked: Callable[..., TestClient], queue: SqlJobs
) -> None:
    client = hooked(**ALL)
    body = github(
        {"event_type": "staged_model", "client_payload": {"name": "toy", "model_digest": DIGEST}}
    )
    for number, status in ((1, "queued"), (2, "known")):
        headers = {**by_github(body), "X-GitHub-Delivery": str(number)}  # which is not signed
        told = client.post("/webhooks/github", content=body, headers=headers)
        assert told.json()["status"] == status


@pytest.mark.parametrize(
    ("changes", "ref"),
    [
        ({}, REF),
        ({"artifact_metadata.model_digest": ""}, "toy:v3"),
        (
            {
                "artifact_metadata.model_digest": "",
                "artifact_version_string": "entity/wandb-registry-model/toy:staging",
            },
            "toy:staging",
        ),
    ],
)
def test_an_alias_that_wandb_tells_of_is_queued_once(
    changes: dict[str, str], ref: str, hooked: Callable[..., TestClient], queue: SqlJobs
) -> None:
    client, body = hooked(**ALL), wandb(**changes)
    headers = signatures.sign_wandb(SECRET, body, TOKEN)
    told = [client.post("/webhooks/wandb", content=body, headers=headers) for _ in range(2)]
    assert [one.json()["status"] for one in told] == ["queued", "known"]
    (job,) = queue.jobs()
    assert (job.payload["ref"], job.payload["source"]) == (ref, "wandb")
    other = wandb(**changes, artifact_version="wandb-artifact://_id/another")
    headers = signatures.sign_wandb(SECRET, other, TOKEN)
    assert client.post("/webhooks/wandb", content=other, headers=headers).json()["status"] == (
        "queued"
    )


def test_the_token_of_wandb_is_asked_for(hooked: Callable[..., TestClient]) -> None:
    client, body = hooked(**ALL), wandb()
    headers = signatures.sign_wandb(SECRET, body)
    assert client.post("/webhooks/wandb", content=body, headers=headers).status_code == 401


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"no json", 400),
        (b"[]", 422),
        (b'{"event_type": 1}', 422),
        (wandb(artifact_collection_name="../x"), 422),
        (b"[" * 100_000, 400),
        (b" " * (BODY_BYTES + 1), 413),
    ],
)
def test_a_body_that_is_no_event_is_refused(
    body: bytes, status: int, hooked: Callable[..., TestClient], queue: SqlJobs
) -> None:
    headers = signatures.sign_wandb(SECRET, body, TOKEN)
    assert hooked(**ALL).post("/webhooks/wandb", content=body, headers=headers).status_code == (
        status
    )
    assert queue.jobs() == []
