import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from pulmo.core.bundle import Bundle

Cli = Callable[..., tuple[int, str, str]]

pytest.importorskip("cryptography", reason="the group `signing` is not installed")


@pytest.fixture
def keys(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    code, out, _ = cli("registry", "keygen", "--out", "keys", "--json")
    assert code == 0
    return dict(json.loads(out))


@pytest.fixture
def registered(cli: Cli, toy_bundle: Bundle, tmp_path: Path) -> None:
    from pulmo.config.settings import load
    from pulmo.wiring import open_registry

    open_registry(load()).register(toy_bundle.path, actor="ada")


def test_a_model_is_used_once_it_is_signed(
    cli: Cli,
    keys: dict[str, str],
    registered: None,
    grey_png: Callable[[int], bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "grey.png").write_bytes(grey_png(240))
    ask = ("predict", "grey.png", "--model", "toy:v0", "--json")
    assert cli(*ask)[0] == 0
    monkeypatch.setenv("PULMO_PUBLIC_KEY", keys["PULMO_PUBLIC_KEY"])
    code, out, error = cli(*ask)
    assert (code, out) == (1, "")
    assert "is not signed, and PULMO_PUBLIC_KEY asks for signed bundles" in error
    code, _, error = cli("registry", "sign", "toy:v0")
    assert (code, "let PULMO_SIGNING_KEY name its file" in error) == (2, True)
    monkeypatch.setenv("PULMO_SIGNING_KEY", keys["PULMO_SIGNING_KEY"])
    assert cli("registry", "sign", "toy:v0")[:2] == (0, "signed toy:v0\n")
    code, out, _ = cli(*ask)
    assert (code, json.loads(out)["label"]) == (0, "BRIGHT")


@pytest.mark.parametrize("verb", ["predict", "serve"])
def test_a_folder_is_held_to_the_key_as_well(
    cli: Cli,
    keys: dict[str, str],
    toy_bundle: Bundle,
    grey_png: Callable[[int], bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    verb: str,
) -> None:
    (tmp_path / "grey.png").write_bytes(grey_png(240))
    monkeypatch.setenv("PULMO_PUBLIC_KEY", keys["PULMO_PUBLIC_KEY"])
    paths = ("grey.png",) if verb == "predict" else ()
    code, _, error = cli(verb, *paths, "--model", toy_bundle.path)
    assert code == 1
    assert "is not signed" in error


def test_keys_are_shown_by_place_and_never_by_content(cli: Cli, tmp_path: Path) -> None:
    code, out, _ = cli("registry", "keygen")
    assert code == 0
    assert re.findall(r"^PULMO_\w+=\S+", out, re.MULTILINE) == [
        "PULMO_SIGNING_KEY=signing.key",
        "PULMO_PUBLIC_KEY=signing.pub",
    ]
    assert "BEGIN" not in out
    assert cli("registry", "keygen")[0] == 1
