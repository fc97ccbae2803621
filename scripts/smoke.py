"""A server asked from outside before it gets traffic: is it ready, which model, does it answer?"""

import json
import math
import time
import urllib.error
import urllib.request
from typing import Any

TRIES, PAUSE_S, TIMEOUT_S = 10, 3.0, 60.0
# Google keeps paths that end with z for itself: /readyz is asked by the start-up probe, inside, and
# here under its other name.
READY, INFO, PREDICT = "/health", "/model/info", "/predict"


class WrongError(Exception):
    """The server may not get traffic; the message says why."""


def check(url: str, digest: str, headers: dict[str, str]) -> None:
    """Raise WrongError unless the server at `url` is ready and answers with the model `digest`.

    `headers` say who asks; they are sent to `url` alone, and no redirect is followed.
    """
    _await(url, headers)
    told = _asked(url + INFO, headers)
    if told.get("model", {}).get("digest") != digest:
        raise WrongError(f"it serves {told.get('model')}, not {digest}")
    answer = _asked(url + PREDICT, {**headers, "Content-Type": "image/png"}, picture())
    if answer.get("model", {}).get("digest") != digest:
        raise WrongError(f"its answer comes from {answer.get('model')}, not from {digest}")
    shares = list(answer.get("probabilities", {}).values())
    if len(shares) < 2 or not math.isclose(math.fsum(shares), 1, abs_tol=1e-3):
        raise WrongError(f"its probabilities are {shares}")


def picture() -> bytes:
    """A drawn radiograph as PNG."""
    from pulmo.data.phantom import draw
    from pulmo.data.png import encode

    return encode(draw(patient=1, view=1, ill=True, size=128, noise=0.35))


def _await(url: str, headers: dict[str, str]) -> None:
    """Wait until the server says that it is ready. A cold one needs its time."""
    for attempt in range(TRIES):
        try:
            _asked(url + READY, headers)
        except WrongError:
            if attempt == TRIES - 1:
                raise
            time.sleep(PAUSE_S)
        else:
            return


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object, **__: object) -> None:
        """Follow none: the headers hold a token for this server alone."""


def _asked(url: str, headers: dict[str, str], body: bytes | None = None) -> dict[str, Any]:
    request = urllib.request.Request(url, data=body, headers=headers)  # noqa: S310 - see `_safe`
    path = "/" + _safe(url).partition("://")[2].partition("/")[2]
    try:
        with urllib.request.build_opener(_NoRedirects).open(request, timeout=TIMEOUT_S) as answer:
            told = json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            said = error.read(500).decode(errors="replace")
        raise WrongError(f"{path} was answered with {error.code}: {said}") from error
    except (OSError, ValueError) as error:
        raise WrongError(f"{path} was not answered: {error}") from error
    if not isinstance(told, dict):
        raise WrongError(f"{path} was answered with no JSON object")
    return told


def _safe(url: str) -> str:
    """`url`, where a token may be sent to it: encrypted, or on this machine."""
    if url.startswith(("https://", "http://127.0.0.1:")):
        return url
    raise WrongError(f"{url} is not encrypted")
