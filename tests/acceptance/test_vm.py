"""The training VM from nothing to a registered model, cut off twice on its way.

Scripts, git remote, DVC remote, environment and training are real; Google Cloud is a program that
runs the other side in a folder of its own.
"""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from google_cloud import GoogleCloud

from pulmo.config.settings import Settings
from pulmo.core.bundle import verify
from pulmo.core.ports import ModelRef
from pulmo.wiring import open_registry

ROOT = Path(__file__).parents[2]
NAME = "phantom-demo"
PICTURES = ("data.phantom.images=200", "data.phantom.size=32", "data.phantom.noise=0.05")
TINY = (
    "data=phantom",
    "data.source=folder",
    "data.root=data/raw",
    "debug=fast",
    "evaluate.resamples=100",
    "model.options.width=4",
    "trainer.max_epochs=60",
    "trainer.batch_size=16",
    "trainer.threads=1",
    "trainer.checkpoint_every=4",
)
SETTINGS = {
    "PULMO_GCP_PROJECT": "some-project",
    "PULMO_VM_ZONE": "europe-west1-b",
    "PULMO_VM_NAME": "trainer",
    "PULMO_VM_SERVICE_ACCOUNT": "pulmo-vm@some-project.iam.gserviceaccount.com",
    "PULMO_VM_MACHINE": "n2-standard-8",
    "PULMO_VM_GROUPS": "data",
    "PULMO_VM_SECRETS": "PULMO_REGISTRY_URL=registry-url:latest",
}
PATIENCE_S = 300
PROMOTED, REFUSED = 0, 3  # what the staged tests say of so small a model is not the question
REACHING = ("UV_", "SSL_", "HTTP_", "HTTPS_", "ALL_PROXY", "NO_PROXY")  # how uv finds packages
FOREIGN = ("VIRTUAL_ENV", "COVERAGE_", "PYTHONPATH")


