"""Containers for tests: podman over a base image that is at hand, and what lies in an image.

`PULMO_BASE_IMAGE` names an image with Python 3.11 and pip's `venv` in podman's store. The store's
driver is `STORAGE_DRIVER` (vfs unless set, which works everywhere).
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
CONFIGURATION = """[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
runtime = "runc"
"""


@dataclass(frozen=True)
class Podman:
    """Podman as this machine can run it, and the base that images are built on."""

    base: str
    environment: dict[str, str]

    def run(self, *words: str, check: bool = True, timeout: float = 1800) -> str:
        """What `podman WORDS` prints, standard error after standard output."""
        done = subprocess.run(
            ["podman", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self.environment,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0 or not check, f"podman {words}: {done.stdout}"
        return done.stdout.strip()

    def inspect(self, image: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.run("image", "inspect", image))[0]
        return found

    def ask(self, container: str, url: str, seconds: float = 120) -> bytes:
        """What is answered at a URL, once a container answers there with 200."""
        end = time.monotonic() + seconds
        while True:
            try:
                with urllib.request.urlopen(url, timeout=10) as answer:
                    return bytes(answer.read())
            except OSError as error:
                why = str(error)
            state = self.run("inspect", "--format", "{{.State.Status}}", container)
            assert state == "running", f"{why}: {self.run('logs', container)}"
            assert time.monotonic() < end, f"{why}: {self.run('logs', container)}"
            time.sleep(0.2)


def podman(folder: Path) -> Podman:
    """Podman, or a skip with the reason; `folder` takes its configuration."""
    base = os.environ.get("PULMO_BASE_IMAGE")
    if not base or shutil.which("podman") is None:
        pytest.skip("needs podman, and PULMO_BASE_IMAGE: an image with Python 3.11 in its store")
    file = folder / "containers.conf"
    file.write_text(CONFIGURATION)
    own = {"CONTAINERS_CONF": str(file)}
    for name, value in {"STORAGE_DRIVER": "vfs", "BUILDAH_ISOLATION": "chroot"}.items():
        own[name] = os.environ.get(name, value)
    own["BUILDAH_LAYERS"] = "false"  # nothing is taken from an earlier build
    own["DISABLE_HC_SYSTEMD"] = "true"  # health is asked by the tests, not by timers of systemd
    return Podman(base, {**os.environ, **own})


def build(engine: Podman, checkout: Path, *words: str, **environment: str) -> list[str]:
    """`invoke build WORDS` in a checkout, by the environment of these tests; the image's names."""
    options = ("--engine", "podman", "--base-image", engine.base)
    done = subprocess.run(
        [sys.executable, "-m", "invoke", "build", *options, *words],
        cwd=checkout,
        env={
            **engine.environment,
            **environment,
            "UV_PROJECT_ENVIRONMENT": sys.prefix,
            "UV_NO_SYNC": "1",
        },
        capture_output=True,
        text=True,
        timeout=3600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = [line for line in done.stderr.splitlines() if line.startswith("made ")]
    return told[-1].removeprefix("made ").split(" and ")


def clone(folder: Path) -> Path:
    """The committed state of this repository in a folder of its own."""
    subprocess.run(["git", "clone", "-q", str(ROOT), str(folder)], check=True)
    return folder


@dataclass(frozen=True)
class Layers:
    """An image as `podman save` writes it: its configuration, and its layers as tar files."""

    config: dict[str, Any]
    paths: tuple[Path, ...]

    def above(self, base: "Layers") -> tuple[Path, ...]:
        """The layers that are not the base's."""
        count = len(base.paths)
        assert self.config["rootfs"]["diff_ids"][:count] == base.config["rootfs"]["diff_ids"]
        return self.paths[count:]


def saved(engine: Podman, image: str, folder: Path) -> Layers:
    """Write an image's layers into a folder."""
    file = folder / "image.tar"
    folder.mkdir(parents=True)
    engine.run("save", "--quiet", "--format", "docker-archive", "--output", str(file), image)
    with tarfile.open(file) as archive:
        archive.extractall(folder, filter="data")
    file.unlink()
    (manifest,) = json.loads((folder / "manifest.json").read_text())
    config = json.loads((folder / manifest["Config"]).read_text())
    return Layers(config, tuple(folder / name for name in manifest["Layers"]))


def entries(layer: Path) -> Iterator[tuple[Any, ...]]:
    """Everything about a layer's entries, in their order, but the times."""
    with tarfile.open(layer) as archive:
        for one in archive:
            stream = archive.extractfile(one) if one.isreg() else None
            digest = hashlib.file_digest(stream, "sha256").hexdigest() if stream else None
            yield one.name, one.type, one.mode, one.uid, one.gid, one.size, one.linkname, digest
