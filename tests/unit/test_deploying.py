"""Tasks of Cloud Run from the outside: what is printed, and how what is missing or wrong ends."""

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from google_cloud import ACCOUNT, GoogleCloud
from served import serving

from pulmo.core.bundle import Bundle
from pulmo.serving.limits import Limits

ROOT = Path(__file__).parents[2]
DIGEST = "0123456789abcdef" * 4
SETTINGS = {
    "PULMO_GCP_PROJECT": "some-project",
    "PULMO_GCP_REGION": "europe-west1",
    "PULMO_GCP_SERVICE_ACCOUNT": "pulmo-run@some-project.iam.gserviceaccount.com",
    "PULMO_GCP_INVOKER": ACCOUNT,
}

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the gcloud of tests is a Unix program")


@pytest.fixture
def cloud(tmp_path: Path) -> GoogleCloud:
    return GoogleCloud(tmp_path / "cloud")


def run(cloud: GoogleCloud, *words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", *words],
        cwd=ROOT,
        env=cloud.environment(**{**SETTINGS, **environment}),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """A module of scripts/."""
    monkeypatch.syspath_prepend(str(ROOT))
    return lambda name: importlib.import_module(f"scripts.{name}")


def test_a_dry_run_prints_every_command_and_runs_none(cloud: GoogleCloud) -> None:
    done = run(cloud, "invoke", "deploy", "--model", f"toy@{DIGEST}", "--dry-run")
    assert done.returncode == 0, done.stderr
    place = "--project=some-project --region=europe-west1"
    asked = "gcloud run services list --filter=metadata.name=pulmo --format=json " + place
    image = f"europe-west1-docker.pkg.dev/some-project/pulmo/pulmo-api:{DIGEST}"
    login, before, made, after, token, moved = done.stdout.splitlines()
    assert login == "gcloud auth list --filter=status:ACTIVE '--format=value(account)'"
    assert before == after == asked
    assert made.startswith(f"gcloud run deploy pulmo {place} --image={image} ")
    for flag in ("--no-allow-unauthenticated", "--no-traffic", f"--tag=m{DIGEST[:12]}"):
        assert f" {flag} " in made
    assert token == (
        "gcloud auth print-identity-token "
        f"--impersonate-service-account={ACCOUNT} --audiences=SERVICE_URL"
    )
    assert moved == (
        f"gcloud run services update-traffic pulmo --to-tags=m{DIGEST[:12]}=100 "
        f"--update-tags=former=REVISION --quiet {place}"
    )
    assert cloud.calls == []


def test_nobody_logged_in_is_one_sentence(cloud: GoogleCloud) -> None:
    cloud.login("")
    done = run(cloud, "invoke", "deploy", "--model", f"toy@{DIGEST}")
    assert done.returncode == 1
    assert "nobody is logged in to Google Cloud: run gcloud auth login" in done.stderr
    assert len(cloud.calls) == 1


def test_a_missing_tool_is_one_sentence(cloud: GoogleCloud) -> None:
    (cloud.folder / "bin/gcloud").unlink()
    done = run(cloud, "invoke", "rollback", PATH=str(cloud.folder / "bin"))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "gcloud is not installed: https://cloud.google.com/sdk/docs/install"
    )


@pytest.mark.parametrize("model", ["", "toy", "toy@0123$(id)", "--help@production", "a:b:c"])
def test_what_names_no_model_is_wrong_usage(cloud: GoogleCloud, model: str) -> None:
    done = run(cloud, "invoke", "deploy", f"--model={model}")
    assert done.returncode == 2
    assert "names no model" in done.stderr
    assert cloud.calls == []


def test_a_wrong_setting_is_wrong_usage(cloud: GoogleCloud) -> None:
    done = run(cloud, "invoke", "push", "--model", DIGEST, PULMO_GCP_REGION="europe-west1;id")
    assert done.returncode == 2
    assert "PULMO_GCP_REGION" in done.stderr
    assert cloud.calls == []


def test_what_an_instance_takes_on_follows_from_what_was_measured(
    script: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pulmo.config.cloud import load

    sizes = script("cloud_run").sizes

    def of(cores: int, **values: int) -> tuple[int, int]:
        given = {**SETTINGS, **{f"PULMO_GCP_{k.upper()}": str(v) for k, v in values.items()}}
        for name, value in given.items():
            monkeypatch.setenv(name, value)
        return sizes(load(), Limits(workers=cores))

    assert of(1, answer_ms=100, wait_ms=500, resident_mib=300)[0] == 5
    assert of(2, answer_ms=100, wait_ms=500)[0] == 10
    assert of(1, answer_ms=900, wait_ms=500)[0] == 1
    assert of(1, answer_ms=1, wait_ms=500)[0] == 33, "no more than the server lets wait"
    one, four = of(1, answer_ms=100)[1], of(4, answer_ms=100)[1]
    assert one % 256 == four % 256 == 0
    assert one >= 300 + 128 + 2 * 3 * 25_000_000 / 2**20
    assert four >= one + 3 * 2 * 3 * 25_000_000 / 2**20 - 256


@pytest.fixture
def smoke(script: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    found = script("smoke")
    monkeypatch.setattr(found, "TRIES", 2)
    monkeypatch.setattr(found, "PAUSE_S", 0.0)
    return found


def test_a_server_with_the_right_model_passes_the_check(
    smoke: ModuleType, toy_bundle: Bundle, tmp_path: Path
) -> None:
    digest = toy_bundle.info.model_digest
    with serving(toy_bundle.path, tmp_path) as (_, url):
        smoke.check(url, digest, {})
        with pytest.raises(smoke.WrongError, match=f"not {DIGEST}"):
            smoke.check(url, DIGEST, {})


def test_nothing_is_sent_unencrypted_or_to_nobody(smoke: ModuleType) -> None:
    with pytest.raises(smoke.WrongError, match="is not encrypted"):
        smoke.check("http://pulmo.example.org", DIGEST, {"X-API-Key": "k"})
    with pytest.raises(smoke.WrongError, match="/health was not answered"):
        smoke.check("http://127.0.0.1:1", DIGEST, {})
