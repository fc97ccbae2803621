"""What W&B is told of moved aliases, and what was moved there by other means."""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from pulmo.config.hooks import WANDB, HookSettings
from pulmo.config.settings import Settings
from pulmo.config.wandb import is_offline
from pulmo.core.bundle import verify
from pulmo.core.elsewhere import Seen
from pulmo.core.events import Event
from pulmo.core.ports import Version
from pulmo.errors import ModelError, PulmoError
from pulmo.registry.delivery import Sender
from pulmo.registry.files import open_files
from pulmo.registry.inventory import open_inventory
from pulmo.registry.local import LocalRegistry
from pulmo.registry.outbox import Outbox
from pulmo.registry.queue import SqlJobs
from pulmo.registry.signing import Keys
from pulmo.registry.targets import UndeliveredError, is_shared, make_targets
from pulmo.registry.upkeep import Upkeep
from pulmo.registry.wandb import WandbFiles, WandbRegistry, show_best
from pulmo.registry.wandb_artifacts import Artifacts
from pulmo.store.database import open_database


class Mirror:
    """The target of events that moves W&B's aliases as the ledger's were moved, in their order."""

    name = WANDB

    def __init__(self, ledger: LocalRegistry, artifacts: Artifacts) -> None:
        self._ledger, self._artifacts = ledger, artifacts

    def send(self, event: Event) -> None:
        """Move one alias, and `best` with it. Raises UndeliveredError."""
        told = event.payload
        try:
            if told["after"] is None:
                self._artifacts.remove(event.name, told["alias"])
            else:
                self._artifacts.point(event.name, told["alias"], told["bundle_digest"])
        except PulmoError as error:
            raise UndeliveredError(str(error)) from error
        show_best(self._ledger, self._artifacts, event.name)


class WandbAliases:
    """The port `pulmo.core.elsewhere.Elsewhere`: W&B's aliases as they are there."""

    name = "W&B"

    def __init__(
        self,
        registry: LocalRegistry,
        artifacts: Artifacts,
        outbox: Outbox,
        tell: Callable[[], object],
    ) -> None:
        self._registry, self._artifacts = registry, artifacts
        self._outbox, self._tell = outbox, tell

    def shown(self, name: str) -> Mapping[str, Seen]:
        """Every alias of a model's collection and the artifact that it is at."""
        return {
            alias: Seen(alias, kept.path, kept.model_digest)
            for kept in self._artifacts.versions(name)
            for alias in kept.aliases
        }

    def untold(self, name: str) -> frozenset[str]:
        """Aliases whose moves W&B has not taken, also now that it is told what is due."""
        self._tell()
        return frozenset(
            delivery.alias
            for delivery in self._outbox.deliveries()
            if delivery.target == WANDB and delivery.model == name
        )

    def take(self, seen: Seen, name: str, *, actor: str) -> Version:
        """Download an artifact, verify it and register what it holds.

        Raises ModelError where that is no bundle of this model, or another than its metadata says.
        """
        with tempfile.TemporaryDirectory(prefix="pulmo-") as folder:
            self._artifacts.download(seen.artifact, Path(folder))
            bundle = verify(Path(folder))
            if bundle.info.name != name:
                raise ModelError(f"{seen.artifact} holds a model named {bundle.info.name}")
            if seen.model_digest not in (None, bundle.info.model_digest):
                raise ModelError(
                    f"{seen.artifact} holds model {bundle.info.model_digest}, its metadata says "
                    f"{seen.model_digest}"
                )
            return self._registry.register(bundle.path, actor=actor)


def open_wandb(
    settings: Settings, chosen: HookSettings | None, keys: Keys
) -> tuple[WandbRegistry, Sender, WandbAliases]:
    """The registry with W&B, what tells it of moves, and what looks at its aliases.

    Without `chosen` it is opened for reading alone. W&B is not asked before it has to be.
    """
    database = open_database(settings.registry_url, read_only=chosen is None)
    artifacts, outbox = Artifacts(), Outbox(database)
    files = WandbFiles(open_files(settings.files_url), artifacts, database)

    def tell() -> None:
        if not is_offline():  # what W&B is told waits, and is not counted as failed
            sender.deliver(WANDB)

    registry = WandbRegistry(database, files, artifacts, tell, keys)
    others = []
    if chosen is not None:
        shared = is_shared(settings.registry_url, "wandb://")
        others = make_targets(chosen, SqlJobs(database), shared=shared)
    sender = Sender(outbox, [*others, Mirror(registry, artifacts)])
    return registry, sender, WandbAliases(registry, artifacts, outbox, tell)


def open_wandb_upkeep(settings: Settings, keys: Keys, *, read_only: bool = False) -> Upkeep:
    """The keeper of the ledger and of the copies on this machine; what lacks comes from W&B."""
    database = open_database(settings.registry_url, read_only=read_only)
    files = WandbFiles(open_files(settings.files_url), Artifacts(), database)
    return Upkeep(database, files, open_inventory(settings.files_url), keys)
