"""Adapters built from settings; nothing else knows which adapter stands behind a port."""

from pathlib import Path

from pulmo.config.settings import Settings
from pulmo.core.bundle import SUMS, Bundle, verify
from pulmo.core.ports import ModelRef, Registry
from pulmo.errors import ModelError

BUNDLE = "bundle"  # where a run's folder keeps its bundle


def open_registry(settings: Settings, *, read_only: bool = False) -> Registry:
    """The registry that the settings point at. Raises RegistryError."""
    from pulmo.registry.local import open_registry as open_local

    return open_local(settings.registry_url, settings.files_url, read_only=read_only)


def open_bundle(settings: Settings, target: str) -> Bundle:
    """The verified bundle of a reference (`name:alias` …), a bundle folder or a run folder."""
    folder = folder_named(target)
    if folder is not None:
        return open_bundle_folder(folder)
    return verify(open_registry(settings, read_only=True).fetch(ModelRef.parse(target)))


def open_bundle_folder(folder: Path) -> Bundle:
    """The verified bundle that a folder is, or that a run's folder holds. Raises ModelError."""
    if not folder.is_dir():
        raise ModelError(f"{folder} is no folder: give a bundle, a run or name:alias")
    return verify(folder if (folder / SUMS).is_file() else folder / BUNDLE)


def folder_named(target: str) -> Path | None:
    """The folder that `target` names, there or not; None where it can only be a reference."""
    folder = Path(target)
    return folder if folder.is_dir() or folder.name != target else None
