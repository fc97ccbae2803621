import shutil
from pathlib import Path

import pytest

from pulmo.config.settings import Settings
from pulmo.core import keys
from pulmo.errors import ConfigError
from pulmo.serving.keyring import Keyring


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "keys"


def test_a_revoked_key_stays_revoked_while_its_folder_is_away(folder: Path) -> None:
    text, key = keys.create(folder, "ci", "predict", any_version=False, actor="me")
    keyring = Keyring(Settings(keys_dir=folder, api_keys=key.line()))
    assert keyring.opened(text) is not None
    keys.revoke(folder, key.id, actor="me")
    keyring.refresh()
    assert keyring.opened(text) is None
    shutil.rmtree(folder)
    for _ in range(2):
        keyring.refresh()
        assert keyring.opened(text) is None
    folder.write_text("something else")
    with pytest.raises(ConfigError):
        keyring.refresh()
    assert keyring.opened(text) is None


def test_a_folder_that_cannot_be_read_does_not_open_a_server(folder: Path) -> None:
    assert not Keyring(Settings(keys_dir=folder)).asked_for
    folder.write_text("something else")
    with pytest.raises(ConfigError, match="cannot be read"):
        Keyring(Settings(keys_dir=folder))
