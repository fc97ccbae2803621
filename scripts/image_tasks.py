"""Images: the present commit, and one tested model, to a container image by podman or docker."""

import json
import shlex
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from invoke.context import Context
from invoke.tasks import task

from scripts.tools import USAGE, Tools, container_engine, end

IMAGES = ("api", "train", "frontend")
SHOWN = 12  # digits of a digest or commit in a tag that people read
UNREAD = '{"name": "NAME", "model_digest": "MODEL_DIGEST"}'  # what a dry run cannot know


@dataclass(frozen=True)
class Commit:
    """What is built: the files of a commit, never what lies around them. `seconds` since 1970."""

    digest: str
    seconds: str


@task(
    help={
        "what": f"one of {', '.join(IMAGES)}",
        "model": "baked into the API: name:production, name:best, name:v3, name@digest, a bundle "
        "or a run folder; without one the API takes its model from its registry",
        "engine": "podman or docker with options, in quotes; else the one that is there",
        "base_image": "instead of the Dockerfile's pinned Python",
        "dry_run": "print every command as it would be run, and run none",
    }
)
def build(
    context: Context,
    what: str = "api",
    model: str = "",
    engine: str = "",
    base_image: str = "",
    dry_run: bool = False,
) -> None:
    """Build an image of the present commit: `invoke build --model pneumonia:production`."""
    if what not in IMAGES:
        end(USAGE, f"'{what}' is no image: there are {', '.join(IMAGES)}")
    if model and what != "api":
        end(USAGE, f"no model is baked into {what}: leave --model out")
    tools, commit = Tools(dry_run), _commit()
    with tempfile.TemporaryDirectory() as made:
        folder = Path("CONTEXT") if dry_run else Path(made)
        if not dry_run:
            _export(commit, folder)
        arguments = [f"COMMIT={commit.digest}"]
        tags = [commit.digest[:SHOWN]]
        if model:
            baked = _bring(tools, model, folder / "bundle")
            digest = baked["model_digest"]
            arguments += [f"MODEL_NAME={baked['name']}", f"MODEL_DIGEST={digest}"]
            tags = [digest, f"{digest[:SHOWN]}-{tags[0]}"]
        if base_image:
            arguments.append(f"BASE_IMAGE={base_image}")
        names = [f"pulmo-{what}:{tag}" for tag in tags]
        words = shlex.split(engine) or [container_engine()]
        target = ("baked" if model else "server") if what == "api" else ""
        tools.run(*_command(words, what, target, arguments, names, commit, folder))
    sys.stderr.write(f"made {' and '.join(names)}\n" if not dry_run else "")


def _commit() -> Commit:
    shown = _git("log", "-1", "--format=%H %ct").decode().split()
    if _git("status", "--porcelain"):
        sys.stderr.write("note: what is not committed is not in the image\n")
    return Commit(*shown)


def _export(commit: Commit, folder: Path) -> None:
    """The commit's files, and its name beside them: there is no git in an image."""
    packed = _git("-c", "tar.umask=0022", "archive", "--format=tar", commit.digest)
    with tarfile.open(fileobj=BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")
    (folder / "COMMIT").write_text(f"{commit.digest}\n", "utf-8")


def _bring(tools: Tools, model: str, folder: Path) -> dict[str, str]:
    """The model into the build's folder, checked. A folder has no verdict, a version needs one.

    Secrets that open the registry stay in this process: the build gets files.
    """
    tested = () if Path(model).is_dir() else ("--tested",)
    words = ("registry", "download", model, "--out", str(folder), *tested, "--json")
    told: dict[str, str] = json.loads(tools.read("uv", "run", "main.py", *words, unread=UNREAD))
    if not tested:
        sys.stderr.write(f"note: {model} is a folder: nobody says that it was tested\n")
    return told


def _command(
    engine: list[str],
    what: str,
    target: str,
    arguments: list[str],
    names: list[str],
    commit: Commit,
    folder: Path,
) -> list[str]:
    if Path(engine[0]).name == "podman":
        own = ["--format", "docker", "--timestamp", commit.seconds]  # OCI's has no health check
    else:
        own = ["--build-arg", f"SOURCE_DATE_EPOCH={commit.seconds}"]
    return [
        *engine,
        "build",
        *own,
        *("--file", str(folder / f"dockerfiles/{what}.dockerfile")),
        *(("--target", target) if target else ()),
        *(word for one in arguments for word in ("--build-arg", one)),
        *(word for one in names for word in ("--tag", one)),
        str(folder),
    ]


def _git(*words: str) -> bytes:
    return subprocess.run(["git", *words], capture_output=True, check=True).stdout
