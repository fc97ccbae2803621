"""Who may ask what: every route has a role, and a guard stands before it."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from typing import Any, Literal, TypeVar

from fastapi import FastAPI
from fastapi.routing import APIRoute
from limits import RateLimitItem, parse
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter
from starlette.types import Receive, Scope, Send

from pulmo.config.settings import Settings
from pulmo.errors import (
    ConfigError,
    ForbiddenError,
    TooManyError,
    UnauthorizedError,
)
from pulmo.serving import contract
from pulmo.serving.keyring import Keyring

Role = Literal["public", "signed", "predict", "admin"]
Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])
Headers = Mapping[bytes, bytes]  # by lower-case name; of several alike the first
Address = tuple[str, int] | None  # of a client

CORS: dict[str, Any] = {  # what pages of known origins may send and see
    "allow_methods": ["GET", "POST"],
    "allow_headers": ["Authorization", "Content-Type", "X-API-Key"],
    "expose_headers": ["Retry-After", "X-Request-ID"],
}
OWN = "this machine"  # a caller without a key
_PASSED_ON = (b"forwarded", b"x-forwarded-for", b"x-real-ip", b"via")
_OWN_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})


@dataclass(frozen=True)
class Caller:
    """Who asks. `id` names them in limits and in the history."""

    id: str
    role: Role
    any_version: bool = False  # may ask versions beside the one that is served


class Guard:
    """Decides before a route is entered and before a byte of its body is read.

    Public routes are open; signed ones prove by themselves who asks. Predict is for keys, and
    for everyone where no key was ever made or the settings say so; admin is for admin keys alone.
    """

    def __init__(self, settings: Settings, keyring: Keyring) -> None:
        self._keyring = keyring
        self._open = settings.allow_anonymous
        self._origins = frozenset(words(settings.cors_origins))
        limited = settings.rate_limit != "off"
        self._pace: RateLimitItem | None = parse(settings.rate_limit) if limited else None
        self._pacer = SlidingWindowCounterRateLimiter(MemoryStorage()) if limited else None

    def admit(self, headers: Headers, client: Address, role: Role) -> Caller:
        """Who asks, if they may ask a route of this role.

        Raises UnauthorizedError, ForbiddenError or TooManyError.
        """
        if role == "public":
            return Caller("anyone", "public")
        self._require_origin(headers)
        caller = self._caller(client, headers, role)
        self._require_pace(caller)
        return caller

    def _require_origin(self, headers: Headers) -> None:
        """Browsers say which page asks; no page asks in its reader's name unless it is known."""
        said = headers.get(b"origin")
        if said is None:
            return
        origin, host = said.decode("latin-1"), headers.get(b"host", b"").decode("latin-1")
        if origin not in self._origins and origin.partition("://")[2] != host:
            raise ForbiddenError("pages of this origin may not ask: see PULMO_CORS_ORIGINS")

    def _caller(self, client: Address, headers: Headers, role: Role) -> Caller:
        if role == "signed":
            return Caller(_address(client), "signed")
        text = _shown(headers)
        if text is None:
            return self._stranger(client, headers, role)
        key = self._keyring.opened(text)
        if key is None:
            raise UnauthorizedError("this key is not known here, or was revoked")
        if role == "admin" and key.role != "admin":
            raise ForbiddenError(f"this needs an admin key, and {key.id} is a predict key")
        return Caller(f"{key.name} ({key.id})", key.role, key.any_version or key.role == "admin")

    def _stranger(self, client: Address, headers: Headers, role: Role) -> Caller:
        address = _address(client)
        if role == "predict" and self._open:
            return Caller(address, "predict")
        passed_on = any(name in headers for name in _PASSED_ON)  # by a proxy: for whom, who knows
        if role == "predict" and address == OWN and not (self._keyring.asked_for or passed_on):
            return Caller(OWN, "predict", any_version=True)
        raise UnauthorizedError(
            "a key is needed (`Authorization: Bearer KEY`); where no key was ever made, only this "
            "machine itself is answered"
        )

    def _require_pace(self, caller: Caller) -> None:
        if self._pace is None or self._pacer is None or (caller.id == OWN and not self._open):
            return
        if not self._pacer.hit(self._pace, caller.id):
            reset = self._pacer.get_window_stats(self._pace, caller.id).reset_time
            raise TooManyError(
                f"no more than {self._pace} may be asked: ask again in a moment",
                max(1, math.ceil(reset - time.time())),
            )


