"""Ten thousand requests drawn from the OpenAPI document, valid and not, with every check."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pulmo.config.compose import compose_for_model
from pulmo.config.settings import Settings
from pulmo.core import keys
from pulmo.core.bundle import Bundle
from pulmo.core.ports import Check, ModelRef, Verdict
from pulmo.jobs.release import suite_digest
from pulmo.serving.app import create_app
from pulmo.serving.limits import Limits
from pulmo.serving.models import Following, Present
from pulmo.serving.registry_routes import Desk
from pulmo.serving.server import listen, make_server
from pulmo.wiring import open_desk, open_registry

NAME = "phantom-demo"
PICTURES = "/(predict|infer)$"
EXAMPLES = int(os.environ.get("PULMO_SCHEMATHESIS_EXAMPLES", "450"))  # an operation and phase
LEAST = 10_000 if EXAMPLES >= 450 else 0
HERE = Path(__file__).parent


@contextmanager
def running(settings: Settings, desk: Desk) -> Iterator[str]:
    """A server of the registry's model, with `serve --admin` and without a rate limit."""
    present = Present(Following(desk.registry, ModelRef(NAME, alias="live")))
    limits = Limits(waiting=256)
    server = make_server(create_app(settings, present, limits, desk=desk), limits)
    taken = listen("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, args=([taken],))
    thread.start()
    try:
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        registry_url=f"sqlite:///{tmp_path / 'registry.db'}",
        files_url=str(tmp_path / "files"),
        keys_dir=tmp_path / "keys",
        rate_limit="off",
    )


@pytest.fixture
def desk(settings: Settings, make_bundle: Callable[..., Bundle], tmp_path: Path) -> Desk:
    """Two versions, v0 of them `live`; each has passed the tests beside nothing and the other."""
    registry = open_registry(settings)
    suite = suite_digest(compose_for_model(NAME))
    for number in range(2):
        made = make_bundle(tmp_path / str(number), name=NAME, weights=bytes([number]))
        registry.register(made.path, actor="me")
    digests = [one.model_digest for one in registry.versions(NAME)]
    for mine, other in (digests, digests[::-1]):
        for champion in (None, other):
            checks = [Check("test_it", True, "fine")]
            registry.record_verdict(
                Verdict(NAME, mine, suite, champion, True, checks, data_digest="0" * 64)
            )
    registry.set_alias(NAME, "live", 0, expected=None, actor="me", reason="start")
    opened = open_desk(settings, f"{NAME}:live", admin=True)
    assert opened is not None
    return opened


def drawn(url: str, key: str, report: Path, *chosen: str) -> "subprocess.Popen[str]":
    """Schemathesis at work: one thread a process, as two of them break Python 3.11's parser."""
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json"),
            *("--header", f"Authorization: Bearer {key}", "--checks", "all", *chosen),
            *("--workers", "1", "--seed", "1", "--continue-on-failure", "--no-color"),
            *("--suppress-health-check", "all"),
            *("--report", "json", "--report-json-path", str(report)),
        ],
        cwd=report.parent,
        env={**os.environ, "SCHEMATHESIS_HOOKS": "api_strategies", "PYTHONPATH": str(HERE)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_every_request_that_can_be_drawn_is_answered_as_the_document_says(
    settings: Settings, desk: Desk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key, _ = keys.create(settings.keys_dir, "st", "admin", any_version=False, actor="me")
    most = ("--max-examples", str(EXAMPLES))
    parts = {
        "pictures": ("--include-path-regex", PICTURES, *most),
        "others": ("--exclude-path-regex", PICTURES, *most),
    }
    with running(settings, desk) as url:
        begun = {
            part: drawn(url, key, tmp_path / f"{part}.json", *chosen)
            for part, chosen in parts.items()
        }
        said = {part: process.communicate()[0] for part, process in begun.items()}
    total = 0
    for part, process in begun.items():
        assert process.returncode == 0, said[part][-30_000:]
        told = json.loads((tmp_path / f"{part}.json").read_text())
        cases = told["test_cases"]
        checked = cases["generated"] - cases["without_checks"]
        phases = {name: phase["status"] for name, phase in told["phases"].items()}
        with capsys.disabled():
            sys.stdout.write(
                f"\n{part}: {told['operations']['tested']} operations, {checked} cases, {phases}\n"
            )
        assert (cases["with_failures"], cases["errored"], told["errors"]) == (0, 0, [])
        total += checked
    assert total >= LEAST
