import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pulmo.verbs import serving

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


@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        ("150000 100000\n", 2),
        ("200000 100000\n", 2),
        ("10000 100000\n", 1),
        ("900000 100000\n", 4),
        ("max 100000\n", 4),
        ("0 100000\n", 1),
        ("1 0\n", 4),
        ("?", 4),
        (None, 4),
    ],
)
def test_a_container_has_the_cores_of_its_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str | None, cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)), raising=False)
    path = tmp_path / "cpu.max"
    if quota is not None:
        path.write_text(quota, encoding="ascii")
    assert serving._cores(path) == cores
