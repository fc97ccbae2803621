"""A registered model trained once more from its recorded origin, and compared bit for bit."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pulmo.config.settings import Settings
from pulmo.core.bundle import GRAPH, WEIGHTS, Bundle, Estimate, Lineage, file_digest, verify
from pulmo.core.ports import ModelRef, Registry, Version
from pulmo.data import remote
from pulmo.data.manifest import DataSet, store
from pulmo.errors import ConfigError, ModelError, RefusedError
from pulmo.jobs.lineage import ROOT, derived, unreproducible
from pulmo.jobs.run_folder import BUNDLE
from pulmo.logs import get_logger

log = get_logger(__name__)

LOCK = "uv.lock"
# What would lead uv or git from the worktree to the environment of this process.
_FOREIGN = ("VIRTUAL_ENV", "PYTHON", "UV_PROJECT", "UV_NO_SYNC", "UV_FROZEN", "GIT_")


@dataclass(frozen=True)
class Line:
    """One thing that was compared: a digest or a metric with its interval."""

    name: str
    recorded: str
    reproduced: str

    @property
    def same(self) -> bool:
        """Whether both are equal to the last bit."""
        return self.recorded == self.reproduced


@dataclass(frozen=True)
class Reproduction:
    """What came out; `circumstances` are the origins' differences (machine, lock …)."""

    label: str
    run_dir: Path
    lines: tuple[Line, ...]
    circumstances: tuple[Line, ...]

    @property
    def same(self) -> bool:
        """Whether weights, model digest and every metric are equal."""
        return all(line.same for line in self.lines)


def reproduce(
    registry: Registry, ref: ModelRef, settings: Settings, run_dir: Path, root: Path = ROOT
) -> Reproduction:
    """Check the recorded commit of the checkout `root` out, train there, compare the bundles.

    The run's folder is `run_dir`; the worktree is removed. Raises RefusedError for a model whose
    origin is not known exactly, DataError for data that are nowhere, ConfigError where git, uv
    or the checkout is missing, ModelError where the training does not end.
    """
    version = registry.get(ref)
    origin = origin_of(version, registry.lineages(version))
    recorded = verify(registry.fetch(ModelRef(version.name, version=version.number)))
    if run_dir.exists():
        raise ConfigError(f"{run_dir} is there already: choose another --out")
    with checked_out(origin, root) as tree:
        dataset = remote.find(settings.data_dir, settings.data_url, origin.data_digest)
        log.info("training %s again at commit %s", version.label, str(origin.commit)[:12])
        _train(tree, origin, dataset, settings, run_dir)
    made = verify(run_dir / BUNDLE)
    return Reproduction(
        version.label, run_dir, compare(recorded, made), _circumstances(origin, made)
    )


def origin_of(version: Version, lineages: list[Mapping[str, Any]]) -> Lineage:
    """The first recorded origin that can be repeated. Raises RefusedError with every reason."""
    reasons = []
    for document in lineages:
        origin = Lineage.model_validate(document)
        reason = unreproducible(origin)
        if note := derived(origin):
            reason = f"it was {note}: reproduce that model and do the same with it"
        if reason is None:
            return origin
        reasons.append(reason)
    told = "; ".join(dict.fromkeys(reasons)) or "it has no recorded origin"
    raise RefusedError(f"{version.label} cannot be reproduced: {told}")


def compare(recorded: Bundle, made: Bundle) -> tuple[Line, ...]:
    """Digests of weights, graph and model, and every metric of two bundles."""
    lines = [
        Line(name, file_digest(recorded.path / file), file_digest(made.path / file))
        for name, file in (("weights", WEIGHTS), ("graph", GRAPH))
    ]
    lines.append(Line("model digest", recorded.info.model_digest, made.info.model_digest))
    before, after = (_metrics(bundle) for bundle in (recorded, made))
    lines += [Line(n, before.get(n, "-"), after.get(n, "-")) for n in {**before, **after}]
    return tuple(lines)


def _metrics(bundle: Bundle) -> dict[str, str]:
    def told(one: Estimate) -> str:  # repr loses no bit of a float
        return f"{one.value!r} [{one.low!r}, {one.high!r}]"

    return {
        f"{split} {name}": told(estimate)
        for split, found in bundle.info.metrics.items()
        for name, estimate in found.items()
    }


def _circumstances(origin: Lineage, made: Bundle) -> tuple[Line, ...]:
    names = ("machine", "commit", "lock_digest", "data_digest", "seed")
    lines = [
        Line(name, str(getattr(origin, name)), str(getattr(made.info.lineage, name)))
        for name in names
    ]
    return tuple(line for line in lines if not line.same)


@contextmanager
def checked_out(origin: Lineage, root: Path) -> Iterator[Path]:
    """A temporary worktree of the checkout `root` at the commit of `origin`."""
    for tool in ("git", "uv"):
        if shutil.which(tool) is None:
            raise ConfigError(f"{tool} is not on the PATH: install it to reproduce models")
    commit = str(origin.commit)
    if not (root / ".git").exists():
        raise ConfigError(f"{root} is no checkout of Pulmo: run this in a git clone of it")
    if _git(root, "cat-file", "-e", f"{commit}^{{commit}}").returncode != 0:
        raise RefusedError(
            f"the commit {commit[:12]} is unknown in {root}: bring it with `git fetch` (in a "
            "shallow clone `git fetch --unshallow`)"
        )
    with TemporaryDirectory(prefix="pulmo-reproduce-") as scratch:
        tree = Path(scratch) / "tree"
        quiet = ("-c", "core.hooksPath=/dev/null", "worktree", "add", "--quiet", "--detach")
        added = _git(root, *quiet, str(tree), commit)
        if added.returncode != 0:
            raise ConfigError(f"git made no worktree of {commit[:12]}: {added.stderr.strip()}")
        try:
            lock = tree / LOCK
            if origin.lock_digest and file_digest(lock) != origin.lock_digest:
                raise RefusedError(
                    f"the {LOCK} of commit {commit[:12]} is not the one that the model was "
                    "trained with: its packages are unknown"
                )
            yield tree
        finally:
            _git(root, "worktree", "remove", "--force", str(tree))


def _git(root: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=_environment())


def _environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith(_FOREIGN)}


def _train(
    tree: Path, origin: Lineage, dataset: DataSet, settings: Settings, run_dir: Path
) -> None:
    """Train in `tree` with its own locked environment, on exactly these data, into `run_dir`."""
    data_dir, config = tree.parent / "data", tree.parent / "config.json"
    store(dataset.manifest, dataset.root.resolve(), data_dir)
    run = {**origin.configuration["run"], "dir": str(run_dir.resolve())}
    document = {**origin.configuration, "run": run}
    if "tracking" in document:  # nobody is told of a repetition, and no key is asked for
        document["tracking"] = {"kind": "none"}
    config.write_text(json.dumps(document), encoding="utf-8")
    environment = {
        **_environment(),
        **settings.environment(),
        "PULMO_DATA_DIR": str(data_dir),
    }
    _run(tree, environment, "uv", "sync", "--locked")
    _run(tree, environment, "uv", "run", "--locked", "main.py", "train", "--config", str(config))


def _run(tree: Path, environment: dict[str, str], *command: str) -> None:
    """Run a command whose messages go to this process's stderr; it ends when this one does."""
    process = subprocess.Popen(command, cwd=tree, env=environment, stdout=subprocess.DEVNULL)
    try:
        code = process.wait()
    finally:
        process.terminate()
        process.wait()
    if code != 0:
        words = " ".join(command[:4])
        raise ModelError(f"`{words}` at the recorded commit ended with {code}: see its messages")
