import json
import re
from collections.abc import Callable

import pytest

from pulmo.config.settings import load
from pulmo.core import keys

Cli = Callable[..., tuple[int, str, str]]


def create(cli: Cli, *arguments: str) -> str:
    code, out, err = cli("keys", "create", "--role", "predict", "--name", "ci", *arguments)
    assert (code, err.count("\n")) == (0, 1)
    assert re.fullmatch(r"pulmo_[0-9a-f]{8}_[\w-]{43}\n", out)
    return out.strip()


def test_a_key_is_shown_once_and_listed_without_itself(cli: Cli) -> None:
    text = create(cli)
    _, out, _ = cli("keys", "list")
    assert text[6:14] in out
    assert "predict" in out
    (told,) = json.loads(cli("keys", "list", "--json")[1])
    assert (told["name"], told["role"], told["revoked_at"]) == ("ci", "predict", None)
    assert text[15:] not in str(told)
    assert "digest" not in told


def test_a_revoked_key_says_when_and_by_whom(cli: Cli) -> None:
    number = create(cli)[6:14]
    assert cli("keys", "revoke", number)[1] == f"revoked {number} (ci)\n"
    told = json.loads(cli("keys", "revoke", number, "--json")[1])
    assert told["revoked_at"]
    assert "@" in told["revoked_by"]
    code, _, err = cli("keys", "revoke", "00000000")
    assert (code, err.count("\n")) == (1, 1)


def test_a_line_gives_the_key_to_servers_without_a_folder(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("--role", "admin", "--name", "ops", "--any-version", "--json")
    told = json.loads(cli("keys", "create", *arguments)[1])
    monkeypatch.setenv("PULMO_API_KEYS", told["line"])
    found = keys.opened(keys.by_id(keys.listed(load().api_keys)), told["key"])
    assert found is not None
    assert (found.role, found.any_version) == ("admin", True)


def test_a_role_that_is_not_there_is_wrong_usage(cli: Cli) -> None:
    assert cli("keys", "create", "--role", "root", "--name", "x")[0] == 2
