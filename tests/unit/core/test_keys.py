import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pulmo.core import keys
from pulmo.errors import ConfigError, NotFoundError


def make(folder: Path, name: str = "ci", **options: bool) -> tuple[str, keys.Key]:
    wide = options.get("any_version", False)
    return keys.create(folder, name, "predict", any_version=wide, actor="me")


def test_a_key_opens_until_it_is_revoked(tmp_path: Path) -> None:
    text, key = make(tmp_path)
    other, _ = make(tmp_path)
    assert keys.opened(keys.by_id(keys.load(tmp_path)), text) == key
    revoked = keys.revoke(tmp_path, key.id, actor="you")
    known = keys.by_id(keys.load(tmp_path))
    assert keys.opened(known, text) is None
    assert keys.opened(known, other) is not None
    assert (revoked.revoked_by, known[key.id]) == ("you", revoked)
    assert keys.revoke(tmp_path, key.id, actor="again") == revoked


def test_a_key_is_kept_without_itself_and_for_its_owner_alone(tmp_path: Path) -> None:
    text, key = make(tmp_path)
    path = tmp_path / f"{key.id}.json"
    assert text.rpartition("_")[2] not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_a_key_that_is_not_there_cannot_be_revoked(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="pulmo keys list"):
        keys.revoke(tmp_path, "00000000", actor="me")


def test_a_secret_opens_its_own_key_alone(tmp_path: Path) -> None:
    (one, first), (two, _) = make(tmp_path), make(tmp_path)
    known = keys.by_id(keys.load(tmp_path))
    swapped = f"pulmo_{first.id}_{two[15:]}"
    assert keys.opened(known, swapped) is None
    assert keys.opened(known, one + "x") is None


@given(st.text())
def test_no_other_text_opens_anything(text: str) -> None:
    key = keys.Key(id="0a0b0c0d", name="x", role="admin", digest="1" * 64)
    assert keys.opened({key.id: key}, text) is None
    assert keys.opened({key.id: key}, f"pulmo_{key.id}_{text}") is None


@pytest.mark.parametrize("name", ["", " x", "a\nb", "x" * 65, "<b>"])
def test_an_odd_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot name a key"):
        make(tmp_path, name)


def test_a_damaged_key_is_told(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(ConfigError, match=r"x\.json is no key"):
        keys.load(tmp_path)


def test_a_folder_that_cannot_be_read_is_told_and_none_is_empty(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    assert keys.load(tmp_path / "none") == []
    for folder in (tmp_path / "file", tmp_path / "file" / "keys", tmp_path / "loop"):
        with pytest.raises(ConfigError, match="cannot be read"):
            keys.load(folder)


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot keep a key"):
        make(tmp_path / "file" / "keys")


def test_keys_can_be_listed_in_the_environment(tmp_path: Path) -> None:
    text, key = make(tmp_path, any_version=True)
    other, plain = make(tmp_path)
    known = keys.by_id(keys.listed(f" {key.line()},{plain.line()}\n"))
    found = keys.opened(known, text)
    assert found is not None
    assert (found.role, found.any_version) == ("predict", True)
    assert keys.opened(known, other) is not None
    assert keys.listed("") == []


@pytest.mark.parametrize("words", ["x", "0a0b0c0d:root:" + "1" * 64, "0a0b0c0d:admin:" + "1" * 63])
def test_what_lists_no_keys_is_told(words: str) -> None:
    with pytest.raises(ConfigError, match="PULMO_API_KEYS"):
        keys.listed(words)


def test_a_revoked_key_stays_revoked_wherever_else_it_is_listed(tmp_path: Path) -> None:
    text, key = make(tmp_path)
    revoked = keys.revoke(tmp_path, key.id, actor="me")
    for order in ([key, revoked], [revoked, key]):
        assert keys.opened(keys.by_id(order), text) is None
