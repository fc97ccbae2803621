"""Versions beside the served one: a few of them, loaded when they are asked for."""

import asyncio
from collections import OrderedDict

from pulmo.core.bundle import verify
from pulmo.core.ports import ModelRef, Registry, Version
from pulmo.errors import BusyError, ForbiddenError, NotFoundError
from pulmo.serving.access import Caller
from pulmo.serving.models import Model, Present
from pulmo.serving.pool import Pool

PLACES = 2  # so many are kept in memory, the least lately asked for goes


class Shelf:
    """The served model, and other versions of it from a registry."""

    def __init__(self, present: Present, registry: Registry | None, pool: Pool) -> None:
        self._present, self._registry, self._pool = present, registry, pool
        self._models: OrderedDict[tuple[int, str], Model] = OrderedDict()
        self._loading = asyncio.Lock()

    async def model(self, caller: Caller, alias: str | None, version: str | None) -> Model:
        """The model of an alias or a version (`v3`), else the served one.

        Raises ForbiddenError where the caller may ask the served one alone, NotFoundError also
        where the alias is not at that version, BusyError while another one is being loaded.
        """
        present = self._present.model
        if alias is None and version is None:
            return present
        if alias is None and version == present.name.version:
            return present
        if not caller.any_version:
            raise ForbiddenError(
                "this key may ask the served version alone: an admin key, or one made with "
                "`pulmo keys create --any-version`, may ask others"
            )
        if self._registry is None:
            raise NotFoundError("this server has no registry and no other version")
        ref = ModelRef.parse(f"{present.name.name}:{alias or version}")
        found: Version = await self._pool.run(lambda: self._get(ref))
        if version is not None and found.number != ModelRef.parse(f"x:{version}").version:
            raise NotFoundError(f"{ref} is at v{found.number} now, not at {version}")
        if (found.number, found.bundle_digest) == _key(present):
            return present
        return self._known(found) or await self._load(found)

    def _get(self, ref: ModelRef) -> Version:
        assert self._registry is not None
        return self._registry.get(ref)

    def _known(self, version: Version) -> Model | None:
        key = (version.number, version.bundle_digest)
        if key not in self._models:
            return None
        self._models.move_to_end(key)
        return self._models[key]

    async def _load(self, version: Version) -> Model:
        if self._loading.locked():
            raise BusyError("another version is being loaded: ask again in a moment")
        async with self._loading:
            model: Model = await self._pool.run(lambda: self._made(version))
            self._models[version.number, version.bundle_digest] = model
            if len(self._models) > PLACES:
                self._models.popitem(last=False)
            return model

    def _made(self, version: Version) -> Model:
        assert self._registry is not None
        exact = ModelRef(version.name, version=version.number)
        bundle = verify(self._registry.fetch(exact))
        return Model(bundle, version, self._present.model.engine)


def _key(model: Model) -> tuple[int, str] | None:
    version = model.version
    return None if version is None else (version.number, version.bundle_digest)
