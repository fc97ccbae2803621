"""The registry over HTTP: what there is, and under `serve --admin` the verbs that move aliases."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, TypeVar

from fastapi import Query, Request
from pydantic import BaseModel

from pulmo.core import wire
from pulmo.core.ports import STAGING, ModelRef, Move, Registry, Version, is_name
from pulmo.errors import ForbiddenError, MediaTypeError, NotFoundError
from pulmo.serving import bodies, contract
from pulmo.serving.access import Routes
from pulmo.serving.limits import Intake, Limits
from pulmo.serving.models import Present
from pulmo.serving.pool import Pool

BODY_BYTES = 16 * 1024
MOST_MOVES = 1000
HIDDEN = frozenset({"configuration", "machine"})  # they may name places and people

Body = TypeVar("Body", bound=BaseModel)
Result = TypeVar("Result")
Promote = Callable[[Version, str, str], Move]  # of a version, by whom, why

Name = Annotated[
    str | None, Query(description="The model's; else that of the served one.", pattern=wire.NAME)
]
Number = Annotated[str, Query(description="As v3.", pattern=wire.VERSION)]
Count = Annotated[int, Query(description="So many of the newest.", ge=1, le=MOST_MOVES)]


@dataclass(frozen=True)
class Desk:
    """The registry as a server may use it: reading it, or also moving its aliases.

    `promote` is there under `serve --admin` alone; it raises RefusedError or ConflictError.
    """

    registry: Registry
    promote: Promote | None = None


class _Clerk:
    """Does at the desk what routes ask, in threads of `pool`."""

    def __init__(self, desk: Desk | None, present: Present, pool: Pool) -> None:
        self._desk, self._present, self._pool = desk, present, pool
        self._intake = Intake(dataclasses.replace(Limits(), body_bytes=BODY_BYTES))

    async def read(self, name: str | None, work: Callable[[Registry, str], Result]) -> Result:
        """What `work` makes of the registry and the name of a model."""
        desk = self._desk
        if desk is None:
            raise NotFoundError("this server has no registry: it serves a bundle")
        asked = name if name is not None else self._present.model.name.name
        told: Result = await self._pool.run(lambda: work(desk.registry, asked))
        return told

    async def move(self, name: str, work: Callable[[Desk, Promote], Move]) -> wire.AliasMove:
        """The move that `work` makes. Raises ForbiddenError without `serve --admin`."""
        desk = self._desk
        if desk is None or desk.promote is None:
            raise ForbiddenError("aliases are moved through servers with `serve --admin` alone")
        if not is_name(name):
            raise NotFoundError(f"no model is called '{name[:80]}'")
        promote = desk.promote
        return _move(await self._pool.run(lambda: work(desk, promote)))

    async def body(self, request: Request, kind: type[Body]) -> Body:
        """A small JSON body. Raises MediaTypeError, TooLargeError, DataError or InvalidError."""
        if request.headers.get("content-type", "").partition(";")[0].lower() != "application/json":
            raise MediaTypeError("this takes application/json")
        async with self._intake.body(request) as read:
            return bodies.document(kind, read)


def add(routes: Routes, desk: Desk | None, present: Present, pool: Pool) -> None:
    """Add the routes; without a desk they say that there is nothing."""
    clerk = _Clerk(desk, present, pool)
    _add_reading(routes, clerk)
    _add_moving(routes, clerk)


def _add_reading(routes: Routes, clerk: _Clerk) -> None:
    told = contract.failures(404, 422, 503)

    @routes.get("predict", "/registry/models", responses=told)
    async def models() -> list[wire.RegisteredModel]:
        """Every model with its number of versions and where its aliases point."""
        return await clerk.read("", lambda registry, _: [*map(_model(registry), registry.names())])

    @routes.get("predict", "/registry/versions", responses=told)
    async def versions(name: Name = None) -> list[wire.RegisteredVersion]:
        """All versions of a model, oldest first."""
        return await clerk.read(
            name, lambda registry, asked: [*map(_version, registry.versions(asked))]
        )

    @routes.get("predict", "/registry/version", responses=told)
    async def version(version: Number, name: Name = None) -> wire.VersionRecord:
        """One version with its origins and what the staged tests said of it."""
        return await clerk.read(
            name, lambda registry, asked: _record(registry, f"{asked}:{version}")
        )

    @routes.get("predict", "/registry/history", responses=told)
    async def history(name: Name = None, limit: Count = 100) -> list[wire.AliasMove]:
        """The newest moves of a model's aliases, oldest first."""
        return await clerk.read(
            name, lambda registry, asked: [*map(_move, registry.history(asked)[-limit:])]
        )


