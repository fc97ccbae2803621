"""Adapters built from settings; nothing else knows which adapter stands behind a port."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pulmo.config.hooks import HookSettings
from pulmo.config.settings import Settings
from pulmo.core.bundle import SUMS, Bundle, verify
from pulmo.core.ports import LATEST, PRODUCTION, ModelRef, Move, Registry, Version
from pulmo.errors import ConfigError, ModelError, RefusedError

if TYPE_CHECKING:
    from pulmo.config.tracking import TrackingConfig
    from pulmo.core.elsewhere import Elsewhere
    from pulmo.core.receipt import DriftLog, Receipt, ReceiptLog
    from pulmo.models.tracking import Tracker
    from pulmo.registry.delivery import Sender
    from pulmo.registry.local import LocalRegistry
    from pulmo.registry.outbox import Outbox
    from pulmo.registry.queue import SqlJobs
    from pulmo.registry.signing import Keys
    from pulmo.registry.upkeep import Upkeep
    from pulmo.serving.models import Source
    from pulmo.serving.registry_routes import Desk
    from pulmo.serving.webhooks import Receiver

BUNDLE = "bundle"  # where a run's folder keeps its bundle


def open_registry(settings: Settings, *, read_only: bool = False) -> Registry:
    """The registry that the settings point at. Raises RegistryError."""
    return _open_ledger(settings, read_only=read_only)


def _open_ledger(settings: Settings, *, read_only: bool = False) -> "LocalRegistry":
    if settings.registry == "wandb":
        from pulmo.config import hooks
        from pulmo.registry.wandb_mirror import open_wandb

        chosen = None if read_only else hooks.load()
        return open_wandb(settings, chosen, _keys(settings))[0]
    from pulmo.registry.local import open_registry as open_local

    return open_local(
        settings.registry_url, settings.files_url, read_only=read_only, keys=_keys(settings)
    )


def open_elsewhere(settings: Settings) -> "Elsewhere | None":
    """Where else the registry's aliases are shown and may be moved, None where nothing is asked."""
    from pulmo.config import hooks, wandb

    if settings.registry != "wandb" or wandb.is_offline():
        return None
    from pulmo.registry.wandb_mirror import open_wandb

    return open_wandb(settings, hooks.load(), _keys(settings))[2]


def sign(settings: Settings, ref: ModelRef) -> Version:
    """Sign the stored bundle of a version. Raises ConfigError without a key to sign with."""
    return _open_ledger(settings).sign(ref)


def _keys(settings: Settings) -> "Keys":
    from pulmo.registry.signing import Keys

    return Keys(settings.signing_key, settings.public_key)


def open_upkeep(settings: Settings, *, read_only: bool = False) -> "Upkeep":
    """The keeper of the registry that the settings point at. Raises RegistryError."""
    from pulmo.registry.upkeep import open_upkeep as open_local

    if settings.registry == "wandb":
        from pulmo.registry.wandb_mirror import open_wandb_upkeep

        return open_wandb_upkeep(settings, _keys(settings), read_only=read_only)
    return open_local(
        settings.registry_url, settings.files_url, read_only=read_only, keys=_keys(settings)
    )


def open_bundle(settings: Settings, target: str, *, bare: str = LATEST) -> Bundle:
    """The verified bundle of a reference (`name:alias` …), a bundle folder or a run folder.

    A bare name means its alias `bare`. Raises ModelError also where a public key is set and the
    bundle is not signed by it.
    """
    folder = folder_named(target)
    if folder is not None:
        return _keys(settings).check(open_bundle_folder(folder))
    ref = ModelRef.parse(target, bare=bare)
    return verify(open_registry(settings, read_only=True).fetch(ref))


def open_source(settings: Settings, target: str) -> "Source":
    """What a server serves: an alias is followed, anything else that `open_bundle` knows stays.

    A bare name means what is in production.
    """
    from pulmo.serving.models import Following, Pinned

    folder = folder_named(target)
    if folder is not None:
        return Pinned(open_bundle(settings, target), engine=settings.engine)
    ref = ModelRef.parse(target, bare=PRODUCTION)
    registry = open_registry(settings, read_only=True)
    if ref.alias is not None:
        return Following(registry, ref, settings.engine)
    return Pinned(verify(registry.fetch(ref)), registry.get(ref), settings.engine)


def open_desk(settings: Settings, target: str | None, *, admin: bool) -> "Desk | None":
    """The registry for a server's routes, None beside a folder; with `admin` aliases can be moved.

    What `registry promote` asks is asked here too, so it needs what that verb is installed with.
    """
    import threading

    from pulmo.serving.registry_routes import Desk

    if target is not None and folder_named(target) is not None and not admin:
        return None
    registry = open_registry(settings, read_only=not admin)
    composing = threading.Lock()  # Hydra keeps what it composes in one place

    def promote(version: Version, actor: str, reason: str) -> Move:
        try:
            from pulmo.config.compose import compose_for_model
            from pulmo.jobs import release

            with composing:
                config = compose_for_model(version.name)
        except ModuleNotFoundError as error:
            raise RefusedError(
                "this server is installed without what trains and cannot tell which tests count: "
                f"use `pulmo registry promote {version.label}` where models are tested"
            ) from error
        except ConfigError as error:
            raise RefusedError(str(error)) from error
        return release.promote(registry, version, config, actor=actor, reason=reason)

    return Desk(registry, promote if admin else None)


