"""Scripts of the training VM: settings, dry runs, and how a training there begins, dies and ends.

What trains is a stand-in called `uv`, for it has to end in every way; the machine is a folder.
"""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from google_cloud import GoogleCloud

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "scripts").glob("*.sh"))
NAME = "trainer"
SETTINGS = {
    "PULMO_GCP_PROJECT": "some-project",
    "PULMO_VM_ZONE": "europe-west1-b",
    "PULMO_VM_NAME": NAME,
    "PULMO_VM_SERVICE_ACCOUNT": "pulmo-vm@some-project.iam.gserviceaccount.com",
    "PULMO_VM_MACHINE": "n2-standard-8",
    "PULMO_VM_DATA": "none",
    "PULMO_VM_IAP": "0",
}
UV = """#!/bin/sh
# What it is asked goes into a file; a training ends with what the file `end` holds, or waits.
echo "$*" >>"$HOME/asked"
case "$*" in
*" train "*)
    echo "secret ${PULMO_HOOKS_SECRET:-none}" >>"$HOME/asked"
    read code <"$HOME/end"
    exit "$code"
    ;;
esac
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the other side is a Linux machine")


def program(name: str) -> str:
    found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.defpath}")
    assert found, f"{name} is not installed"
    return found


def test_shellcheck_finds_nothing() -> None:
    words = [program("shellcheck"), "-x", *map(str, SCRIPTS)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_every_checkout_has_scripts_that_a_shell_reads(tmp_path: Path) -> None:
    attributes = ["git", "check-attr", "eol", "--", *(f"scripts/{p.name}" for p in SCRIPTS)]
    told = subprocess.run(attributes, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert [line.rpartition(": ")[2] for line in told.splitlines()] == ["lf"] * len(SCRIPTS)
    for path in SCRIPTS:
        assert b"\r" not in path.read_bytes()


class Site:
    """A small repository with these scripts, its git remote, and Google Cloud."""

    def __init__(self, folder: Path) -> None:
        self.cloud = GoogleCloud(folder / "cloud")
        self.cloud.program("bin-vm/uv", UV)
        self.home, self.here = self.cloud.home, folder / "here"
        self.remote = folder / "remote.git"
        (self.here / "scripts").mkdir(parents=True)
        for path in SCRIPTS:
            shutil.copy(path, self.here / "scripts")
        self.git("init", "-q", "-b", "main")
        self.git("clone", "-q", "--bare", str(self.here), str(self.remote))
        self.git("remote", "add", "origin", str(self.remote))
        self.commit("first")

    def git(self, *words: str) -> str:
        own = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
        done = subprocess.run(
            ["git", *own, *words], cwd=self.here, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    def commit(self, text: str, *, push: bool = True) -> str:
        (self.here / "file").write_text(text, "utf-8")
        self.git("add", ".")
        self.git("commit", "-qm", text)
        if push:
            self.git("push", "-q", "origin", "main")
        return self.git("rev-parse", "HEAD")

    def run(self, script: str, *words: str, expect: int = 0, **settings: str) -> str:
        done = subprocess.run(
            ["bash", f"scripts/{script}.sh", *words],
            cwd=self.here,
            env=self.cloud.environment(**{**SETTINGS, **settings}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == expect, done.stdout + done.stderr
        return done.stdout + done.stderr

    @property
    def state(self) -> Path:
        return self.home / ".local/state/pulmo"

    def asked(self) -> list[str]:
        path = self.home / "asked"
        return path.read_text("utf-8").splitlines() if path.exists() else []

    def let_trainings_wait(self) -> None:
        """A training waits until `end` is called."""
        (self.home / "end").unlink(missing_ok=True)
        os.mkfifo(self.home / "end")

    def end(self, code: int) -> None:
        """Let the training that waits, or the next one, end with `code`."""
        (self.home / "end").write_text(f"{code}\n", "utf-8")

    def await_log(self, text: str) -> str:
        for _ in range(3000):
            log = self.state / "train.log"
            if log.exists() and text in (told := log.read_text("utf-8")):
                return told
            threading.Event().wait(0.01)
        raise AssertionError(f"the log never says '{text}'")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.cloud.pre_empt()


@pytest.fixture
def ready(site: Site) -> Site:
    site.run("setup_vm_git")
    site.let_trainings_wait()
    return site


def test_setting_up_makes_a_machine_with_a_service_account(site: Site) -> None:
    site.run("setup_vm_git")
    (made,) = [call for call in site.cloud.calls if "create" in call]
    assert made[:5] == ["gcloud", "compute", "instances", "create", NAME]
    assert "--service-account=pulmo-vm@some-project.iam.gserviceaccount.com" in made
    assert "--provisioning-model=SPOT" in made
    assert site.asked() == ["sync --locked --quiet --group data --group gcs --group postgres"]
    clone = site.home / "pulmo"
    assert (clone / "file").read_text("utf-8") == "first"

    before = {p: p.stat().st_mtime_ns for p in (site.home / ".crontab", clone / "file")}
    said = site.run("setup_vm_git")
    assert "ready" in said
    assert len([call for call in site.cloud.calls if "create" in call]) == 1
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_a_dry_run_runs_nothing(site: Site) -> None:
    said = site.run("setup_vm_git", "--dry-run")
    assert f"gcloud compute instances create {NAME} --machine-type=n2-standard-8 " in said
    assert f"gcloud compute ssh {NAME} " in said
    assert f"set -- sync {site.git('rev-parse', 'HEAD')} {site.remote}" in said
    assert site.cloud.calls == []
    assert list(site.home.iterdir()) == []


def test_the_other_side_runs_with_the_line_ends_of_any_checkout(site: Site) -> None:
    path = site.here / "scripts/vm_remote.sh"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert "ready" in site.run("setup_vm_git")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PULMO_GCP_PROJECT", ""),
        ("PULMO_GCP_PROJECT", "some-project --quiet"),
        ("PULMO_VM_ZONE", "europe-west1"),
        ("PULMO_VM_NAME", "$(id)"),
        ("PULMO_VM_GROUPS", "data; id"),
        ("PULMO_VM_DATA", "../other.dvc"),
        ("PULMO_VM_SECRETS", "PATH=secret:latest"),
        ("PULMO_VM_GIT_URL", "https://user:token@example.org/pulmo.git"),
        ("PULMO_REGISTRY_URL", "postgresql://pulmo:password@host/registry"),
    ],
)
def test_a_wrong_setting_is_wrong_usage(site: Site, name: str, value: str) -> None:
    said = site.run("sync_vm", expect=2, **{name: value})
    assert name in said
    assert site.cloud.calls == []


def test_no_login_and_no_gcloud_are_one_sentence_each(site: Site, tmp_path: Path) -> None:
    site.cloud.login("")
    said = site.run("sync_vm", expect=1)
    assert said == "nobody is logged in to Google Cloud: run gcloud auth login\n"
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("git", "bash", "dirname"):
        (bare / name).symlink_to(str(shutil.which(name)))
    said = site.run("sync_vm", expect=1, PATH=str(bare))
    assert said == "gcloud is not installed: https://cloud.google.com/sdk/docs/install\n"


def test_what_was_not_pushed_cannot_be_synced(ready: Site) -> None:
    commit = ready.commit("second", push=False)
    assert f"has no commit {commit}: push it first" in ready.run("sync_vm", expect=1)
    ready.git("push", "-q", "origin", "main")
    assert f"code: {commit}" in ready.run("sync_vm")
    assert (ready.home / "pulmo/file").read_text("utf-8") == "second"


def test_a_training_outlives_its_connection_and_ends_once(ready: Site) -> None:
    ready.run("train_vm", "train", "data=phantom", "seed=1")
    assert "training  at work" in ready.run("train_vm", "status")
    assert "at work already" in ready.run("train_vm", "train", "data=phantom", "seed=1")
    assert "another training is at work" in ready.run("train_vm", "train", "seed=2", expect=1)
    assert "nothing was changed" in ready.run("sync_vm", expect=1)
    ready.end(0)
    ready.await_log("ended with 0")
    assert "training  ended with 0" in ready.run("train_vm", "status")
    trained = [line for line in ready.asked() if " train " in line]
    assert "this training is done" in ready.run("train_vm", "train", "data=phantom", "seed=1")
    assert len([line for line in ready.asked() if " train " in line]) == len(trained) == 1
    commit = ready.git("rev-parse", "HEAD")
    assert trained[0].startswith(
        f"run --no-sync main.py train --stage --resume run.dir=runs/vm-{commit[:12]}-"
    )
    assert trained[0].endswith(" data=phantom seed=1")
    assert "ended with 0" in ready.run("train_vm", "log")


def test_what_was_cut_off_goes_on_by_itself(ready: Site) -> None:
    ready.run("train_vm", "train", "seed=1")
    ready.await_log("start 1")
    assert ready.cloud.pre_empt() >= 1
    assert "is TERMINATED" in ready.run("train_vm", "status", expect=1)
    ready.let_trainings_wait()
    said = ready.run("sync_vm")
    assert "training: runs/vm-" in said
    assert ["gcloud", "compute", "instances", "start", NAME] in [c[:5] for c in ready.cloud.calls]
    ready.await_log("start 2")
    ready.end(143)  # as it ends when the machine is shut down
    ready.await_log("cut off (143)")
    assert "training  cut off" in ready.run("train_vm", "status")
    ready.commit("second")
    assert "is not finished" in ready.run("sync_vm", expect=1)
    ready.let_trainings_wait()
    ready.cloud.cron()
    ready.await_log("start 3")
    ready.cloud.cron()  # while it is at work nothing is begun
    ready.end(3)
    assert "start 4" not in ready.await_log("ended with 3")
    ready.cloud.cron()
    assert "start 4" not in ready.await_log("ended with 3")
    assert "ready" in ready.run("sync_vm")


def test_a_training_can_be_abandoned(ready: Site) -> None:
    ready.run("train_vm", "train", "seed=1")
    ready.await_log("start 1")
    ready.commit("second")
    said = ready.run("sync_vm", "--abandon")
    assert "the training is abandoned" in said
    assert "ready" in said
    assert "training  none" in ready.run("train_vm", "status")


def test_secrets_are_read_where_they_are_used_and_kept_nowhere(ready: Site) -> None:
    canary = "canary-5c1b"
    ready.cloud.secret("hooks", canary)
    (ready.home / "end").unlink()
    ready.end(0)
    ready.run("train_vm", "train", PULMO_VM_SECRETS="PULMO_HOOKS_SECRET=hooks:latest")
    ready.await_log("ended with 0")
    assert f"secret {canary}" in ready.asked()
    assert canary not in str(ready.cloud.calls)
    for path in [*ready.state.iterdir(), ready.home / ".crontab"]:
        assert canary not in path.read_text("utf-8")
