"""Who may ask what: every route has a role, and a guard stands before it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send

Role = Literal["public", "signed", "predict", "admin"]
Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])


@dataclass(frozen=True)
class Caller:
    """Who asks. `id` names them in limits and in the history."""

    id: str
    role: Role
    any_version: bool = False  # may ask other versions than the one that is served


class Guard(Protocol):
    """Decides before a route is entered and before a byte of its body is read."""

    def admit(self, scope: Scope, role: Role) -> Caller:
        """Who asks, if they may ask a route of this role. Raises ServingError."""


class Everyone:
    """A guard that lets everyone predict; for tests and for a machine's own user."""

    def admit(self, scope: Scope, role: Role) -> Caller:
        """A caller of the asked role."""
        return Caller("anonymous", role)


class Routes:
    """The only way to add a route: with a role, behind the guard.

    The caller stands in `request.state.caller`.
    """

    def __init__(self, app: FastAPI, guard: Guard) -> None:
        self._app, self._guard = app, guard

    def get(self, role: Role, path: str, **options: Any) -> Callable[[Endpoint], Endpoint]:
        """Add a route that reads; `options` are those of FastAPI."""
        return self._add(role, "GET", path, options)

    def post(self, role: Role, path: str, **options: Any) -> Callable[[Endpoint], Endpoint]:
        """Add a route that does; `options` are those of FastAPI."""
        return self._add(role, "POST", path, options)

    def _add(
        self, role: Role, method: str, path: str, options: dict[str, Any]
    ) -> Callable[[Endpoint], Endpoint]:
        kind = _guarded(role, self._guard)

        def add(endpoint: Endpoint) -> Endpoint:
            self._app.router.add_api_route(
                path, endpoint, methods=[method], route_class_override=kind, **options
            )
            return endpoint

        return add


class Guarded(APIRoute):
    """A route behind a guard; `_guarded` makes one for each role."""

    role: Role
    guard: Guard

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer if the caller may ask."""
        scope["state"]["caller"] = self.guard.admit(scope, self.role)
        await super().handle(scope, receive, send)


def _guarded(asked: Role, by: Guard) -> type[Guarded]:
    class Route(Guarded):
        role = asked
        guard = by

    return Route
