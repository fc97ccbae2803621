"""The one table that turns an error into an HTTP status, and answers that tell it (RFC 9457)."""

import asyncio
import contextlib
from collections.abc import Mapping
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from pulmo import errors
from pulmo.core.wire import PROBLEM_TYPE, Problem
from pulmo.logs import get_logger

RETRY_SECONDS = 1
LINGER_SECONDS, LINGER_BYTES = 2.0, 64 * 2**20  # how long a refused body is still taken in

_FAILED = "the server failed on this request; its log says why"
_NO_REGISTRY = "the registry cannot be used now: ask again in a moment"

# The most precise class counts.
STATUSES: dict[type[Exception], int] = {
    errors.PulmoError: 500,
    errors.DataError: 400,
    errors.UnauthorizedError: 401,
    errors.ForbiddenError: 403,
    errors.NotFoundError: 404,
    errors.ConflictError: 409,
    errors.RefusedError: 409,
    errors.ForgedError: 401,
    errors.TooSlowError: 408,
    errors.TooLargeError: 413,
    errors.MediaTypeError: 415,
    errors.InvalidError: 422,
    errors.TooManyError: 429,
    errors.RegistryError: 503,
    errors.BusyError: 503,
}

logger = get_logger(__name__)


class Refusal(Response):
    """A problem, told before the rest of the request's body has arrived.

    The connection then closes; closing it while the client still sends would destroy the answer
    on its way, so that what comes is read and thrown away first, within bounds.
    """

    media_type = PROBLEM_TYPE

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer, take in what the client still sends, and end."""

        async def keep_open(message: Message) -> None:
            more = message["type"] == "http.response.body"
            await send({**message, "more_body": True} if more else message)

        await super().__call__(scope, receive, keep_open)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                taken = 0
                while taken < LINGER_BYTES:
                    message = await receive()
                    taken += len(message.get("body", b""))
                    if not message.get("more_body", False):
                        break
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def install(app: FastAPI) -> None:
    """Let every failure of `app` end in a problem that names its request."""
    app.add_exception_handler(errors.PulmoError, _pulmo_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _validation_error)


def status_of(error: Exception) -> int:
    """The HTTP status of an error's most precise class in `STATUSES`."""
    return next(STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES)


def document(status: int, detail: str, request_id: str) -> bytes:
    """A problem as JSON."""
    problem = Problem(
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        instance=f"urn:uuid:{request_id}",
        error=detail,
    )
    return problem.model_dump_json().encode()


def told(error: errors.PulmoError, request_id: str, *, unread: bool) -> Response:
    """The answer to a request that an error of ours has ended; `unread` as in `answer`."""
    status, detail, headers = status_of(error), str(error), {}
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR and not isinstance(error, errors.BusyError):
        logger.error("request %s failed: %s", request_id, error)  # may name places
        detail = _FAILED if status == 500 else _NO_REGISTRY
    if isinstance(error, errors.UnauthorizedError):
        headers["WWW-Authenticate"] = 'Bearer realm="pulmo"'
    if isinstance(error, errors.TooManyError):
        headers["Retry-After"] = str(error.seconds)
    return answer(status, detail, request_id, headers, unread=unread)


async def _pulmo_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, errors.PulmoError)
    return told(error, request.state.id, unread=request.state.unread)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    state, headers = request.state, error.headers or {}
    return answer(error.status_code, error.detail, state.id, headers, unread=state.unread)


async def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    state, detail = request.state, f"{where}: {first['msg']}"
    return answer(422, detail, state.id, {}, unread=state.unread)


def answer(
    status: int, detail: str, request_id: str, headers: Mapping[str, str], *, unread: bool
) -> Response:
    """A problem as an answer; `unread` is whether the request's body may still be on its way."""
    body = document(status, detail, request_id)
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers = {**headers, "Retry-After": str(RETRY_SECONDS)}
    if unread:
        return Refusal(body, status, {**headers, "Connection": "close"})
    return Response(body, status, headers, media_type=PROBLEM_TYPE)
