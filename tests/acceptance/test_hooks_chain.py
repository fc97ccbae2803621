"""From `registry stage` to a running server's answer: the chain of a staged model, real processes.

The event goes as a signed webhook to a server, whose job a worker does. No network is needed
(`unshare -n`, with the loopback interface up, runs it without one).
"""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pulmo.config.compose import compose_for_model
from pulmo.core import signatures
from pulmo.core.bundle import verify
from pulmo.core.events import Event
from pulmo.core.ports import Job, Version
from pulmo.jobs.quickstart import _spoilt
from pulmo.registry.local import LocalRegistry, open_registry
from pulmo.registry.queue import SqlJobs
from pulmo.store.database import open_database
from pulmo.store.tables import EventRow

ROOT = Path(__file__).parents[2]
SECRET = "a-secret-that-both-sides-know"
NAME = "phantom-demo"
MINUTE = 60

Pulmo = Callable[..., "subprocess.CompletedProcess[str]"]


def tell(capsys: pytest.CaptureFixture[str], text: str) -> None:
    with capsys.disabled():
        sys.stdout.write(f"\n{text}\n")


def free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def wait_for(what: Callable[[], object], seconds: float = 600) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@dataclass(frozen=True)
class House:
    """A folder with a model in production, a server that follows it, and a worker."""

    folder: Path
    name: str
    port: int
    registry: LocalRegistry
    queue: SqlJobs
    settings: dict[str, str]

    def served(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/model/info") as answer:
            return str(json.load(answer)["model"]["digest"])

    def post(self, body: bytes, headers: dict[str, str]) -> tuple[int, Any]:
        url = f"http://127.0.0.1:{self.port}/webhooks/pulmo"
        request = urllib.request.Request(url, body, headers)
        try:
            with urllib.request.urlopen(request) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def present(self) -> Version:
        return next(v for v in self.registry.versions(self.name) if "production" in v.aliases)

    def ended(self, version: Version) -> Job | None:
        jobs = (j for j in self.queue.jobs() if version.model_digest in j.payload["ref"])
        return next((job for job in jobs if job.ended), None)

    def promotions(self) -> list[int | None]:
        return [m.after for m in self.registry.history(self.name) if m.action == "promote"]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, pulmo: Pulmo) -> Iterator[House]:
    with housed(tmp_path_factory.mktemp("house"), NAME, pulmo, "data=phantom") as made:
        yield made


@contextmanager
def housed(folder: Path, name: str, pulmo: Pulmo, *data: str) -> Iterator[House]:
    """A house whose first model is trained on `data`."""
    port = free_port()
    pulmo(folder, "data", *data)
    pulmo(folder, "train", *data, "run.dir=runs/first")
    pulmo(folder, "registry", "stage", "runs/first")  # in the foreground
    address = {
        "PULMO_HOOKS_SECRET": SECRET,
        "PULMO_HOOKS_TARGETS": f"http://127.0.0.1:{port}/webhooks/pulmo",
        "PULMO_HOOKS_PRIVATE_HOSTS": "127.0.0.1",
    }
    sides = []
    for words in (("serve", "--port", str(port)), ("hooks", "work", "--watch")):
        command = [sys.executable, str(ROOT / "main.py"), *words]
        with (folder / f"{words[0]}.log").open("wb") as log:
            sides.append(
                subprocess.Popen(
                    command,
                    cwd=folder,
                    env={**os.environ, **address},
                    stdout=subprocess.DEVNULL,
                    stderr=log,
                )
            )
    url = f"sqlite:///{folder}/models/registry.db"
    registry = open_registry(url, str(folder / "models/bundles"))
    try:
        wait_for(lambda: b"listening" in (folder / "serve.log").read_bytes())
        yield House(folder, name, port, registry, SqlJobs(open_database(url)), address)
    finally:
        for side in sides:
            side.terminate()
        for side in sides:
            side.wait()


def staged(house: House, pulmo: Pulmo, target: str) -> tuple[Version, float]:
    """Stage a folder and wait until its job is done; the version, and seconds since the command."""
    begun = time.monotonic()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in house.settings.items():
            patch.setenv(name, value)
        told = pulmo(house.folder, "registry", "stage", target, "--json").stdout
    label = json.loads(told)["label"]
    version = next(v for v in house.registry.versions(house.name) if v.label == label)
    wait_for(lambda: house.ended(version))
    return version, begun


