"""A search that is killed loses at most the trials that ran, and goes on with two workers."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("optuna")

ROOT = Path(__file__).parents[2]
DATA = ("data=phantom", "data.phantom.images=400", "data.phantom.size=64")
OVERRIDES = (
    *DATA,
    "debug=fast",
    "trainer.max_epochs=2",
    "trainer.accelerator=cpu",
    "sweep.prune=false",
)


def trials(home: Path) -> list[dict[str, Any]]:
    """What the database of the sweep holds."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder = home / "runs/sweeps/phantom-demo-finetune"
    if not (folder / "sweep.db").is_file():
        return []
    try:
        study = optuna.load_study(study_name=folder.name, storage=f"sqlite:///{folder}/sweep.db")
    except KeyError:
        return []
    return [
        {"state": one.state.name, "value": one.value, "settings": one.params}
        for one in study.get_trials()
    ]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_sweep_loses_at_most_what_ran(
    tmp_path: Path, pulmo: Callable[..., Any], tell: Callable[[str], None], workers: int
) -> None:
    pulmo(tmp_path, "data", *DATA)
    words = ["sweep", *OVERRIDES, "sweep.trials=6", "--workers", str(workers), "--json"]
    with subprocess.Popen(
        [sys.executable, str(ROOT / "main.py"), *words],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        while sum(one["state"] == "COMPLETE" for one in trials(tmp_path)) < 2:
            assert process.poll() is None
            time.sleep(0.3)
        os.killpg(process.pid, signal.SIGKILL)
    before = trials(tmp_path)
    kept = [one for one in before if one["state"] == "COMPLETE"]
    running = [one for one in before if one["state"] == "RUNNING"]
    assert len(running) <= workers
    done = json.loads(pulmo(tmp_path, *words).stdout)
    after = [one for one in trials(tmp_path) if one["state"] == "COMPLETE"]
    assert len(after) == 6
    assert all(one in after for one in kept)
    lost = done["counts"].get("fail", 0)
    assert lost == len(running)
    again = [one["settings"] for one in after]
    assert all(one["settings"] in again for one in running if len(one["settings"]) == 6)
    tell(f"{workers} workers: {len(kept)} kept, {lost} tried again, 6 of 6 done")


def test_the_best_trial_is_an_experiment_that_trains_to_its_figure(
    tmp_path: Path, pulmo: Callable[..., Any], tell: Callable[[str], None]
) -> None:
    pulmo(tmp_path, "data", *DATA)
    swept = json.loads(pulmo(tmp_path, "sweep", *OVERRIDES, "sweep.trials=3", "--json").stdout)
    folder = tmp_path / "configs/experiment"
    folder.mkdir(parents=True)
    experiment = Path(swept["experiment"])
    (folder / experiment.name).write_bytes(experiment.read_bytes())
    pulmo(tmp_path, "train", *DATA, f"experiment={experiment.stem}", "run.dir=mine")
    rows = [line.split(",") for line in (tmp_path / "mine/metrics.csv").read_text().split()[1:]]
    best = min(rows, key=lambda row: float(row[3]))
    tell(f"sweep {swept['value']!r}, trained from the experiment {best[4]}")
    assert float(best[4]) == swept["value"]
