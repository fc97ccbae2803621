"""Adapters built from settings; nothing else knows which adapter stands behind a port."""

from pulmo.config.settings import Settings
from pulmo.core.ports import Registry


def open_registry(settings: Settings, *, read_only: bool = False) -> Registry:
    """The registry that the settings point at. Raises RegistryError."""
    from pulmo.registry import local

    return local.open_registry(settings.registry_url, settings.files_url, read_only=read_only)