class Site:
    """A developer's checkout with Windows line ends, its remotes, a team's registry, and the VM."""

    def __init__(self, folder: Path, pulmo: Callable[..., object]) -> None:
        uv = shutil.which("uv")
        assert uv
        cache = subprocess.run([uv, "cache", "dir"], capture_output=True, text=True, check=True)
        own = {k: v for k, v in os.environ.items() if k.upper().startswith(REACHING)}
        remote = {
            **own,
            "UV_CACHE_DIR": cache.stdout.strip(),
            "UV_PYTHON": sys.executable,
            "PYENV_ROOT": os.environ.get("PYENV_ROOT", str(Path("~/.pyenv").expanduser())),
            "OMP_NUM_THREADS": "1",
        }
        self.cloud = GoogleCloud(folder / "cloud", **remote)
        self.here, self.remote, self.team = folder / "here", folder / "remote.git", folder / "team"
        subprocess.run(["git", "clone", "-q", "--bare", str(ROOT), str(self.remote)], check=True)
        crlf = ["git", "clone", "-q", "-c", "core.autocrlf=true"]
        subprocess.run([*crlf, str(self.remote), str(self.here)], check=True)
        self.git("checkout", "-q", "-B", "main")
        self.registry = f"sqlite:///{self.team}/registry.db"
        self.team.mkdir()
        self.cloud.secret("registry-url", self.registry)
        self._picture(folder, pulmo)

    def _picture(self, folder: Path, pulmo: Callable[..., object]) -> None:
        pulmo(folder, "data", "data=phantom", *PICTURES)
        (drawn,) = (folder / "data/phantom/raw").iterdir()
        drawn.rename(self.here / "data/raw")
        self.dvc("remote", "modify", "local", "url", str(folder / "dvc-remote"))

    def git(self, *words: str) -> str:
        own = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
        done = subprocess.run(
            ["git", *own, *words], cwd=self.here, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def dvc(self, *words: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "dvc", *words],
            cwd=self.here,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def push(self, text: str) -> str:
        """Commit the pictures as they are, push them and their commit."""
        self.dvc("add", "--quiet", "data/raw")
        self.dvc("push", "--quiet", "data/raw.dvc")
        self.git("commit", "-qam", text)
        self.git("push", "-q", "origin", "main")
        return self.git("rev-parse", "HEAD")

    def run(self, script: str, *words: str, expect: int = 0) -> str:
        done = subprocess.run(
            ["bash", f"scripts/{script}.sh", *words],
            cwd=self.here,
            env=self.cloud.environment(**SETTINGS, PULMO_FILES_URL=str(self.team / "bundles")),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == expect, done.stdout + done.stderr
        return done.stdout + done.stderr

    @property
    def clone(self) -> Path:
        return self.cloud.home / "pulmo"

    @property
    def log(self) -> str:
        path = self.cloud.home / ".local/state/pulmo/train.log"
        return path.read_text("utf-8") if path.exists() else ""

    def steps(self) -> list[int]:
        """The steps at which checkpoints of the training lie on the VM's disk."""
        found = self.clone.glob("runs/vm-*/checkpoints/*.ckpt")
        return sorted(int(path.stem) for path in found)

    def files(self) -> dict[str, int]:
        """When each file of the VM was changed, but for what git and DVC note for themselves."""
        own = (".git", ".dvc", "__pycache__", ".cache", "uv")
        paths = (p for p in self.cloud.home.rglob("*") if not set(p.parts) & set(own))
        return {str(p): 0 if p.is_dir() else p.lstat().st_mtime_ns for p in paths}


def wait(until: Callable[[], bool], site: Site) -> None:
    end = time.monotonic() + PATIENCE_S
    while not until():
        assert time.monotonic() < end, site.log
        threading.Event().wait(0.02)


@pytest.fixture
def site(
    tmp_path: Path, pulmo: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Site]:
    pytest.importorskip("dvc", reason="DVC is not installed: uv sync --group data")
    for name in [name for name in os.environ if name.startswith(FOREIGN)]:
        monkeypatch.delenv(name)
    made = Site(tmp_path, pulmo)
    yield made
    made.cloud.pre_empt()


def test_a_vm_trains_whatever_happens_to_it(site: Site, tell: Callable[[str], None]) -> None:
    began = time.monotonic()
    first = site.push("pictures")
    assert f"code: {first}" in site.run("setup_vm_git")
    held = len(list((site.clone / "data/raw").rglob("*.png")))
    set_up = time.monotonic() - began

    before = site.files()
    assert f"code: {first}, before: {first}" in site.run("setup_vm_git")
    assert site.files() == before

    min((site.here / "data/raw/NORMAL").iterdir()).unlink()
    commit = site.push("one picture less")
    assert f"code: {commit}, before: {first}" in site.run("sync_vm")
    assert len(list((site.clone / "data/raw").rglob("*.png"))) == held - 1

    site.run("train_vm", "train", *TINY)
    wait(lambda: bool(site.steps()), site)
    killed = [site.cloud.pre_empt()]
    reached = [max(site.steps())]
    assert "ended" not in site.log
    site.run("sync_vm")  # starts the machine and what was cut off
    wait(lambda: max(site.steps()) > reached[0], site)
    killed.append(site.cloud.pre_empt())
    reached.append(max(site.steps()))
    assert "ended" not in site.log
    assert min(killed) >= 2
    site.cloud.power_on()
    site.cloud.cron()
    assert "start 3 at commit" in site.log or site.cloud.processes()
    wait(lambda: "ended with" in site.log, site)
    code = int(site.log.rpartition("ended with ")[2])
    assert code in {PROMOTED, REFUSED}, site.log
    assert "start 3 at commit" in site.log

    registry = open_registry(
        Settings(registry_url=site.registry, files_url=str(site.team / "bundles"))
    )
    version = registry.get(ModelRef.parse(f"{NAME}:staging"))
    (run,) = site.clone.glob("runs/vm-*")
    assert version.model_digest == verify(run / "bundle").info.model_digest
    (lineage,) = registry.lineages(version)
    assert lineage["commit"] == commit
    (verdict,) = registry.verdicts(NAME, version.model_digest)
    assert verdict.passed == ("production" in version.aliases) == (code == PROMOTED)
    assert f"ended with {code}" in site.run("train_vm", "status")

    called = json.dumps(site.cloud.calls)
    settings = (site.cloud.home / ".local/state/pulmo/settings").read_text("utf-8")
    assert site.registry not in called + settings + site.log
    tell(
        f"set-up {set_up:.0f} s with {held} pictures, nothing changed by the second, synced after "
        f"a push, cut off at steps {reached} ({killed} processes killed), gone on with by sync "
        f"and cron, {version.label} registered (ended with {code}); "
        f"{time.monotonic() - began:.0f} s"
    )
