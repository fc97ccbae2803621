"""Pulmo's API as the pages see it: what it answers, or one trouble that says why it does not."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

import httpx

T = TypeVar("T")

DICOM_AT, DICOM = 128, b"DICM"  # PS3.10, 7.1
BUSY = (429, 503)
TRIES, PATIENCE_SECONDS = 4, 5  # how often, and how long at a time, a busy server is waited for
VIA = "1.1 pulmo-ui"

_OWN = ("127.0.0.1", "localhost", "::1")
_TIMEOUT = httpx.Timeout(30, connect=3)
_READY_TIMEOUT = httpx.Timeout(3)
# The server closes connections that are idle for 5 s: ours are gone before.
_LIMITS = httpx.Limits(max_keepalive_connections=8, keepalive_expiry=2)


class ApiError(Exception):
    """Why there is no answer, in the API's words.

    `status` is that of HTTP, None where nobody answered; `seconds` is when to ask again, if told.
    """

    def __init__(self, detail: str, status: int | None = None, seconds: int | None = None) -> None:
        super().__init__(detail)
        self.detail, self.status, self.seconds = detail, status, seconds

    @property
    def everyone(self) -> bool:
        """Whether any other request would fare the same now, whatever it asks."""
        return self.status in (None, 401, 403, *BUSY)


@dataclass(frozen=True)
class State:
    """How the API is: `ready` with the name of its model, or why not."""

    word: Literal["ready", "waiting", "away"]
    detail: str


@dataclass(frozen=True)
class Api:
    """The API at `url`, asked with `key` where there is one.

    `passed_on` is whether it is asked for somebody who is not on this machine: a server that
    answers its own machine without a key must not take them for it.
    Every method but `state` raises ApiError.
    """

    url: str
    key: str = ""
    passed_on: bool = False

    def state(self) -> State:
        """Whether pictures are answered now."""
        try:
            told = _json(_send(self, "GET", "/readyz", timeout=_READY_TIMEOUT))
            return State("ready", label(told["model"]))
        except ApiError as trouble:
            word: Literal["waiting", "away"] = "waiting" if trouble.status == 503 else "away"
            return State(word, trouble.detail)
        except (KeyError, TypeError):
            return State("away", f"what answers at {self.url} is not Pulmo's API")

    def get(self, path: str, **query: str | int) -> Any:
        """What a route says, as JSON."""
        return _json(_send(self, "GET", path, params=query))

    def text(self, path: str) -> str:
        """What a route says, as text."""
        return _send(self, "GET", path).text

    def predict(self, encoded: bytes, *, explain: bool) -> dict[str, Any]:
        """The answer for one encoded picture."""
        kind = "application/dicom" if encoded[DICOM_AT:].startswith(DICOM) else "image/*"
        query = {"explain": "true"} if explain else {}
        sent = _send(
            self, "POST", "/predict", params=query, content=encoded, headers={"Content-Type": kind}
        )
        told: dict[str, Any] = _json(sent)
        return told

    def move(self, name: str, verb: str, body: dict[str, str]) -> dict[str, Any]:
        """The line of history that `stage`, `promote` or `rollback` of a model has made."""
        told: dict[str, Any] = _json(_send(self, "POST", f"/registry/{name}/{verb}", json=body))
        return told


def label(model: Mapping[str, Any]) -> str:
    """How a model is written: name:v3, or name@digest where it came from no registry."""
    version = f":{model['version']}" if model["version"] else f"@{model['digest'][:12]}"
    return f"{model['name']}{version}"


def patiently(ask: Callable[[], T], wait: Callable[[float], None] = time.sleep) -> T:
    """What `ask` gives; a busy server is asked again when it says, a few times at most.

    Raises the ApiError that is left.
    """
    for _ in range(TRIES - 1):
        try:
            return ask()
        except ApiError as trouble:
            if trouble.status not in BUSY or not 0 < (trouble.seconds or 0) <= PATIENCE_SECONDS:
                raise
            wait(trouble.seconds or 0)
    return ask()


@lru_cache(maxsize=4)
def _client(url: str) -> httpx.Client:
    # What goes to this machine goes past any proxy, and keys with it.
    own = urlsplit(url).hostname in _OWN
    return httpx.Client(base_url=url, timeout=_TIMEOUT, limits=_LIMITS, trust_env=not own)


def _send(api: Api, method: str, path: str, **more: Any) -> httpx.Response:
    key = api.key.strip()
    if not (key.isascii() and key.isprintable()):
        raise ApiError("what was typed cannot be a key", 401)
    headers = more.pop("headers", {})
    headers |= {"Authorization": f"Bearer {key}"} if key else {}
    headers |= {"Via": VIA} if api.passed_on else {}
    try:
        answer = _client(api.url).request(method, path, headers=headers, **more)
    except httpx.TimeoutException as error:
        raise ApiError(f"{api.url} did not answer in time") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ApiError(f"nothing answers at {api.url}") from error
    if answer.is_success:
        return answer
    raise ApiError(_detail(answer), answer.status_code, _seconds(answer))


def _json(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except ValueError as error:
        raise ApiError(f"what answers at {answer.request.url.host} is not Pulmo's API") from error


def _detail(answer: httpx.Response) -> str:
    """The problem (RFC 9457) or the reason of an answer that is none."""
    try:
        told = answer.json()
        return str(told.get("detail") or told["reason"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"status {answer.status_code} {answer.reason_phrase}".strip()


def _seconds(answer: httpx.Response) -> int | None:
    told = answer.headers.get("Retry-After", "")
    return int(told) if told.isdecimal() else None
