"""The registry with W&B: bytes and aliases are shown there, the ledger in SQL decides.

W&B has no compare-and-swap: the ledger gives it among Pulmo's own writers. What others click in
W&B changes nothing here; `pulmo.registry.wandb_mirror` looks at it.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import select

from pulmo.config.wandb import is_offline
from pulmo.core.bundle import SIGNATURE, Bundle, verify
from pulmo.core.ports import BEST, Capabilities, ModelRef, Move, Version
from pulmo.errors import ModelError, NotFoundError, RegistryError
from pulmo.logs import get_logger
from pulmo.registry.files import BundleFiles
from pulmo.registry.local import LocalRegistry
from pulmo.registry.signing import Keys
from pulmo.registry.wandb_artifacts import Artifacts
from pulmo.store.database import Database
from pulmo.store.tables import VersionRow

log = get_logger(__name__)


class WandbFiles:
    """A store of bundles in W&B, with copies in another one, which are used where they are whole.

    A bundle is in both before `store` returns.
    """

    def __init__(self, copies: BundleFiles, artifacts: Artifacts, database: Database) -> None:
        self._copies, self._artifacts, self._database = copies, artifacts, database
        self._stored: dict[str, str] = {}  # names of bundles that no row may name yet

    def store(self, bundle: Bundle) -> None:
        """Keep a verified bundle here and there."""
        self._copies.store(bundle)
        kept = self._copies.fetch(bundle.digest)  # stays, also until an offline run is sent
        self._artifacts.upload(bundle.model_copy(update={"path": kept}))
        self._stored[bundle.digest] = bundle.info.name

    def sign(self, digest: str, signature: bytes) -> None:
        """Put a signature beside the copy and into the artifact's metadata."""
        self._copies.sign(digest, signature)
        if not is_offline():
            self._artifacts.sign(self._name(digest), digest, signature)

    def fetch(self, digest: str) -> Path:
        """The copy; one that is missing or damaged comes from W&B and is verified."""
        try:
            return self._copies.fetch(digest)
        except (NotFoundError, ModelError) as error:
            log.info("%s; asking W&B", error)
        name = self._name(digest)
        kept = self._artifacts.find(name, digest)
        if kept is None:
            raise NotFoundError(
                f"neither PULMO_FILES_URL nor W&B has bundle {digest} of {name}: register it again"
            )
        with tempfile.TemporaryDirectory(prefix="pulmo-") as folder:
            self._artifacts.download(kept.path, Path(folder))
            bundle = verify(Path(folder))
            if bundle.digest != digest:
                raise ModelError(f"{kept.path} holds bundle {bundle.digest}, not {digest}")
            self._copies.store(bundle)
        return self._copies.fetch(digest)

    def renew_signature(self, digest: str) -> None:
        """W&B's signature goes to the copy; unreachable, the one that came last stays."""
        known = self.fetch(digest) / SIGNATURE
        try:
            newest = self._artifacts.signature(self._name(digest), digest)
        except RegistryError:
            return
        if newest is not None and (not known.exists() or known.read_bytes() != newest):
            self._copies.sign(digest, newest)

    def holds(self, digest: str) -> bool:
        """Whether the copy is there."""
        return self._copies.holds(digest)

    def _name(self, digest: str) -> str:
        if (name := self._stored.get(digest)) is not None:
            return name
        with self._database.read() as session:
            found = session.scalar(
                select(VersionRow.name).where(VersionRow.bundle_digest == digest).limit(1)
            )
        if found is None:
            raise NotFoundError(f"no version has bundle {digest}")
        return found


class WandbRegistry(LocalRegistry):
    """The port `pulmo.core.ports.Registry`: the ledger's rules, with W&B told of every move.

    A move is made in the ledger, with its event; then `tell` delivers events to W&B as far as it
    answers. What does not arrive is tried again by `hooks deliver`.
    """

    capabilities = Capabilities(compare_and_swap="pulmo", shown_elsewhere=True)

    def __init__(
        self,
        database: Database,
        files: WandbFiles,
        artifacts: Artifacts,
        tell: Callable[[], object],
        keys: Keys | None = None,
    ) -> None:
        super().__init__(database, files, keys)
        self._artifacts, self._tell = artifacts, tell

    def register(self, bundle: Path, *, actor: str) -> Version:
        """Store a bundle here and in W&B; a known model digest returns its version."""
        version = super().register(bundle, actor=actor)
        show_best(self, self._artifacts, version.name)
        return version

    def set_alias(
        self, name: str, alias: str, number: int, *, expected: int | None, actor: str, reason: str
    ) -> Move:
        """Point an alias at a version if the ledger's is at `expected` now, else ConflictError."""
        move = super().set_alias(name, alias, number, expected=expected, actor=actor, reason=reason)
        self._tell()
        return move

    def remove_alias(
        self, name: str, alias: str, *, expected: int, actor: str, reason: str
    ) -> Move:
        """Take an alias away if the ledger's is at `expected` now, else ConflictError."""
        move = super().remove_alias(name, alias, expected=expected, actor=actor, reason=reason)
        self._tell()
        return move

    def promote(
        self, name: str, number: int, *, suite_digest: str, actor: str, reason: str
    ) -> Move:
        """Point `production` at a version that has a passing verdict beside the champion."""
        move = super().promote(name, number, suite_digest=suite_digest, actor=actor, reason=reason)
        self._tell()
        return move

    def rollback(self, name: str, *, to: int | None, actor: str, reason: str) -> Move:
        """Point `production` at the version below, or at `to`, which must have held it before."""
        move = super().rollback(name, to=to, actor=actor, reason=reason)
        self._tell()
        return move

    def delete(self, name: str, number: int, *, actor: str, reason: str) -> None:
        """Forget a version; its artifact stays in W&B until somebody deletes it there."""
        super().delete(name, number, actor=actor, reason=reason)
        show_best(self, self._artifacts, name)


def show_best(ledger: LocalRegistry, artifacts: Artifacts, name: str) -> None:
    """Let W&B's `best` be where the ledger's is, which no event tells; a failure is only told."""
    if is_offline():
        return
    try:
        version = ledger.get(ModelRef(name, alias=BEST))
        artifacts.point(name, BEST, version.bundle_digest)
    except NotFoundError:
        return  # nothing has a score, or its artifact waits for `wandb sync`
    except RegistryError as error:
        log.warning("W&B is not told which %s is best: %s", name, error)
