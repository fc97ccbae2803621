import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError

from pulmo.config.settings import Settings
from pulmo.core import keys
from pulmo.errors import ConfigError
from pulmo.serving import app as application
from pulmo.serving import life
from pulmo.serving.access import known_hosts
from pulmo.serving.models import Present

OWN = ("127.0.0.1", 50000)
PNG = {"Content-Type": "image/png"}


@pytest.fixture
def guarded(present: Present, tmp_path: Path) -> Iterator[Callable[..., TestClient]]:
    """`guarded(client=…, rate_limit="3/hour")`: a server with keys in `tmp_path`."""
    opened = []

    def start(client: tuple[str, int] = OWN, **settings: object) -> TestClient:
        chosen = Settings.model_validate({"keys_dir": tmp_path, **settings})
        made = TestClient(application.create_app(chosen, present), client=client)
        opened.append(made)
        return made.__enter__()

    yield start
    for one in opened:
        one.__exit__()


def make(folder: Path) -> tuple[dict[str, str], keys.Key]:
    text, key = keys.create(folder, "ci", "predict", any_version=False, actor="me")
    return {"Authorization": f"Bearer {text}"}, key


def test_without_keys_this_machine_alone_is_answered(guarded: Callable[..., TestClient]) -> None:
    assert guarded().get("/model/info").status_code == 200
    assert guarded(("::1", 1)).get("/model/info").status_code == 200
    strange = guarded(("10.0.0.1", 1)).get("/model/info")
    assert strange.status_code == 401
    assert strange.headers["WWW-Authenticate"] == 'Bearer realm="pulmo"'
    assert strange.headers["Content-Type"] == "application/problem+json"
    assert guarded(("10.0.0.1", 1)).get("/livez").status_code == 200


@pytest.mark.parametrize("header", ["Forwarded", "X-Forwarded-For", "X-Real-IP", "Via"])
def test_what_a_proxy_passes_on_does_not_come_from_this_machine(
    guarded: Callable[..., TestClient], header: str
) -> None:
    client = guarded()
    assert client.get("/model/info").status_code == 200
    assert client.get("/model/info", headers={header: "203.0.113.9"}).status_code == 401


def test_with_keys_everyone_is_asked_for_one(
    guarded: Callable[..., TestClient], tmp_path: Path
) -> None:
    head, _ = make(tmp_path)
    client = guarded()
    assert client.get("/model/info").status_code == 401
    assert client.get("/model/info", headers=head).status_code == 200
    bare = {"X-API-Key": head["Authorization"].removeprefix("Bearer ")}
    assert client.get("/model/info", headers=bare).status_code == 200
    wrong = {"Authorization": head["Authorization"][:-1] + "!"}
    assert "not known" in client.get("/model/info", headers=wrong).json()["detail"]


def test_an_open_server_answers_strangers_and_no_wrong_key(
    guarded: Callable[..., TestClient], tmp_path: Path
) -> None:
    make(tmp_path)
    client = guarded(("10.0.0.1", 1), allow_anonymous=True)
    assert client.get("/model/info").status_code == 200
    assert client.get("/model/info", headers={"X-API-Key": "x"}).status_code == 401


