"""The training runs below a folder, whole or damaged."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pulmo.jobs.run_folder import RUN


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
