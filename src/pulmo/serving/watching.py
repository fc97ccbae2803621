"""What a server tells of itself: an id and a line of log for every request, and figures."""

import logging
import random
import re
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pulmo.logs import ACCESS, get_logger
from pulmo.serving import problems
from pulmo.serving.models import Answered, Present
from pulmo.serving.pool import Pool
from pulmo.serving.receipts import Receipts

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
REJECTED = {
    400: "broken",
    401: "no key",
    403: "wrong role",
    408: "slow",
    413: "large",
    415: "kind",
    422: "invalid",
    429: "rate",
    503: "busy",
}
UNFORESEEN = "the server failed on this request; its log says why"
HEADERS = (  # what browsers may do with an answer: nothing but show it as what it is
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
)
_PROBES = ("/livez", "/readyz")  # asked by the address of a machine, not by the server's name
_NOT_HERE = "this server does not go by the name that the header Host says"

logger = get_logger(__name__)
access = get_logger(ACCESS)


class Figures(Collector):
    """The figures of one server; several in a process do not share them.

    What is noted also gets its receipts, where there are any.
    """

    def __init__(self, present: Present, pool: Pool, receipts: Receipts | None = None) -> None:
        self.registry = CollectorRegistry()
        self._present, self._pool, self._receipts = present, pool, receipts
        self.requests = Counter(
            "http_requests", "Requests answered.", ("route", "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "http_request_duration_seconds",
            "From the head of a request to the end of its answer.",
            ("route",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self.inference = Histogram(
            "pulmo_inference_duration_seconds",
            "Decoding and answering the pictures of one request.",
            buckets=SECONDS,
            registry=self.registry,
        )
        self.answers = Counter(
            "pulmo_answers", "Pictures answered.", ("decision",), registry=self.registry
        )
        self.predictions = Counter(
            "pulmo_predictions",
            "Pictures answered; 'none' is unlike what the model knows.",
            ("prediction",),
            registry=self.registry,
        )
        self.confidence = Histogram(
            "pulmo_prediction_probability",
            "The probability of what was answered.",
            buckets=SHARES,
            registry=self.registry,
        )
        self.rejected = Counter(
            "pulmo_rejected", "Requests refused.", ("reason",), registry=self.registry
        )
        self.registry.register(self)

    def note(self, answered: Sequence[Answered]) -> None:
        """Count answers, and keep their receipts."""
        for one in answered:
            self.answers.labels(one.answer.decision).inc()
            self.predictions.labels(one.answer.prediction or "none").inc()
            self.confidence.observe(one.answer.probability)
        if self._receipts is not None:
            self._receipts.take(answered)

    def ended(self, route: str, status: int, seconds: float) -> None:
        """Count and time a request."""
        self.requests.labels(route, str(status)).inc()
        self.seconds.labels(route).observe(seconds)
        if status in REJECTED:
            self.rejected.labels(REJECTED[status]).inc()

    def refused(self, status: int) -> None:
        """Count a request that its connection refused, before any route."""
        self.requests.labels("none", str(status)).inc()
        self.rejected.labels(REJECTED[status]).inc()

    def collect(self) -> Iterator[Metric]:
        """What is looked up when it is asked for."""
        yield GaugeMetricFamily(
            "pulmo_queue_length", "Requests that run or wait.", value=self._pool.taken
        )
        yield CounterMetricFamily(
            "pulmo_shed",
            "Requests refused by their connection, for want of room.",
            value=self._pool.shed,
        )
        yield GaugeMetricFamily(
            "pulmo_model_swaps", "Models taken over since the start.", value=self._present.swaps
        )
        if self._present.ready:
            name = self._present.model.name
            info = {"name": name.name, "version": name.version or "", "digest": name.digest}
            yield InfoMetricFamily("pulmo_model", "The model that answers.", value=info)
            yield from _age(self._present.model.bundle.info.lineage.created_at)
        if self._receipts is not None:
            yield from _kept(self._receipts)

    def describe(self) -> list[Metric]:
        """Nothing: what is collected depends on the model."""
        return []


def _age(created_at: str) -> Iterator[Metric]:
    try:
        age = datetime.now(UTC) - datetime.fromisoformat(created_at)
    except (TypeError, ValueError):  # made elsewhere, at a time that names no zone
        return
    yield GaugeMetricFamily(
        "pulmo_model_age_seconds",
        "Since the model that answers was made.",
        value=age.total_seconds(),
    )


def _kept(receipts: Receipts) -> Iterator[Metric]:
    yield CounterMetricFamily(
        "pulmo_receipts_written", "Receipts written to the log.", value=receipts.written
    )
    yield CounterMetricFamily(
        "pulmo_receipts_lost", "Receipts that were not written.", value=receipts.lost
    )
    yield GaugeMetricFamily(
        "pulmo_receipts_waiting", "Receipts taken and not yet written.", value=receipts.waiting
    )


_RANDOM = random.Random()  # noqa: S311 - ids need not be secret, only unlike


def request_id() -> str:
    """A UUID of version 4. To ask the system for each one's random bytes would release the GIL."""
    digits = f"{_RANDOM.getrandbits(128):032x}"
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-8{digits[17:20]}-{digits[20:]}"


class Draining:
    """Whether the server is about to end."""

    begun = False


class Watch:
    """What is held against every request and told of it, whichever way it goes.

    With `hosts` a request must name one of them in its header Host.
    """

    def __init__(
        self, figures: Figures, draining: Draining, hosts: frozenset[str] | None = None
    ) -> None:
        self.figures, self.draining = figures, draining
        self._hosts = hosts

    def is_meant(self, path: str, host: bytes) -> bool:
        """Whether a request names this server; a page elsewhere may resolve its name to us."""
        return self._hosts is None or path in _PROBES or _name_of(host) in self._hosts

    def ended(self, number: str, method: str, route: str, status: int, begun: float) -> None:
        """Count and log the request with this id that began at `begun`, by `perf_counter`."""
        seconds = time.perf_counter() - begun
        self.figures.ended(route, status, seconds)
        if access.isEnabledFor(logging.INFO):
            fields = {
                "id": number,
                "method": method,
                "route": route,
                "status": status,
                "seconds": round(seconds, 6),
            }
            access.info("request", extra={"fields": fields})


class Watched:
    """Gives every request an id, counts and logs it, and sets the headers of every answer."""

    def __init__(self, app: ASGIApp, watch: Watch) -> None:
        self._app, self._watch = app, watch

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = time.perf_counter()
        state = scope.setdefault("state", {})
        state.update(id=request_id(), unread=_has_body(scope))
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = message.setdefault("headers", [])
                said = {name for name, _ in headers}
                headers.append((b"x-request-id", state["id"].encode()))
                headers.extend(one for one in HEADERS if one[0] not in said)
                if self._watch.draining.begun:
                    MutableHeaders(scope=message)["Connection"] = "close"
            await send(message)

        host = next((value for name, value in scope["headers"] if name == b"host"), b"")
        try:
            app = self._app if self._watch.is_meant(scope["path"], host) else _misdirected
            await app(scope, receive, answer)
        except Exception:
            logger.exception("request %s failed", state["id"])
            if status:  # half an answer is on its way: the connection must break
                raise
            told = problems.answer(500, UNFORESEEN, state["id"], {}, unread=state["unread"])
            await told(scope, receive, answer)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            self._watch.ended(state["id"], scope["method"], route, status, begun)


@lru_cache(maxsize=256)
def _name_of(host: bytes) -> str:
    """The name in a header Host, without its port."""
    return re.sub(r":\d*$", "", host.decode("latin-1")).lower()


async def _misdirected(scope: Scope, receive: Receive, send: Send) -> None:
    state = scope["state"]
    told = problems.answer(400, _NOT_HERE, state["id"], {}, unread=state["unread"])
    await told(scope, receive, send)


def _has_body(scope: Scope) -> bool:
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
        for name, value in scope["headers"]
    )