def test_keys_made_and_revoked_meanwhile_count_within_moments(
    guarded: Callable[..., TestClient], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(life, "REFRESH_SECONDS", 0.001)
    client = guarded()
    head, key = make(tmp_path)
    while client.get("/model/info").status_code == 200:
        pass
    assert client.get("/model/info", headers=head).status_code == 200
    keys.revoke(tmp_path, key.id, actor="me")
    while client.get("/model/info", headers=head).status_code == 200:
        pass
    (tmp_path / f"{key.id}.json").unlink()  # once there were keys, keys are asked for
    assert client.get("/model/info").status_code == 401


def test_keys_that_cannot_be_read_stay_as_they_were(
    guarded: Callable[..., TestClient],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(life, "REFRESH_SECONDS", 0.001)
    head, _ = make(tmp_path)
    client = guarded()
    (tmp_path / "x.json").write_text("damaged")
    while "the known keys stay" not in caplog.text:
        assert client.get("/model/info", headers=head).status_code == 200


def test_a_key_has_its_pace(guarded: Callable[..., TestClient], tmp_path: Path) -> None:
    head, _ = make(tmp_path)
    other, _ = make(tmp_path)
    client = guarded(rate_limit="3/hour")
    codes = [client.get("/model/info", headers=head).status_code for _ in range(5)]
    assert codes == [200, 200, 200, 429, 429]
    refused = client.post("/predict", content=b"body", headers=head | PNG)
    assert 1 <= int(refused.headers["Retry-After"]) <= 2 * 3600
    assert refused.headers["Connection"] == "close"  # its body is not read
    assert client.get("/model/info", headers=other).status_code == 200
    assert client.get("/livez").status_code == 200


def test_strangers_have_their_pace_by_network_and_this_machine_none(
    guarded: Callable[..., TestClient], tmp_path: Path
) -> None:
    own = guarded(rate_limit="1/hour")
    assert [own.get("/model/info").status_code for _ in range(3)] == [200] * 3
    for one, two in (("10.0.0.1", "10.0.0.2"), ("2001:db8::1", "2001:db8:1::1")):
        open_to = {"allow_anonymous": True, "rate_limit": "1/hour"}
        codes = [guarded((one, 1), **open_to).get("/model/info").status_code]
        client = guarded((one, 1), **open_to)
        codes += [client.get("/model/info").status_code for _ in range(2)]
        assert codes == [200, 200, 429]
        assert guarded((two, 1), **open_to).get("/model/info").status_code == 200


def test_a_limit_can_be_off(guarded: Callable[..., TestClient], tmp_path: Path) -> None:
    head, _ = make(tmp_path)
    client = guarded(rate_limit="off")
    begun = time.monotonic()
    codes = {client.get("/livez").status_code for _ in range(5)}
    assert codes == {200}
    assert client.get("/model/info", headers=head).status_code == 200
    assert time.monotonic() - begun < 60


def test_pages_elsewhere_may_ask_only_where_they_are_named(
    guarded: Callable[..., TestClient],
) -> None:
    page, own = {"Origin": "https://page.example"}, {"Origin": "http://testserver"}
    strict = guarded()
    assert strict.get("/model/info", headers=page).status_code == 403
    assert strict.get("/model/info", headers={"Origin": "null"}).status_code == 403
    assert strict.get("/model/info", headers=own).status_code == 200
    assert "Access-Control-Allow-Origin" not in strict.get("/livez", headers=page).headers
    known = guarded(cors_origins="https://page.example,http://localhost:8501")
    answer = known.get("/model/info", headers=page)
    assert answer.headers["Access-Control-Allow-Origin"] == "https://page.example"
    assert "X-Request-ID" in answer.headers["Access-Control-Expose-Headers"]
    asked = {**page, "Access-Control-Request-Method": "POST"}
    asked["Access-Control-Request-Headers"] = "authorization,content-type"
    assert known.options("/predict", headers=asked).status_code == 200
    assert known.get("/model/info", headers={"Origin": "https://x.example"}).status_code == 403


@pytest.mark.parametrize(
    "wrong",
    [
        {"cors_origins": "*"},
        {"cors_origins": "https://a/b"},
        {"hosts": "a b"},
        {"rate_limit": "0/second"},
        {"rate_limit": "many"},
    ],
)
def test_a_setting_that_would_let_everyone_in_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        Settings.model_validate(wrong)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost"])
def test_a_server_of_this_machine_knows_its_names(host: str) -> None:
    own = {"localhost", "127.0.0.1", "[::1]"}
    assert known_hosts(Settings(), host, keyed=False) == own | {host}
    assert known_hosts(Settings(), "::1", keyed=True) == own
    assert known_hosts(Settings(hosts="a,b.c"), "::1", keyed=True) == own | {"a", "b.c"}


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "example.org", ""])
def test_strangers_are_let_in_only_when_that_is_meant(host: str) -> None:
    with pytest.raises(ConfigError, match="PULMO_ALLOW_ANONYMOUS"):
        known_hosts(Settings(), host, keyed=False)
    assert known_hosts(Settings(), host, keyed=True) is None
    assert known_hosts(Settings(allow_anonymous=True), host, keyed=False) is None
    assert known_hosts(Settings(hosts="a"), host, keyed=True) == {"a"}
