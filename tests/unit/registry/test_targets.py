from typing import Any

import pytest

from pulmo.config.hooks import HookSettings
from pulmo.core.events import Event
from pulmo.core.ports import Job
from pulmo.errors import ConfigError
from pulmo.registry import targets
from pulmo.registry.outward import Answer
from pulmo.registry.targets import UndeliveredError, is_shared, make_targets

SECRET, TOKEN = "our secret, long enough".replace(" ", "-"), "github-token-0123456789"
PAYLOAD = {
    "id": "event-1",
    "move": 7,
    "name": "toy",
    "alias": "staging",
    "action": "set",
    "before": None,
    "after": 3,
    "model_digest": "a" * 64,
    "bundle_digest": "b" * 64,
    "actor": "ada",
    "reason": "because",
    "at": "2026-01-01T00:00:00+00:00",
}
EVENT = Event("event-1", "toy", PAYLOAD)


class Queue:
    def __init__(self) -> None:
        self.taken: list[tuple[str, str, Any]] = []

    def enqueue(self, key: str, name: str, payload: Any) -> tuple[Job | None, bool]:
        self.taken.append((key, name, payload))
        return None, True


def chosen(**values: object) -> HookSettings:
    return HookSettings.model_validate({"secret": SECRET, **values})


def make(shared: bool = True, **values: object) -> list[Any]:
    return make_targets(chosen(**values), Queue(), shared=shared)  # type: ignore[arg-type]


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was posted; the answer is the last element put in."""
    log: list[Any] = []

    def post(url: str, body: bytes, headers: dict[str, str], **options: object) -> Answer:
        log.append((url, body, headers))
        return Answer(204, 0.0, b"")

    monkeypatch.setattr(targets, "post", post)
    return log


def test_the_local_worker_gets_a_job_for_what_was_staged_alone() -> None:
    queue = Queue()
    (local,) = make_targets(HookSettings(), queue, shared=False)  # type: ignore[arg-type]
    local.send(EVENT)
    local.send(Event("event-2", "toy", {**PAYLOAD, "alias": "production"}))
    local.send(Event("event-3", "toy", {**PAYLOAD, "after": None}))
    ref = f"toy@{'a' * 64}"
    assert queue.taken == [
        ("event:event-1", "toy", {"ref": ref, "alias": "staging", "source": "local"})
    ]


def test_github_gets_a_dispatch_within_its_limits(sent: list[Any]) -> None:
    (github,) = make(targets="github", github_repository="me/mine", github_token=TOKEN)
    github.send(EVENT)
    ((url, body, headers),) = sent
    assert url == "https://api.github.com/repos/me/mine/dispatches"
    assert headers == {
        "Accept": "application/vnd.github+json",
        "Authorization": f"Bearer {TOKEN}",
        "X-GitHub-Api-Version": "2022-11-28",
    }
    assert b'"event_type":"staged_model"' in body
    assert b'"version":"v3"' in body
    assert b"because" not in body
    assert TOKEN not in github.name


def test_a_webhook_is_signed(sent: list[Any]) -> None:
    (webhook,) = make(targets="https://hooks.example/x")
    webhook.send(EVENT)
    ((url, body, headers),) = sent
    assert (url, body) == ("https://hooks.example/x", EVENT.body)
    assert headers["webhook-id"] == "event-1"
    assert headers["webhook-signature"].startswith("v1,")


@pytest.mark.parametrize(
    ("status", "wait_s", "final"),
    [
        (500, 0, False),
        (429, 5, False),
        (403, 5, False),
        (403, 0, True),
        (422, 0, True),
        (307, 0, True),
    ],
)
def test_what_may_pass_is_tried_again_and_what_will_not_is_not(
    status: int, wait_s: float, final: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(targets, "post", lambda *_, **__: Answer(status, wait_s, b"said"))
    (webhook,) = make(targets="https://hooks.example/x")
    with pytest.raises(UndeliveredError, match=f"answered {status}: said") as told:
        webhook.send(EVENT)
    assert (told.value.final, told.value.wait_s) == (final, wait_s)


@pytest.mark.parametrize(
    ("error", "final"), [(TimeoutError("timed out"), False), (ConfigError("private"), True)]
)
def test_no_answer_may_pass_and_a_refused_address_does_not(
    error: Exception, final: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def post(*_: object, **__: object) -> Answer:
        raise error

    monkeypatch.setattr(targets, "post", post)
    (webhook,) = make(targets="https://hooks.example/x")
    with pytest.raises(UndeliveredError, match=str(error)) as told:
        webhook.send(EVENT)
    assert told.value.final is final


def test_no_secret_is_kept_of_what_the_other_side_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def post(url: str, body: bytes, headers: dict[str, str], **_: object) -> Answer:
        asked.append(url)
        return Answer(500, 0.0, f"{url} {headers}".encode())

    monkeypatch.setattr(targets, "post", post)
    address = "https://hooks.example/x?token=part-of-it"
    both = f"github {address}"
    github, webhook = make(targets=both, github_repository="me/mine", github_token=TOKEN)
    assert webhook.name == "https://hooks.example/x?token=***"
    for target in (github, webhook):
        with pytest.raises(UndeliveredError, match="answered 500") as told:
            target.send(EVENT)
        assert TOKEN not in str(told.value)
        assert "part-of-it" not in str(told.value)
    assert asked[1] == address


def test_an_address_that_is_refused_is_told_without_its_secrets() -> None:
    user, query = "http://ann:pass-word@host/x", "ftp://host/x?token=pass-word"
    for address in (user, query, "bad?key=pass-word", "https://ann:pass-word@host:port/x"):
        with pytest.raises(ConfigError) as told:
            make(targets=address)
        assert "pass-word" not in str(told.value)


def test_a_payload_that_github_would_refuse_is_not_sent(sent: list[Any]) -> None:
    (github,) = make(targets="github", github_repository="me/mine", github_token=TOKEN)
    with pytest.raises(UndeliveredError, match="65,535") as told:
        github.send(Event("event-1", "toy", {**PAYLOAD, "at": "x" * 70_000}))
    assert (told.value.final, sent) == (True, [])


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"targets": "github"}, "PULMO_HOOKS_GITHUB_REPOSITORY"),
        ({"targets": "github", "github_repository": "me/mine"}, "PULMO_HOOKS_GITHUB_TOKEN"),
        ({"targets": "somewhere"}, "neither local nor github"),
        ({"targets": "http://hooks.example/x"}, "only https"),
        ({"targets": "https://hooks.example/x", "secret": ()}, "PULMO_HOOKS_SECRET"),
    ],
)
def test_a_target_that_cannot_be_told_is_a_mistake_of_the_settings(
    values: dict[str, object], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        make(**values)


def test_github_is_refused_while_the_registry_is_on_this_machine_alone() -> None:
    with pytest.raises(ConfigError, match="this machine alone"):
        make(shared=False, targets="github", github_repository="me/mine", github_token=TOKEN)


def test_a_target_is_told_once_however_often_it_is_named() -> None:
    assert len(make(targets="local, local https://h/x")) == 2


@pytest.mark.parametrize(
    ("database", "files", "shared"),
    [
        ("sqlite:///models/registry.db", "models/bundles", False),
        ("sqlite:///models/registry.db", "gs://bucket/x", False),
        ("postgresql://host/db", "models/bundles", False),
        ("postgresql://host/db", "file:///x", False),
        ("postgresql://host/db", "gs://bucket/x", True),
    ],
)
def test_a_registry_is_shared_with_its_database_and_its_files(
    database: str, files: str, shared: bool
) -> None:
    assert is_shared(database, files) is shared
