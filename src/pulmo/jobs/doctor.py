"""This machine and installation: what is there, what is broken, and how each fault is mended."""

import importlib
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pulmo.config.settings import Settings
from pulmo.core.ports import PRODUCTION, ModelRef, Registry
from pulmo.data.manifest import INFO, load
from pulmo.errors import NotFoundError, PulmoError
from pulmo.jobs.lineage import ROOT, commit_of

OLDEST, TOO_NEW = (3, 11), (3, 14)  # as pyproject.toml says
SCARCE, TOO_LITTLE = 5 * 2**30, 2**29  # bytes of free disk space
TIMEOUT_S = 60.0
RUNS = Path("runs")


@dataclass(frozen=True)
class Finding:
    """One look at one thing. `warning`: something is worse than it could be; `error`: broken."""

    name: str
    severity: Literal["ok", "warning", "error"]
    detail: str
    fix: str | None = None


def examine(settings: Settings, open_registry: Callable[[], Registry]) -> list[Finding]:
    """Look at everything; nothing is changed, made or downloaded."""
    return [
        _python(),
        *_checkout(ROOT),
        _torch(),
        *_weights(),
        _runtime(),
        *_settings(settings),
        *_places(settings),
        *_registry(open_registry),
        *_datasets(settings.data_dir),
    ]


def _python() -> Finding:
    version, told = sys.version_info[:2], sys.version.split()[0]
    if OLDEST <= version < TOO_NEW:
        return Finding("Python", "ok", told)
    wanted = f"{_dotted(OLDEST)} or newer, below {_dotted(TOO_NEW)}"
    return Finding("Python", "error", f"{told}, but Pulmo needs {wanted}", "uv python install 3.12")


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))


def _checkout(root: Path) -> Iterator[Finding]:
    """git, the state of the checkout, and the environment beside its lock file."""
    if shutil.which("git") is None:
        told = "not found: models cannot tell from which code they come"
        yield Finding("git", "warning", told, "install git")
    else:
        yield _commit(root)
    if shutil.which("uv") is None:
        told = "not found: neither the lock file nor `reproduce` can be used"
        yield Finding("uv", "warning", told, "https://docs.astral.sh/uv/getting-started")
    elif (root / "uv.lock").is_file():
        yield _lock(root)


def _commit(root: Path) -> Finding:
    commit, clean = commit_of(root)
    if commit is None:
        told = "Pulmo is installed, not checked out: models name no commit"
        return Finding("git", "ok", told)
    if clean:
        return Finding("git", "ok", f"commit {commit[:12]}, nothing uncommitted")
    told = f"uncommitted changes to {commit[:12]}: models trained now cannot be reproduced"
    return Finding("git", "warning", told, "commit or stash the changes before training")