def test_a_staged_model_is_tested_promoted_and_served(
    house: House, pulmo: Pulmo, capsys: pytest.CaptureFixture[str]
) -> None:
    tell(capsys, f"staged, tested, promoted and served in {chained(house, pulmo, MINUTE)}")


def test_xrays_go_the_same_way(
    tmp_path: Path, shared_data: Path, pulmo: Pulmo, capsys: pytest.CaptureFixture[str]
) -> None:
    root = f"data.root={shared_data}/chest_xray"
    with housed(tmp_path, "pneumonia", pulmo, "data=chest_xray", root) as house:
        told = chained(house, pulmo, 10 * MINUTE)
        tell(capsys, f"X-rays: staged, tested, promoted and served in {told}")


def chained(house: House, pulmo: Pulmo, most: float) -> str:
    """A second model goes to production by its event within `most` seconds; how long it took."""
    first = house.served()
    assert first == house.present().model_digest
    pulmo(house.folder, "recalibrate", "runs/first", "decision.refer=0.2", "run.dir=runs/second")
    version, begun = staged(house, pulmo, "runs/second")
    assert version.model_digest != first
    wait_for(lambda: house.served() == version.model_digest)
    seconds = time.monotonic() - begun
    (verdict,) = house.registry.verdicts(house.name, version.model_digest)
    assert verdict.passed
    assert verdict.champion_digest == first
    reports = [json.loads(p.read_bytes()) for p in house.folder.glob("runs/staged/*/verdict.json")]
    assert [r["model_digest"] for r in reports].count(version.model_digest) == 1
    assert house.promotions() == [0, 1]
    load = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    assert seconds < most * load
    return f"{seconds:.0f} s (load {load:.1f} a core)"


def test_a_duplicate_has_one_effect_and_a_forgery_none(
    house: House, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_database(f"sqlite:///{house.folder}/models/registry.db").read() as session:
        row = session.query(EventRow).filter_by(kind="set").order_by(EventRow.id.desc()).first()
        assert row is not None
        event = Event(row.event, row.name, row.payload)
    before = len(house.queue.jobs()), house.registry.history(NAME)
    now = int(time.time())

    def signed(secret: str = SECRET, at: int = now, body: bytes = event.body) -> dict[str, str]:
        return signatures.sign(secret, event.id, at, body)

    again = [house.post(event.body, signed()), house.post(event.body, signed())]
    assert [(code, told["status"]) for code, told in again] == [(202, "known")] * 2
    other = event.body.replace(b'"staging"', b'"Staging"')
    refused = {
        "forged": house.post(event.body, signed("another-secret-of-somebody")),
        "altered": house.post(other, signed()),
        "stale": house.post(event.body, signed(at=now - 400)),
        "bare": house.post(event.body, {}),
    }
    tell(capsys, f"duplicates: {again}; refused: { {k: v[0] for k, v in refused.items()} }")
    assert {code for code, _ in refused.values()} == {401}
    assert (len(house.queue.jobs()), house.registry.history(NAME)) == before
    assert house.promotions() == [0, 1]


def test_a_failing_model_leaves_production_as_it_is(
    house: House, pulmo: Pulmo, capsys: pytest.CaptureFixture[str]
) -> None:
    before = house.present()
    bundle = verify(house.folder / "runs/first/bundle")
    _spoilt(bundle, compose_for_model(NAME), house.folder / "runs/spoilt")
    version, _ = staged(house, pulmo, "runs/spoilt")
    job = house.ended(version)
    assert job is not None
    tell(capsys, f"the spoilt model: {job.state}, {job.detail}")
    assert job.state == "refused"
    assert house.present().number == before.number
    assert house.served() == before.model_digest
    assert house.promotions() == [0, 1]


def test_a_rehearsal_moves_nothing(
    house: House, pulmo: Pulmo, capsys: pytest.CaptureFixture[str]
) -> None:
    before = house.registry.history(NAME), len(house.queue.jobs())
    told = pulmo(house.folder, "hooks", "rehearse", "--model", f"{NAME}:v1", "--json").stdout
    steps = json.loads(told)
    titles = [step["title"] for step in steps]
    assert titles[:3] == [
        "staged, on a copy of the ledger",
        "W&B sends",
        "sent again: known; with one letter changed: refused",
    ]
    verdict = next(step["told"]["verdict"] for step in steps if step["title"] == "verdict")
    assert verdict["passed"]
    assert (house.registry.history(NAME), len(house.queue.jobs())) == before
    tell(capsys, f"rehearsed in {len(steps)} steps: {', '.join(titles)}")
