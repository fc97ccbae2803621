from collections.abc import Callable

import pytest

Cli = Callable[..., tuple[int, str, str]]


def test_the_model_may_be_named_by_the_environment(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PULMO_MODEL", "./nowhere")
    code, _, err = cli("serve")
    assert (code, "nowhere is no folder" in err) == (1, True)
    monkeypatch.setenv("PULMO_MODEL", "")
    code, _, err = cli("serve")
    assert (code, "there is no registry" in err) == (1, True)


def test_a_server_that_waits_still_refuses_strangers(cli: Cli) -> None:
    code, _, err = cli("serve", "--wait", "--host", "0.0.0.0")
    assert (code, "PULMO_ALLOW_ANONYMOUS" in err) == (2, True)