def _add_moving(routes: Routes, clerk: _Clerk) -> None:
    told = contract.failures(404, 408, 409, 413, 415, 422, 503)

    def options(kind: type[BaseModel]) -> dict[str, object]:
        return {"responses": told, "openapi_extra": contract.json_body(kind)}

    @routes.post("admin", "/registry/{name}/stage", status_code=202, **options(wire.Staging))
    async def stage(request: Request, name: str) -> wire.AliasMove:
        """Point `staging` at a version, which asks for its tests; they promote it if it passes."""
        asked, actor = await clerk.body(request, wire.Staging), request.state.caller.id

        def work(desk: Desk, _: Promote) -> Move:
            number = desk.registry.get(ModelRef.parse(f"{name}:{asked.version}")).number
            before = _pointed(desk.registry, name)
            return desk.registry.set_alias(
                name, STAGING, number, expected=before, actor=actor, reason=asked.reason
            )

        return await clerk.move(name, work)

    @routes.post("admin", "/registry/{name}/promote", **options(wire.Promotion))
    async def promote(request: Request, name: str) -> wire.AliasMove:
        """Move `production` to a version whose stored verdict passes."""
        asked, actor = await clerk.body(request, wire.Promotion), request.state.caller.id

        def work(desk: Desk, promote: Promote) -> Move:
            version = desk.registry.get(ModelRef.parse(f"{name}:{asked.version}"))
            return promote(version, actor, asked.reason)

        return await clerk.move(name, work)

    @routes.post("admin", "/registry/{name}/rollback", **options(wire.Rollback))
    async def rollback(request: Request, name: str) -> wire.AliasMove:
        """Move `production` back to the version before, or to one that was there once."""
        asked, actor = await clerk.body(request, wire.Rollback), request.state.caller.id

        def work(desk: Desk, _: Promote) -> Move:
            number = None
            if asked.to is not None:
                number = desk.registry.get(ModelRef.parse(f"{name}:{asked.to}")).number
            return desk.registry.rollback(name, to=number, actor=actor, reason=asked.reason)

        return await clerk.move(name, work)


def _pointed(registry: Registry, name: str) -> int | None:
    try:
        return registry.get(ModelRef(name, alias=STAGING)).number
    except NotFoundError:
        return None


def _model(registry: Registry) -> Callable[[str], wire.RegisteredModel]:
    def told(name: str) -> wire.RegisteredModel:
        versions = registry.versions(name)
        aliases = {alias: f"v{v.number}" for v in versions for alias in v.aliases}
        return wire.RegisteredModel(name=name, versions=len(versions), aliases=aliases)

    return told


def _version(version: Version) -> wire.RegisteredVersion:
    return wire.RegisteredVersion(
        name=version.name,
        version=f"v{version.number}",
        model_digest=version.model_digest,
        bundle_digest=version.bundle_digest,
        metric=version.metric,
        score=version.score if math.isfinite(version.score) else None,
        created_at=version.created_at,
        created_by=version.created_by,
        aliases=version.aliases,
    )


def _record(registry: Registry, ref: str) -> wire.VersionRecord:
    version = registry.get(ModelRef.parse(ref))
    return wire.VersionRecord(
        version=_version(version),
        lineages=tuple(
            {name: value for name, value in lineage.items() if name not in HIDDEN}
            for lineage in registry.lineages(version)
        ),
        verdicts=tuple(
            wire.StoredVerdict.model_validate(verdict, from_attributes=True)
            for verdict in registry.verdicts(version.name, version.model_digest)
        ),
    )


def _move(move: Move) -> wire.AliasMove:
    told = {field.name: getattr(move, field.name) for field in dataclasses.fields(move)}
    ends = {end: None if told[end] is None else f"v{told[end]}" for end in ("before", "after")}
    return wire.AliasMove(**{**told, **ends})