def _lock(root: Path) -> Finding:
    command = ["uv", "sync", "--locked", "--check", "--offline"]
    try:
        done = subprocess.run(
            command, cwd=root, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return Finding("uv.lock", "warning", f"`{' '.join(command)}` took too long", "try it")
    if done.returncode == 0:
        return Finding("uv.lock", "ok", "the environment is the locked one")
    told = (done.stderr.strip().splitlines() or ["it differs"])[-1]
    return Finding("uv.lock", "warning", f"not in sync: {told}", "uv sync --locked")


def _torch() -> Finding:
    if importlib.util.find_spec("torch") is None:
        told = "not installed: this installation predicts, but does not train"
        return Finding("torch", "warning", told, "uv sync")
    try:
        torch = importlib.import_module("torch")
        gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU: trains on CPU"
        return Finding("torch", "ok", f"{torch.__version__}, {gpu}")
    except (ImportError, OSError, RuntimeError) as error:
        return Finding("torch", "error", f"does not load: {error}", "uv sync --reinstall")


def _weights() -> Iterator[Finding]:
    if importlib.util.find_spec("timm") is None:
        return  # nothing could be built with them
    from pulmo.models.catalog import PACKAGED

    for name, (_, package, holder) in PACKAGED.items():
        try:
            path = Path(getattr(importlib.import_module(package), holder).get_model_file_path())
            size = path.stat().st_size
        except (ImportError, OSError) as error:
            yield Finding(f"weights of {name}", "warning", f"not there: {error}", "uv sync")
        else:
            yield Finding(f"weights of {name}", "ok", f"{size / 2**20:.0f} MiB")


def _runtime() -> Finding:
    try:
        runtime = importlib.import_module("onnxruntime")
        providers = ", ".join(runtime.get_available_providers())
        return Finding("ONNX Runtime", "ok", f"{runtime.__version__}, {providers}")
    except (ImportError, OSError) as error:
        return Finding("ONNX Runtime", "error", f"does not load: {error}", "uv sync --reinstall")


def _settings(settings: Settings) -> Iterator[Finding]:
    for name, value in settings.public().items():
        yield Finding(f"PULMO_{name.upper()}", "ok", value)


def _places(settings: Settings) -> Iterator[Finding]:
    """The folders that are written to: rights and room."""
    named = {"data": settings.data_dir, "runs": RUNS}
    if settings.registry_url.startswith("sqlite:///"):
        named["registry"] = Path(settings.registry_url.removeprefix("sqlite:///")).parent
    if "://" not in settings.files_url:
        named["bundles"] = Path(settings.files_url)
    for name, path in named.items():
        yield _place(f"folder of {name}", path.absolute())


def _place(name: str, path: Path) -> Finding:
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        fix = f"give yourself the right to write to {there}, or choose another folder"
        return Finding(name, "error", f"{path} cannot be written", fix)
    free = shutil.disk_usage(there).free
    told = f"{path}, {free / 2**30:.1f} GiB free"
    if free < SCARCE:
        severity: Literal["warning", "error"] = "error" if free < TOO_LITTLE else "warning"
        return Finding(name, severity, told, "make room: `pulmo runs list` shows old runs")
    return Finding(name, "ok", told)


def _registry(open_registry: Callable[[], Registry]) -> Iterator[Finding]:
    """The registry's schema, and the files of what is in production."""
    fix = "check PULMO_REGISTRY_URL, PULMO_FILES_URL and that their servers run"
    try:
        registry = open_registry()
        names = registry.names()
    except NotFoundError as error:
        yield Finding("registry", "ok", str(error))
        return
    except PulmoError as error:
        yield Finding("registry", "error", str(error), fix)
        return
    yield Finding("registry", "ok", f"{len(names)} models: {', '.join(names) or 'none yet'}")
    for name in names:
        if not any(PRODUCTION in version.aliases for version in registry.versions(name)):
            continue
        ref = ModelRef(name, alias=PRODUCTION)
        try:
            yield Finding(str(ref), "ok", f"whole in {registry.fetch(ref)}")
        except PulmoError as error:
            yield Finding(str(ref), "error", str(error), f"bring its files back; {fix}")


def _datasets(data_dir: Path) -> Iterator[Finding]:
    """Every current data set: its description is whole and every picture is there."""
    homes = [path.parent.name for path in sorted(data_dir.glob(f"*/{INFO}"))]
    if not homes:
        yield Finding("data sets", "ok", f"none yet in {data_dir}: `pulmo data` makes one")
    for name in homes:
        try:
            dataset = load(data_dir, name)
        except PulmoError as error:
            fix = f"uv run main.py data data={name}"
            yield Finding(f"data set {name}", "error", str(error), fix)
            continue
        rows = dataset.manifest.rows
        gone = [row for row in rows if not dataset.path(row).is_file()]
        told = f"{len(rows)} pictures, digest {dataset.manifest.digest[:12]}"
        if gone:
            told = f"{len(gone)} of {len(rows)} pictures are gone, such as {dataset.path(gone[0])}"
            fix = f"bring them back, or: uv run main.py data data={name}"
            yield Finding(f"data set {name}", "error", told, fix)
        else:
            yield Finding(f"data set {name}", "ok", told)
