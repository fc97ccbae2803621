"""The folder of one training run: its files, and `run.json`, which says how far it came.

run.json             name, status, digests, validation metrics
lineage.json         commit, data, configuration, machine: all that a bundle tells of its origin
environment.json     version of every installed package
run.log  metrics.csv  curves.png  checkpoints/
weights.safetensors  the trained network
bundle/              what is registered
"""

import json
import os
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from pulmo.config.schema import Config
from pulmo.core.bundle import Bundle, Lineage
from pulmo.errors import DataError, ModelError

RUN = "run.json"
LINEAGE = "lineage.json"
ENVIRONMENT = "environment.json"
LOG = "run.log"
WEIGHTS = "weights.safetensors"
BUNDLE = "bundle"


def create(config: Config) -> Path:
    """Make the folder of a new run: `run.dir`, or a new one below `run.root` named by the time."""
    if config.run.dir is not None:
        folder = Path(config.run.dir)
        if (folder / RUN).exists():
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


def discard(folder: Path) -> Path:
    """Empty the folder of a run that did not end, so that it can be begun again."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    return folder


def begin(folder: Path, config: Config, lineage: Lineage) -> None:
    """Write what is known before the first step."""
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


def update(folder: Path, **values: Any) -> None:
    """Change entries of `run.json`."""
    _write(folder / RUN, {**_read(folder / RUN), **values})


def finish(folder: Path, bundle: Bundle) -> None:
    """Record the bundle that came out of the run."""
    metrics = {
        split: {name: estimate.value for name, estimate in values.items()}
        for split, values in bundle.info.metrics.items()
    }
    digest = bundle.info.model_digest
    update(folder, status="done", model_digest=digest, metrics=metrics)


def read_lineage(folder: Path) -> Lineage:
    """The origin that `begin` wrote. Raises ModelError where `folder` is no run."""
    return Lineage.model_validate(_read(folder / LINEAGE))


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
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, path)  # noqa: PTH105 - the atomic one


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path.parent} is no run that can be read ({error})") from error
    if not isinstance(document, dict):
        raise ModelError(f"{path} holds no run: train again")
    return document