def open_receipts(settings: Settings) -> Callable[[], "ReceiptLog"]:
    """What gives the place where predictions are logged.

    For a plain file the call itself imports the database library, half of a server's start, so
    that a thread can do so beside the first requests. Any other address is looked at here: raises
    ConfigError for one that is not understood or whose driver is missing.
    """
    if settings.log_url == "stdout":
        import sys

        from pulmo.serving.receipts import Lines

        return lambda: Lines(sys.stdout)

    def database() -> "ReceiptLog":
        from pulmo.store.log import SqlReceipts

        return SqlReceipts(settings.log_url)

    if re.match(r"sqlite:///[^:?]", settings.log_url):
        return database
    opened = database()
    return lambda: opened


def open_tracker(chosen: "TrackingConfig") -> "Tracker | None":
    """What tells a tracking service of trainings, None where the run's folder is enough.

    Raises ConfigError, before anything is trained, where a package or a key is missing.
    """
    from pulmo.config import tracking, wandb

    if chosen.kind == "wandb":
        tracking.check_wandb()
        from pulmo.models.tracking import Tracker
        from pulmo.models.wandb_run import WandbRun

        return Tracker(WandbRun(chosen.project or wandb.project()))
    if chosen.kind == "mlflow":
        tracking.check_mlflow()
        from pulmo.models.mlflow_run import MlflowRun
        from pulmo.models.tracking import Tracker

        experiment = chosen.project or tracking.mlflow_experiment()
        return Tracker(MlflowRun(experiment, tracking.mlflow_uri()))
    return None


def open_queue(settings: Settings) -> "SqlJobs":
    """The jobs that events ask for, beside the registry. Raises RegistryError."""
    from pulmo.registry.queue import SqlJobs
    from pulmo.store.database import open_database

    return SqlJobs(open_database(settings.registry_url))


def open_outbox(settings: Settings) -> "Outbox":
    """Events on their way to their targets. Raises RegistryError."""
    from pulmo.registry.outbox import Outbox
    from pulmo.store.database import open_database

    return Outbox(open_database(settings.registry_url))


def open_sender(settings: Settings, chosen: HookSettings) -> "Sender":
    """What delivers the events of moves. Raises ConfigError."""
    if settings.registry == "wandb":
        from pulmo.registry.wandb_mirror import open_wandb

        return open_wandb(settings, chosen, _keys(settings))[1]
    from pulmo.registry.delivery import Sender
    from pulmo.registry.outbox import Outbox
    from pulmo.registry.queue import SqlJobs
    from pulmo.registry.targets import is_shared, make_targets
    from pulmo.store.database import open_database

    database = open_database(settings.registry_url)
    shared = is_shared(settings.registry_url, settings.files_url)
    targets = make_targets(chosen, SqlJobs(database), shared=shared)
    return Sender(Outbox(database), targets)


def copy_ledger(settings: Settings, folder: Path) -> Settings:
    """Settings of a copy of the registry's ledger in `folder`, over the same files of bundles.

    W&B is told nothing of what happens on the copy.
    """
    from pulmo.store.database import open_database
    from pulmo.store.dump import dump_rows, load_rows

    url = f"sqlite:///{folder.absolute() / 'ledger.db'}"
    source = open_database(settings.registry_url, read_only=True)
    with source.read() as rows, open_database(url).write() as session:
        load_rows(session, (row for row in dump_rows(rows) if not _is_on_its_way(row)))
    return settings.model_copy(update={"registry_url": url, "registry": "local"})


def _is_on_its_way(row: bytes) -> bool:
    """Whether a row of a dump is an event or a job: what is copied must not be done twice."""
    return row.startswith((b'["outbox"', b'["deliveries"', b'["jobs"'))


def open_receiver(settings: Settings, chosen: HookSettings) -> "Receiver | None":
    """What takes webhooks, None where no secret is set."""
    from pulmo.serving.webhooks import Receiver

    if not (chosen.secret or chosen.github_secret or chosen.wandb_secret):
        return None
    return Receiver(open_queue(settings), chosen)


def find_receipt(settings: Settings, receipt_id: str) -> "Receipt":
    """The receipt with this id in the log database. Raises RegistryError."""
    from pulmo.store.log import find_receipt as find

    return find(settings.log_url, receipt_id)


def open_log(settings: Settings) -> "DriftLog":
    """Receipts to look back at. Raises ConfigError where no database keeps them."""
    from pulmo.store.windows import SqlWindows

    if settings.log_url == "stdout":
        raise ConfigError("PULMO_LOG_URL names no database: let servers keep receipts in one")
    return SqlWindows(settings.log_url)


def open_bundle_folder(folder: Path) -> Bundle:
    """The verified bundle that a folder is, or that a run's folder holds. Raises ModelError."""
    if not folder.is_dir():
        raise ModelError(f"{folder} is no folder: give a bundle, a run or name:alias")
    return verify(folder if (folder / SUMS).is_file() else folder / BUNDLE)


def folder_named(target: str) -> Path | None:
    """The folder that `target` names, there or not; None where it can only be a reference."""
    folder = Path(target)
    return folder if folder.is_dir() or folder.name != target else None
