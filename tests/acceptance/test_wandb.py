"""The whole chain with W&B as the registry: the unmodified SDK and its core process on loopback.

A training run is logged, its bundle becomes an artifact with aliases, another machine fetches
`best`; then somebody who never used Pulmo logs a model and clicks `staging`, W&B's webhook arrives,
exactly that model is tested and promoted, and W&B shows it in production.
"""

import filecmp
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("wandb", reason="the group `wandb` is not installed")

from wandb_server import ENTITY, Automation, Collection, Wandb, wandb_server

from pulmo.config.compose import compose_for_model
from pulmo.config.settings import Settings
from pulmo.core.bundle import Bundle, verify
from pulmo.core.events import WANDB_PAYLOAD
from pulmo.core.ports import Job, ModelRef
from pulmo.jobs.quickstart import _spoilt
from pulmo.registry.local import LocalRegistry, open_registry
from pulmo.registry.queue import SqlJobs
from pulmo.store.database import open_database
from pulmo.wiring import open_registry as open_any

ROOT = Path(__file__).parents[2]
NAME, PROJECT = "phantom-demo", "lungs"
SECRET, TOKEN = "a-secret-of-the-team-in-wandb", "a-token-that-wandb-sends"

SETTINGS = {
    "PULMO_REGISTRY": "wandb",
    "PULMO_HOOKS_WANDB_SECRET": SECRET,
    "PULMO_HOOKS_WANDB_TOKEN": TOKEN,
}

Pulmo = Callable[..., "subprocess.CompletedProcess[str]"]
Tell = Callable[[str], None]

# What somebody does who has a folder and W&B, and no Pulmo.
LOGS = """
import pathlib, sys, wandb
folder, name = pathlib.Path(sys.argv[1]), sys.argv[2]
with wandb.init(job_type="by-hand", settings=wandb.Settings(silent=True)) as run:
    artifact = wandb.Artifact(name, "model")
    for path in folder.iterdir():
        artifact.add_file(str(path), path.name)
    run.log_artifact(artifact).wait()
    print(artifact.version, artifact.digest)
"""


@dataclass(frozen=True)
class House:
    """A folder with a registry, a server that follows production, a worker, and W&B."""

    folder: Path
    port: int
    wandb: Wandb
    registry: LocalRegistry
    queue: SqlJobs

    @property
    def collection(self) -> Collection:
        return self.wandb.collections[PROJECT, NAME]

    def shown(self) -> dict[str, int | None]:
        """Where W&B's aliases are, by W&B's numbers."""
        numbers = {version.id: version.number for version in self.collection.committed}
        return {alias: numbers[at] for alias, at in self.collection.aliases.items()}

    def served(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/model/info") as answer:
            return str(json.load(answer)["model"]["digest"])

    def production(self) -> str:
        return self.registry.get(ModelRef(NAME, alias="production")).model_digest

    def logged(self, folder: Path) -> int:
        """Log a folder's files with W&B's SDK alone; the number that W&B gives it."""
        command = [sys.executable, "-c", LOGS, str(folder), NAME]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return int(done.stdout.split()[0].removeprefix("v"))

    def clicked(self, number: int) -> Job:
        """Click `staging` in W&B; the job of its webhook, once it has ended."""
        known = {job.key for job in self.queue.jobs()}
        self.wandb.sent.clear()
        self.wandb.click(NAME, "staging", number)
        ((status, said),) = self.wandb.sent
        assert (status, json.loads(said)["status"]) == (202, "queued")
        key = json.loads(said)["job"]
        assert key not in known
        wait_for(lambda: self.queue.get(key).ended)
        return self.queue.get(key)


def wait_for(what: Callable[[], object], seconds: float = 600) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, pulmo: Pulmo) -> Iterator[House]:
    folder, port = tmp_path_factory.mktemp("house"), free_port()
    sides: list[subprocess.Popen[bytes]] = []
    with wandb_server() as wandb, pytest.MonkeyPatch.context() as patch:
        wandb.folder, wandb.project = tmp_path_factory.mktemp("wandb"), PROJECT
        places = {**wandb.environment(), "WANDB_PROJECT": PROJECT}
        for name, value in {**SETTINGS, **places}.items():
            patch.setenv(name, value)
        pulmo(folder, "data", "data=phantom")
        pulmo(folder, "train", "data=phantom", "run.dir=runs/first", "tracking=wandb")
        pulmo(folder, "registry", "stage", "runs/first")
        for words in (("serve", "--port", str(port)), ("hooks", "work", "--watch")):
            with (folder / f"{words[0]}.log").open("wb") as log:
                command = [sys.executable, str(ROOT / "main.py"), *words]
                sides.append(
                    subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=log)
                )
        url = f"sqlite:///{folder}/models/registry.db"
        registry, database = open_registry(url, str(folder / "models/bundles")), open_database(url)
        try:
            wait_for(lambda: b"listening" in (folder / "serve.log").read_bytes())
            hook = f"http://127.0.0.1:{port}/webhooks/wandb"
            wandb.automations.append(Automation("staging", hook, WANDB_PAYLOAD, SECRET, TOKEN))
            yield House(folder, port, wandb, registry, SqlJobs(database))
        finally:
            for side in sides:
                side.terminate()
            for side in sides:
                side.wait()
            registry.close()
            database.close()


