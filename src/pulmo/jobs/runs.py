"""The training runs below a folder, whole or damaged."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pulmo.errors import ModelError
from pulmo.jobs.run_folder import RUN, read_lineage


@dataclass(frozen=True)
class Run:
    """What `run.json` says of one run; `note` tells why it says less than it should.

    `metrics` maps a split to its metrics, `created_at` is ISO 8601.
    """

    dir: Path
    name: str | None = None
    status: str | None = None
    created_at: str | None = None
    model_digest: str | None = None
    data_digest: str | None = None
    recipe: str | None = None
    metrics: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    note: str | None = None

    def score(self, metric: str, split: str = "val") -> float | None:
        """One metric, None where the run has none."""
        return self.metrics.get(split, {}).get(metric)


def find(root: Path) -> list[Run]:
    """Every run below `root`, at any depth, newest first; damaged ones last with a note."""
    runs = [_run(path) for path in sorted(root.rglob(RUN))]
    return sorted(runs, key=lambda run: (run.created_at or "", str(run.dir)), reverse=True)


@dataclass(frozen=True)
class Difference:
    """One entry that two runs do not share, or a metric of both; None where a run has none."""

    name: str
    first: object
    second: object


@dataclass(frozen=True)
class Comparison:
    """Two runs beside each other: what was configured otherwise, and what came out on `val`."""

    runs: tuple[Run, Run]
    configuration: tuple[Difference, ...]
    metrics: tuple[Difference, ...]


def compare(first: str, second: str, root: Path) -> Comparison:
    """Two runs, each a folder or the name of one below `root`. Raises ModelError."""
    folders = [_folder(target, root) for target in (first, second)]
    runs = tuple(_run(folder / RUN) for folder in folders)
    origins = [read_lineage(folder) for folder in folders]
    settings = [
        {"data digest": one.data_digest, "commit": one.commit}
        | _flat({key: value for key, value in one.configuration.items() if key != "run"})
        for one in origins
    ]
    scores = [run.metrics.get("val", {}) for run in runs]
    return Comparison(
        (runs[0], runs[1]),
        tuple(d for d in _beside(*settings) if d.first != d.second),
        tuple(_beside(*scores)),
    )


def _folder(target: str, root: Path) -> Path:
    for folder in (Path(target), root / target):
        if (folder / RUN).is_file():
            return folder
    raise ModelError(f"{target} is no run, nor is {root / target}: `pulmo runs list` shows them")


def _beside(first: Mapping[str, object], second: Mapping[str, object]) -> list[Difference]:
    names = {**first, **second}
    return [Difference(name, first.get(name), second.get(name)) for name in names]


def _flat(document: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in document.items():
        if isinstance(value, Mapping) and value:
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _run(path: Path) -> Run:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return Run(path.parent, note=f"{RUN} cannot be read: {error}")
    if not isinstance(document, dict):
        return Run(path.parent, note=f"{RUN} holds no run")
    texts = ("name", "status", "created_at", "model_digest", "data_digest", "recipe")
    told = {name: document[name] for name in texts if isinstance(document.get(name), str)}
    metrics = document.get("metrics", {})
    whole = isinstance(metrics, dict) and all(isinstance(m, dict) for m in metrics.values())
    missing = [name for name in ("name", "status", "created_at") if name not in told]
    note = f"{RUN} lacks {', '.join(missing)}" if missing else document.get("error")
    return Run(path.parent, **told, metrics=metrics if whole else {}, note=note)
