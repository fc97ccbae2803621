"""The registry on this machine or this team's database: a ledger in SQL beside a store of files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import select

from pulmo.core.bundle import verify
from pulmo.core.ports import (
    AUTOMATIC_ALIASES,
    PRODUCTION,
    Capabilities,
    ModelRef,
    Move,
    Verdict,
    Version,
    is_alias,
    is_name,
)
from pulmo.errors import ConfigError, NotFoundError, RefusedError, RegistryError
from pulmo.registry.files import BundleFiles, open_files
from pulmo.registry.moves import (
    Cause,
    choose_rollback,
    follow,
    move_alias,
    moves_of,
    pointed_at,
    require_pointed,
)
from pulmo.registry.signing import Keys
from pulmo.registry.verdicts import add_verdict, require_passing, verdicts_of
from pulmo.registry.versions import (
    add_version,
    all_versions,
    describe,
    find_version,
    lock_model,
    model_names,
    now,
    require_model,
    require_version,
)
from pulmo.store.database import Database, open_database
from pulmo.store.tables import AliasRow, DeletionRow, LineageRow


class LocalRegistry:
    """The port `pulmo.core.ports.Registry` over a `Database` and a store of files.

    Every verb is one transaction; the bytes are safe on disk before a row names them.
    """

    capabilities = Capabilities(compare_and_swap="everyone", shown_elsewhere=False)

    def __init__(self, database: Database, files: BundleFiles, keys: Keys | None = None) -> None:
        self._database = database
        self._files = files
        self._keys = keys or Keys()

    def close(self) -> None:
        """Close idle connections."""
        self._database.close()

    def register(self, bundle: Path, *, actor: str) -> Version:
        """Store a bundle folder; a known model digest returns its version with one more lineage.

        Raises ModelError for a bundle that is not whole, RegistryError for an impossible name.
        """
        checked = verify(bundle)
        name = checked.info.name
        if not is_name(name):
            raise RegistryError(
                f"{bundle} is named '{name}', which cannot name a model: use lower case letters, "
                "digits, '.', '_' and '-' (registry.name)"
            )
        signature = self._keys.sign(checked)
        self._files.store(checked)
        with self._database.write() as session:
            row, new = add_version(session, checked, actor)
            if new:
                follow(session, "register", name, Cause(actor, f"v{row.number} registered"))
            # Before this transaction nothing kept `gc` from taking the files; now it must wait.
            if not self._files.holds(checked.digest):
                self._files.store(checked)
            if signature is not None:
                self._files.sign(checked.digest, signature)
            return describe(session, [row])[0]

    def sign(self, ref: ModelRef) -> Version:
        """Sign the bundle of a version as it is stored. Raises ConfigError without a key."""
        version = self.get(ref)
        signature = self._keys.sign(verify(self._files.fetch(version.bundle_digest)))
        if signature is None:
            raise ConfigError("no key to sign with: let PULMO_SIGNING_KEY name its file")
        self._files.sign(version.bundle_digest, signature)
        return version

    def get(self, ref: ModelRef) -> Version:
        """The version that a reference points at now."""
        with self._database.read() as session:
            return describe(session, [find_version(session, ref)])[0]

    def fetch(self, ref: ModelRef) -> Path:
        """A local folder with the bundle, verified; where a public key asks for it, its signature.

        Raises ModelError where it is damaged or not signed by that key.
        """
        digest = self.get(ref).bundle_digest
        if self._keys.public is not None:
            self._files.renew_signature(digest)
        folder = self._files.fetch(digest)
        if self._keys.public is not None:
            self._keys.check(verify(folder))
        return folder

    def names(self) -> list[str]:
        """All model names, sorted."""
        with self._database.read() as session:
            return model_names(session)

    def versions(self, name: str) -> list[Version]:
        """All versions of a model, oldest first."""
        with self._database.read() as session:
            return describe(session, all_versions(session, name))

    def lineages(self, version: Version) -> list[Mapping[str, Any]]:
        """Every recorded origin of a version, oldest first."""
        query = (
            select(LineageRow.document)
            .where(LineageRow.name == version.name)
            .where(LineageRow.model_digest == version.model_digest)
            .order_by(LineageRow.id)
        )
        with self._database.read() as session:
            require_version(session, version.name, version.number)
            return list(session.scalars(query))

    def history(self, name: str) -> list[Move]:
        """All alias moves of a model, oldest first."""
        with self._database.read() as session:
            require_model(session, name)
            return moves_of(session, name)

    def set_alias(
        self, name: str, alias: str, number: int, *, expected: int | None, actor: str, reason: str
    ) -> Move:
        """Point an alias at a version if it points at `expected` now, else ConflictError."""
        _require_movable(name, alias)
        with self._database.write() as session:
            lock_model(session, name)
            require_version(session, name, number)
            require_pointed(session, name, alias, expected)
            return move_alias(session, "set", name, alias, number, Cause(actor, reason))

    def remove_alias(
        self, name: str, alias: str, *, expected: int, actor: str, reason: str
    ) -> Move:
        """Take an alias away if it points at `expected` now, else ConflictError."""
        _require_movable(name, alias)
        with self._database.write() as session:
            lock_model(session, name)
            if pointed_at(session, name, alias) is None:
                raise NotFoundError(f"{name} has no alias '{alias}' to remove")
            require_pointed(session, name, alias, expected)
            return move_alias(session, "remove", name, alias, None, Cause(actor, reason))

    def record_verdict(self, verdict: Verdict) -> Verdict:
        """Store a verdict, passing or not; RegistryError where its digest is not registered."""
        with self._database.write() as session:
            lock_model(session, verdict.name)
            return add_verdict(session, verdict)

    def verdicts(self, name: str, model_digest: str | None = None) -> list[Verdict]:
        """Stored verdicts, oldest first."""
        with self._database.read() as session:
            require_model(session, name)
            return verdicts_of(session, name, model_digest)

    def promote(
        self, name: str, number: int, *, suite_digest: str, actor: str, reason: str
    ) -> Move:
        """Point `production` at a version that has a passing verdict beside the champion."""
        with self._database.write() as session:
            lock_model(session, name)
            row = require_version(session, name, number)
            present = pointed_at(session, name, PRODUCTION)
            if present == number:
                raise RefusedError(f"{name}:v{number} is in production already")
            champion = None if present is None else require_version(session, name, present)
            verdict = require_passing(session, row, champion, suite_digest)
            evidence = {
                "verdict": verdict.id,
                "model_digest": row.model_digest,
                "suite_digest": verdict.suite_digest,
                "champion_digest": verdict.champion_digest,
                "data_digest": verdict.data_digest,
            }
            cause = Cause(actor, reason, evidence)
            return move_alias(session, "promote", name, PRODUCTION, number, cause)

    def rollback(self, name: str, *, to: int | None, actor: str, reason: str) -> Move:
        """Point `production` at the version below, or at `to`, which must have held it before."""
        with self._database.write() as session:
            lock_model(session, name)
            row, held = choose_rollback(session, name, to)
            evidence = {"model_digest": row.model_digest, "move": held.id}
            cause = Cause(actor, reason, evidence)
            return move_alias(session, "rollback", name, PRODUCTION, row.number, cause)

    def delete(self, name: str, number: int, *, actor: str, reason: str) -> None:
        """Forget a version; RefusedError while an alias beside `latest` and `best` points at it."""
        with self._database.write() as session:
            lock_model(session, name)
            row = require_version(session, name, number)
            pointing = select(AliasRow).where(AliasRow.name == name, AliasRow.number == number)
            aliases = {alias.alias for alias in session.scalars(pointing)}
            if held := sorted(aliases - set(AUTOMATIC_ALIASES)):
                raise RefusedError(
                    f"{name}:v{number} is {', '.join(held)}: move the alias before you delete it"
                )
            session.add(
                DeletionRow(
                    name=name,
                    number=number,
                    model_digest=row.model_digest,
                    bundle_digest=row.bundle_digest,
                    actor=actor,
                    reason=reason,
                    at=now(),
                )
            )
            reason = f"v{number} deleted: {reason}"
            follow(session, "set", name, Cause(actor, reason), leaving=number)
            session.delete(row)


def open_registry(
    database_url: str,
    files_url: str,
    *,
    read_only: bool = False,
    cache: Path | None = None,
    keys: Keys | None = None,
) -> LocalRegistry:
    """Open the registry at a database URL with its files in a folder or at any fsspec URL.

    For writing, both are made where they are missing; read-only, the database must be there.
    `cache` keeps copies of remote files (default: `models/cache`); `keys`
    sign what is registered and check what is fetched.
    """
    return LocalRegistry(
        open_database(database_url, read_only=read_only), open_files(files_url, cache=cache), keys
    )


def _require_movable(name: str, alias: str) -> None:
    if alias == PRODUCTION:
        raise RefusedError(
            f"{name}:{alias} is moved by `promote` after passing tests and by `rollback` alone"
        )
    if alias in AUTOMATIC_ALIASES:
        raise RefusedError(f"{name}:{alias} follows the versions by itself")
    if not is_alias(alias):
        raise RegistryError(
            f"'{alias}' cannot be an alias: begin with a lower case letter, go on with letters, "
            "digits, '_' and '-', and do not write it like a version (v3)"
        )