@pytest.fixture(autouse=True)
def _settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test begins without settings; here all commands are those of one house."""
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def second(house: House, pulmo: Pulmo) -> Bundle:
    """The same network with another refer band: another model, and as good."""
    pulmo(house.folder, "recalibrate", "runs/first", "decision.refer=0.2", "run.dir=runs/second")
    return verify(house.folder / "runs/second/bundle")


def test_a_training_run_is_logged(house: House, tell: Tell) -> None:
    (run,) = [run for run in house.wandb.runs.values() if run.job_type == "train"]
    assert run.project == PROJECT
    assert run.finished
    assert run.exit_code == 0
    assert run.config
    assert run.history
    tell(
        f"run {run.display}: {len(run.history)} rows, {len(run.config)} settings, "
        f"{len(run.files)} files ({', '.join(sorted(run.files))})"
    )


def test_its_bundle_is_an_artifact_with_aliases(house: House, tell: Tell) -> None:
    bundle = verify(house.folder / "runs/first/bundle")
    (version,) = house.collection.committed
    about = json.loads(version.metadata or "{}")
    assert house.collection.kind == "model"
    assert (about["model_digest"], about["bundle_digest"]) == (
        bundle.info.model_digest,
        bundle.digest,
    )
    measured = about["metrics"]["val"]["auroc"]
    assert measured["low"] <= measured["value"] <= measured["high"]
    assert house.shown() == {"latest": 0, "best": 0, "staging": 0, "production": 0}
    assert house.served() == bundle.info.model_digest
    tell(f"W&B's digest {version.digest}, ours {bundle.digest}; AUROC {measured}")


def test_another_machine_resolves_best_and_gets_the_same_bytes(
    house: House, tmp_path: Path, tell: Tell
) -> None:
    other = Settings(
        registry="wandb",
        registry_url=f"sqlite:///{house.folder}/models/registry.db",
        files_url=str(tmp_path / "copies"),
    )
    registry = open_any(other, read_only=True)
    folder = registry.fetch(ModelRef.parse(f"{NAME}:best"))
    here = house.folder / "runs/first/bundle"
    names = sorted(path.name for path in here.iterdir())
    same, other_bytes, missing = filecmp.cmpfiles(here, folder, names, shallow=False)
    assert (sorted(same), other_bytes, missing) == (names, [], [])
    assert verify(folder).digest == registry.get(ModelRef.parse(f"{NAME}:best")).bundle_digest
    size = sum((folder / name).stat().st_size for name in names)
    tell(f"{NAME}:best fetched elsewhere: {len(names)} files, {size:,} bytes, equal and verified")


def test_a_click_in_wandb_is_tested_and_promoted(house: House, second: Bundle, tell: Tell) -> None:
    first = house.served()
    number = house.logged(second.path)
    begun = time.monotonic()
    job = house.clicked(number)
    assert job.state == "done", job.detail
    wait_for(lambda: house.served() == second.info.model_digest)
    seconds = time.monotonic() - begun
    (verdict,) = house.registry.verdicts(NAME, second.info.model_digest)
    assert verdict.passed
    assert verdict.champion_digest == first
    wait_for(lambda: house.shown()["production"] == number)
    assert house.shown()["staging"] == number
    told = [m.reason for m in house.registry.history(NAME) if m.alias == "staging"][-1]
    assert told == f"staged in W&B: {ENTITY}/{PROJECT}/{NAME}:v{number}"
    tell(f"clicked, fetched, tested, promoted, served and shown in {seconds:.0f} s")


def test_a_skipped_webhook_is_found_by_polling_and_a_failing_model_refused(
    house: House, second: Bundle, pulmo: Pulmo, tell: Tell
) -> None:
    bundle = verify(house.folder / "runs/first/bundle")
    spoilt = _spoilt(bundle, compose_for_model(NAME), house.folder / "runs/spoilt")
    number = house.logged(spoilt)
    automations = house.wandb.automations[:]
    house.wandb.automations.clear()
    try:
        house.wandb.click(NAME, "staging", number)
        found = json.loads(pulmo(house.folder, "hooks", "reconcile", "--json").stdout)
    finally:
        house.wandb.automations.extend(automations)
    (key,) = [one["job"] for one in found if one["job"]]
    wait_for(lambda: house.queue.get(key).ended)
    job = house.queue.get(key)
    tell(f"the spoilt model, found by polling: {job.state}, {job.detail}")
    assert job.state == "refused"
    assert job.payload["artifact"] == f"{ENTITY}/{PROJECT}/{NAME}:v{number}"
    assert house.production() == house.served() == second.info.model_digest
    assert house.shown()["production"] == number - 1


def test_production_clicked_in_wandb_is_told_and_never_followed(
    house: House, second: Bundle, pulmo: Pulmo, tell: Tell
) -> None:
    house.wandb.click(NAME, "production", 0)
    found = json.loads(pulmo(house.folder, "hooks", "reconcile", "--json").stdout)
    (told,) = [one["told"] for one in found if one["alias"] == "production"]
    assert told == f"moved in W&B to {ENTITY}/{PROJECT}/{NAME}:v0, the ledger says {NAME}:v1"
    assert house.production() == house.served() == second.info.model_digest
    tell(f"reconcile: {told}")


def test_a_rehearsal_and_a_rollback(house: House, pulmo: Pulmo, tell: Tell) -> None:
    before, shown = house.registry.history(NAME), house.shown()
    told = pulmo(house.folder, "hooks", "rehearse", "--model", f"{NAME}:v1", "--json").stdout
    steps = {step["title"]: step["told"] for step in json.loads(told)}
    assert steps["verdict"]["verdict"]
    assert (house.registry.history(NAME), house.shown()) == (before, shown)
    present = house.production()
    pulmo(house.folder, "registry", "rollback", NAME)
    assert house.production() != present
    at = house.shown()["production"]
    about: Any = json.loads(house.collection.committed[at or 0].metadata or "{}")
    assert about["model_digest"] == house.production()
    assert house.registry.history(NAME)[-1].action == "rollback"
    tell(f"rehearsed in {len(steps)} steps; rolled back, W&B shows v{at} in production")


def test_without_a_key_there_is_one_sentence(house: House, pulmo: Pulmo, tell: Tell) -> None:
    bare = {k: v for k, v in os.environ.items() if k != "WANDB_API_KEY"}
    command = [sys.executable, str(ROOT / "main.py"), "registry", "stage", "runs/second"]
    done = subprocess.run(
        command,
        cwd=house.folder,
        env={**bare, "PULMO_FILES_URL": str(house.folder / "elsewhere")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    tell(done.stderr.strip())
    assert done.returncode == 2
    assert "W&B needs a key" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_sdk_asked_only_what_it_may(house: House, tell: Tell) -> None:
    assert house.wandb.refused == []
    tell(f"{len(house.wandb.asked)} operations of {len(set(house.wandb.asked))} kinds, 0 refused")
