import http.server
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from ui import api
from ui.api import Api, ApiError, State

Reply = tuple[int, dict[str, str], bytes]


@contextmanager
def answering(*replies: Reply) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server that gives these replies, the last one for ever, and what it was asked."""
    asked: list[dict[str, Any]] = []
    left = list(replies)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            asked.append(
                {"path": self.path, "body": self.rfile.read(length), **dict(self.headers.items())}
            )
            status, headers, body = left.pop(0) if len(left) > 1 else left[0]
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815 - what the library calls

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


def problem(status: int, detail: str, **headers: str) -> Reply:
    return status, headers, json.dumps({"detail": detail}).encode()


def caught(call: Callable[[], object]) -> ApiError:
    with pytest.raises(ApiError) as told:
        call()
    return told.value


def test_a_real_api_is_ready_and_answers(open_api: str, grey_png: Callable[[int], bytes]) -> None:
    asked = Api(open_api)
    assert asked.state().word == "ready"
    assert asked.state().detail.startswith("toy@")
    answer = asked.predict(grey_png(200), explain=True)
    assert (answer["prediction"], answer["decision"]) == ("BRIGHT", "accept")
    assert answer["heatmap_png"]
    assert asked.get("/model/info")["model"]["name"] == "toy"
    assert asked.text("/model/card") == "# toy\n"
    torn = caught(lambda: asked.predict(b"torn", explain=False))
    assert (torn.status, torn.everyone) == (400, False)


def test_whoever_is_passed_on_is_not_taken_for_this_machine(open_api: str) -> None:
    told = caught(lambda: Api(open_api, passed_on=True).get("/model/info"))
    assert (told.status, told.everyone) == (401, True)


def test_nobody_at_the_address_is_told() -> None:
    away = Api("http://127.0.0.1:9")
    assert away.state() == State("away", "nothing answers at http://127.0.0.1:9")
    told = caught(lambda: away.get("/model/info"))
    assert (told.status, told.everyone) == (None, True)
    assert caught(lambda: Api("http://").get("/x")).status is None


def test_a_server_that_is_not_ready_is_waited_for() -> None:
    unready = json.dumps({"status": "unavailable", "reason": "no model is loaded yet"}).encode()
    with answering((503, {"Retry-After": "1"}, unready)) as (url, _):
        assert Api(url).state() == State("waiting", "no model is loaded yet")


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b'{"model": null}', b'"x"'])
def test_what_is_no_api_of_pulmo_is_away(body: bytes) -> None:
    with answering((200, {}, body)) as (url, _):
        assert Api(url).state().word == "away"


def test_the_key_goes_as_a_header_and_nowhere_else() -> None:
    with answering((200, {}, b"{}")) as (url, asked):
        Api(url, " pulmo_x ").move("toy", "stage", {"version": "v1"})
        Api(url).get("/x", name="a b")
    assert asked[0]["Authorization"] == "Bearer pulmo_x"
    assert (asked[0]["path"], json.loads(asked[0]["body"])) == (
        "/registry/toy/stage",
        {"version": "v1"},
    )
    assert "Authorization" not in asked[1]
    assert asked[1]["path"] == "/x?name=a+b"


@pytest.mark.parametrize("key", ["schlüssel", "a\nb", "a\x00"])
def test_what_cannot_be_a_key_is_not_sent(key: str) -> None:
    assert caught(lambda: Api("http://127.0.0.1:9", key).get("/x")).status == 401


def test_dicom_is_sent_as_what_it_is() -> None:
    with answering((200, {}, b"{}")) as (url, asked):
        Api(url).predict(bytes(128) + b"DICM", explain=True)
        Api(url).predict(b"\x89PNG", explain=False)
    assert [one["Content-Type"] for one in asked] == ["application/dicom", "image/*"]
    assert [one["path"] for one in asked] == ["/predict?explain=true", "/predict"]


def test_a_redirect_is_not_followed_with_the_key() -> None:
    with answering((302, {"Location": "http://127.0.0.1:9/"}, b"")) as (url, _):
        assert caught(lambda: Api(url, "k").get("/x")).status == 302


def test_a_busy_server_is_asked_again_when_it_says() -> None:
    waited: list[float] = []
    busy = problem(503, "too much to do", **{"Retry-After": "2"})
    with answering(busy, problem(429, "too often", **{"Retry-After": "1"}), (200, {}, b"[1]")) as (
        url,
        asked,
    ):
        assert api.patiently(lambda: Api(url).get("/x"), waited.append) == [1]
    assert waited == [2, 1]
    assert len(asked) == 3


def test_patience_ends() -> None:
    waited: list[float] = []
    with answering(problem(503, "too much to do", **{"Retry-After": "1"})) as (url, asked):
        told = caught(lambda: api.patiently(lambda: Api(url).get("/x"), waited.append))
    assert (told.status, told.detail, told.seconds) == (503, "too much to do", 1)
    assert (len(asked), waited) == (4, [1, 1, 1])


@pytest.mark.parametrize(
    "reply",
    [
        problem(503, "busy", **{"Retry-After": "3600"}),
        problem(503, "busy"),
        problem(503, "busy", **{"Retry-After": "soon"}),
        problem(400, "torn", **{"Retry-After": "1"}),
    ],
)
def test_what_waiting_does_not_help_is_told_at_once(reply: Reply) -> None:
    with answering(reply) as (url, asked):
        caught(lambda: api.patiently(lambda: Api(url).get("/x"), lambda _: pytest.fail("waits")))
    assert len(asked) == 1


def test_an_answer_without_a_reason_is_told_by_its_status() -> None:
    with answering((502, {}, b"<html>bad gateway")) as (url, _):
        assert caught(lambda: Api(url).get("/x")).detail == "status 502 Bad Gateway"


def test_a_server_that_does_not_answer_in_time_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(*_: object, **__: object) -> None:
        raise httpx.ReadTimeout("late")

    monkeypatch.setattr(httpx.Client, "request", late)
    told = caught(lambda: Api("http://127.0.0.1:9").get("/x"))
    assert (told.status, "in time" in told.detail) == (None, True)
