"""The folder of one training run: its files, and `run.json`, which says how far it came.

run.json             name, status, digests, validation metrics
lineage.json         commit, data, configuration, machine: all that a bundle tells of its origin
environment.json     version of every installed package
run.log  metrics.csv  curves.png  checkpoints/  run.lock
weights.safetensors  the trained network
bundle/              what is registered
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from pulmo.config.schema import Config
from pulmo.core.bundle import Bundle, Lineage
from pulmo.data import files
from pulmo.errors import ConfigError, DataError, ModelError
from pulmo.jobs.lineage import derived, resumed
from pulmo.logs import get_logger

log = get_logger(__name__)

RUN = "run.json"
LINEAGE = "lineage.json"
ENVIRONMENT = "environment.json"
LOG = "run.log"
WEIGHTS = "weights.safetensors"
BUNDLE = "bundle"
CHECKPOINTS = "checkpoints"
LOCK = "run.lock"
LATER = ("gate", "evaluate", "tracking")  # parts of a configuration that change no training


def create(config: Config) -> Path:
    """Make the folder of a new run: `run.dir`, or a new one below `run.root` named by the time."""
    if config.run.dir is not None:
        folder = Path(config.run.dir)
        if begun(folder):
            raise DataError(f"{folder} already holds a run: choose another run.dir")
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    stem = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{config.registry.name}"
    for attempt in range(1000):
        folder = Path(config.run.root) / (f"{stem}-{attempt}" if attempt else stem)
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise DataError(f"no free folder below {config.run.root}: set run.dir")


@contextmanager
def at_work(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, which dies with this process. Raises ModelError if another has it."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ModelError(
            f"another training is at work in {folder}: wait for it or choose another run.dir"
        ) from error
    try:
        yield
    finally:
        lock.release()


def discard(folder: Path) -> Path:
    """Empty the folder of a run that did not end, so that it can be begun again."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    return folder


def begin(folder: Path, config: Config, lineage: Lineage) -> None:
    """Write what is known before the first step; `run.json` comes last and makes it a run."""
    if begun(folder):
        raise DataError(f"{folder} already holds a run: choose another run.dir")
    _write(folder / LINEAGE, lineage.model_dump(mode="json"))
    packages = {d.name: d.version for d in metadata.distributions()}
    _write(folder / ENVIRONMENT, {"packages": dict(sorted(packages.items()))})
    document = {
        "name": config.registry.name,
        "status": "running",
        "created_at": lineage.created_at,
        "data_digest": lineage.data_digest,
        "model": config.model.architecture,
        "recipe": config.recipe.kind,
        "seed": config.seed,
    }
    _write(folder / RUN, document)


def go_on(folder: Path) -> None:
    """Record in the origin of a run without a bundle that other code than it began with goes on."""
    origin = read_lineage(folder)
    now = resumed(origin)
    if now == origin or (folder / BUNDLE).is_dir():
        return
    log.warning(
        "the run in %s was begun at commit %s and is %s: its model cannot be reproduced",
        folder,
        origin.commit,
        now.notes[-1],
    )
    _write(folder / LINEAGE, now.model_dump(mode="json"))


def begun(folder: Path) -> bool:
    """Whether a run was begun in `folder`."""
    return (folder / RUN).exists()


def update(folder: Path, **values: Any) -> None:
    """Change entries of `run.json`."""
    _write(folder / RUN, {**_read(folder / RUN), **values})


def tracked(folder: Path, kind: str) -> str | None:
    """The id under which a tracking service knows the run, None where it was not told of it."""
    known = _read(folder / RUN).get("tracking")
    found = known.get("id") if isinstance(known, dict) and known.get("kind") == kind else None
    return found if isinstance(found, str) else None


def finish(folder: Path, bundle: Bundle) -> None:
    """Record the bundle that came out of the run."""
    metrics = {
        split: {name: estimate.value for name, estimate in values.items()}
        for split, values in bundle.info.metrics.items()
    }
    digest = bundle.info.model_digest
    update(folder, status="done", error=None, model_digest=digest, metrics=metrics)


def read_lineage(folder: Path) -> Lineage:
    """The origin that `begin` wrote. Raises ModelError where `folder` is no run."""
    return Lineage.model_validate(_read(folder / LINEAGE))


def recorded(folder: Path) -> Config:
    """The configuration that the run was begun with; it still writes to `folder`."""
    config = Config.model_validate(read_lineage(folder).configuration)
    return config.model_copy(update={"run": config.run.model_copy(update={"dir": str(folder)})})


def agree(folder: Path, config: Config) -> None:
    """Raise ConfigError where `config` is not what the run was begun with, but for `run` and what
    changes no training.
    """
    if note := derived(read_lineage(folder)):
        raise ConfigError(f"the run in {folder} was {note}: there is no training to go on with")
    before, now = (_flat(c.document()) for c in (recorded(folder), config))
    keys = [k for k in before.keys() | now.keys() if k.partition(".")[0] not in LATER]
    differing = sorted(k for k in keys if before.get(k) != now.get(k))
    if differing:
        told = "; ".join(f"{k} was {before.get(k)} and is {now.get(k)}" for k in differing[:5])
        raise ConfigError(
            f"the run in {folder} goes on as it was begun: {told}; "
            "give the overrides it was begun with, or run.dir alone"
        )


def unfinished(config: Config) -> Path:
    """The newest run of this configuration below `run.root`, one that is not done if there is one.

    Raises ModelError where there is none.
    """
    found = []
    for path in sorted(Path(config.run.root).glob(f"*/{RUN}")):
        try:
            agree(path.parent, config)
            document = _read(path)
        except (ConfigError, ModelError, ValueError):
            continue
        open_ = document.get("status") != "done"
        found.append((open_, str(document.get("created_at")), path.parent))
    if not found:
        raise ModelError(
            f"there is no run of this configuration below {config.run.root}: "
            "give run.dir, or begin one without --resume"
        )
    return max(found)[2]


def _flat(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys and their values, without those of `run`."""
    flat: dict[str, Any] = {}
    for key, value in document.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        elif prefix != "run.":
            flat[prefix + key] = value
    return flat


def latest(root: Path, name: str) -> Path:
    """The newest finished run of models called `name`. Raises ModelError where there is none."""
    finished = []
    for path in sorted(root.glob(f"*/{RUN}")):
        document = _read(path)
        if document.get("name") == name and document.get("status") == "done":
            finished.append((str(document["created_at"]), path.parent))
    if not finished:
        raise ModelError(
            f"there is no finished run of {name} below {root}: run `pulmo train` first"
        )
    return max(finished)[1]


def _write(path: Path, document: Mapping[str, Any]) -> None:
    files.write(path, (json.dumps(document, indent=2) + "\n").encode())


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path.parent} is no run that can be read ({error})") from error
    if not isinstance(document, dict):
        raise ModelError(f"{path} holds no run: train again")
    return document