def known_hosts(settings: Settings, host: str, *, keyed: bool) -> frozenset[str] | None:
    """The names that a server at the address `host` goes by, None where it may have any.

    `keyed` is whether it asks for keys. Raises ConfigError where strangers would be let in
    without a word.
    """
    named = frozenset(words(settings.hosts))
    if _is_loopback(host) and not settings.allow_anonymous:
        return _OWN_NAMES | {f"[{host}]" if ":" in host else host} | named
    if not (keyed or settings.allow_anonymous):
        raise ConfigError(
            f"{host} can be reached from other machines and nobody is asked for a key: make one "
            "with `pulmo keys create`, serve 127.0.0.1, or set PULMO_ALLOW_ANONYMOUS=1 if that "
            "is meant"
        )
    return named or None


def words(text: str) -> list[str]:
    """The words of a setting that are separated by commas."""
    return [word for word in text.split(",") if word]


class Guarded(APIRoute):
    """A route behind a guard; `Routes` makes one for each role."""

    role: Role
    guard: Guard

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer if the caller may ask."""
        headers = dict(reversed(scope["headers"]))
        scope["state"]["caller"] = self.guard.admit(headers, scope.get("client"), self.role)
        await super().handle(scope, receive, send)


class Routes:
    """The only way to add a route: with a role, behind the guard.

    The caller stands in `request.state.caller`.
    """

    def __init__(self, app: FastAPI, guard: Guard) -> None:
        self._app, self._guard = app, guard

    def get(self, role: Role, path: str, **options: Any) -> Callable[[Endpoint], Endpoint]:
        """Add a route that reads; `options` are those of FastAPI."""
        return self._add(role, "GET", path, options)

    def head(self, role: Role, path: str) -> Callable[[Endpoint], Endpoint]:
        """Let a route that reads also be asked without its body, which no document tells."""
        return self._add(role, "HEAD", path, {"include_in_schema": False})

    def post(self, role: Role, path: str, **options: Any) -> Callable[[Endpoint], Endpoint]:
        """Add a route that does; `options` are those of FastAPI."""
        return self._add(role, "POST", path, options)

    def _add(
        self, asked: Role, method: str, path: str, options: dict[str, Any]
    ) -> Callable[[Endpoint], Endpoint]:
        class Route(Guarded):
            role = asked
            guard = self._guard

        told = {**contract.access(asked), **options.pop("responses", {})}
        extra = {**contract.security(asked), **options.pop("openapi_extra", {})}

        def add(endpoint: Endpoint) -> Endpoint:
            self._app.router.add_api_route(
                path,
                endpoint,
                methods=[method],
                route_class_override=Route,
                responses=told,
                openapi_extra=extra,
                **options,
            )
            return endpoint

        return add


def _shown(headers: Headers) -> str | None:
    """The key that a request shows, None where it shows none."""
    scheme, _, text = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    if scheme.lower() == "bearer":
        return text.strip()
    key = headers.get(b"x-api-key")
    return None if key is None else key.decode("latin-1")


def _address(client: Address) -> str:
    """Where a request comes from: `OWN`, an IPv4 address, or a network of IPv6 (RFC 6177)."""
    return _network(client[0]) if client else OWN  # a Unix socket has no address


@lru_cache(maxsize=4096)
def _network(host: str) -> str:
    if _is_loopback(host):
        return OWN
    try:
        address = ip_address(host)
    except ValueError:
        return host
    return str(address) if address.version == 4 else address.packed[:8].hex()


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
