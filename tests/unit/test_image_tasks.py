"""`invoke build` tells what it would run, and refuses what makes no sense; no engine is needed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILES = sorted((ROOT / "dockerfiles").glob("*.dockerfile"))


def build(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "invoke", "build", *words],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def commit() -> tuple[str, str]:
    shown = ["git", "-C", str(ROOT), "log", "-1", "--format=%H %ct"]
    digest, seconds = subprocess.run(
        shown, capture_output=True, text=True, check=True
    ).stdout.split()
    return digest, seconds


def test_a_model_is_fetched_where_its_secrets_are_and_named_by_its_digest() -> None:
    told = build("--model", "toy:production", "--engine", "podman --log-level warn", "--dry-run")
    assert told.returncode == 0
    digest, seconds = commit()
    assert told.stdout == (
        "uv run main.py registry download toy:production --out CONTEXT/bundle --tested --json\n"
        f"podman --log-level warn build --format docker --timestamp {seconds} "
        "--file CONTEXT/dockerfiles/api.dockerfile --target baked "
        f"--build-arg COMMIT={digest} "
        "--build-arg MODEL_NAME=NAME --build-arg MODEL_DIGEST=MODEL_DIGEST "
        f"--tag pulmo-api:MODEL_DIGEST --tag pulmo-api:MODEL_DIGEST-{digest[:12]} CONTEXT\n"
    )


def test_without_a_model_the_server_takes_one_from_its_registry() -> None:
    told = build("--engine", "docker", "--base-image", "localhost/base", "--dry-run")
    digest, seconds = commit()
    assert told.stdout == (
        f"docker build --build-arg SOURCE_DATE_EPOCH={seconds} "
        f"--file CONTEXT/dockerfiles/api.dockerfile --target server --build-arg COMMIT={digest} "
        f"--build-arg BASE_IMAGE=localhost/base --tag pulmo-api:{digest[:12]} CONTEXT\n"
    )


def test_a_folder_is_no_tested_model(tmp_path: Path) -> None:
    told = build("--model", str(tmp_path), "--engine", "docker", "--dry-run")
    assert "--tested" not in told.stdout
    assert "nobody says that it was tested" in told.stderr


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--what", "shop"), "'shop' is no image: there are api, train, frontend"),
        (("--what", "train", "--model", "toy:best"), "no model is baked into train"),
    ],
)
def test_what_makes_no_sense_is_refused(words: tuple[str, ...], reason: str) -> None:
    told = build(*words, "--dry-run")
    assert (told.returncode, told.stdout) == (2, "")
    assert reason in told.stderr


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_a_dockerfile_keeps_the_rules(path: Path) -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.exists():
        pytest.skip("hadolint is not installed")
    found = subprocess.run([hadolint, path], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "")
    text = path.read_text("utf-8")
    *_, final = text.split("\nFROM ")
    assert "\nUSER 10001:10001\n" in text
    assert "\nHEALTHCHECK " in text
    assert "--mount=type=secret" not in text  # no secret is needed: models come as files
    assert "pip install" not in final
    assert "@sha256:" in text.partition("ARG BASE_IMAGE=")[2].partition("\n")[0]


def test_the_images_begin_with_one_pinned_base() -> None:
    bases = {
        path.read_text("utf-8").partition("ARG BASE_IMAGE=")[2].partition("\n")[0]
        for path in DOCKERFILES
    }
    assert len(DOCKERFILES) == 3
    assert len(bases) == 1
