"""The keys that a server knows: read again every second, so that a revocation bites at once."""

from pathlib import Path

from pulmo.config.settings import Settings
from pulmo.core.keys import Key, by_id, listed, load, opened

REFRESH_SECONDS = 1.0


class Keyring:
    """The keys of a folder and those that the settings list.

    Once there was a key, a key is asked for: also when the last one has been revoked, or its file
    has vanished. What was revoked stays so, also when the folder is away.
    """

    def __init__(self, settings: Settings) -> None:
        """Read every key. Raises ConfigError."""
        self._folder: Path = settings.keys_dir
        self._listed = listed(settings.api_keys)
        self._revoked: list[Key] = []
        self.asked_for = False
        self.refresh()

    def refresh(self) -> None:
        """Read the folder again; where that raises ConfigError, the keys stay as they were."""
        self._keys = by_id([*self._listed, *load(self._folder), *self._revoked])
        self._revoked = [key for key in self._keys.values() if key.revoked_at is not None]
        self.asked_for = self.asked_for or bool(self._keys)

    def opened(self, text: str) -> Key | None:
        """The key that `text` is, None where there is no such key."""
        return opened(self._keys, text)
