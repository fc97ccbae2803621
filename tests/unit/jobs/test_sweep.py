"""A search is kept, goes on where it was stopped, and its best trial is an experiment."""

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pulmo.config.compose import compose, compose_for_sweep
from pulmo.config.schema import Config
from pulmo.config.settings import Settings
from pulmo.data.manifest import DataSet, load, store
from pulmo.errors import ConfigError, DataError, ModelError, UntrainableError
from pulmo.jobs import fit as fitting
from pulmo.jobs import hardware, trials
from pulmo.jobs import sweep as job
from pulmo.jobs.data import prepare
from pulmo.jobs.sweep import Swept
from pulmo.models import checkpoint

pytest.importorskip("optuna")

TINY = (
    "data=phantom",
    "debug=fast",
    "data.phantom.images=80",
    "data.phantom.size=32",
    "model.options.width=4",
    "trainer.batch_size=16",
    "trainer.accelerator=cpu",
)

Search = Callable[..., Swept]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    prepare(compose(TINY), folder)
    return folder


@pytest.fixture
def search(data_dir: Path, tmp_path: Path) -> Search:
    """`search("sweep.trials=2")`: a search below the test's folder."""

    def run(*overrides: str, **places: Any) -> Swept:
        given = [*TINY, f"run.root={tmp_path}", "sweep.name=mine", *overrides]
        settings = Settings(**{"data_dir": data_dir, **places})
        return job.sweep(compose_for_sweep(given), given, settings)

    return run


def told(swept: Swept) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((swept.folder / "sweep.json").read_text())["trials"]
    return found


def test_a_search_leaves_its_trials_plots_and_the_best_as_an_experiment(
    search: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swept = search("sweep.trials=3", "sweep.prune=false")
    assert swept.counts == {"complete": 3}
    values = [one["value"] for one in told(swept)]
    assert swept.value == max(values)
    assert swept.folder == tmp_path / "sweeps" / "mine"
    assert (swept.folder / "history.png").read_bytes().startswith(b"\x89PNG")
    assert not list(swept.folder.rglob("*.ckpt"))
    here = tmp_path / "here"
    shutil.copytree(swept.experiment.parent, here / "configs" / "experiment")
    monkeypatch.chdir(here)
    config = compose(["data=phantom", "experiment=mine"])
    assert config.recipe.learning_rate == swept.settings["recipe.learning_rate"]
    assert config.recipe.augment is not None
    assert config.recipe.augment.rotate == swept.settings["recipe.augment.rotate"]
    assert config.model == compose(TINY).model
    assert config.trainer == compose(TINY).trainer
    assert config.gate == compose(["data=phantom"]).gate


def test_a_search_goes_on_to_the_trials_that_are_asked_for(search: Search) -> None:
    first = told(search("sweep.trials=1"))
    second = told(search("sweep.trials=2"))
    assert second[:1] == first
    assert len(second) == 2
    assert len(told(search("sweep.trials=2"))) == 2
    with pytest.raises(ConfigError, match="begun with another configuration"):
        search("sweep.trials=3", "seed=4")


def test_a_trial_that_was_broken_off_is_tried_again_and_the_rest_is_as_unbroken(
    search: Search, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    unbroken = [(one["settings"], one["value"]) for one in told(search("sweep.trials=3"))]
    plain, calls = fitting.fit, []

    def stopped(*arguments: Any, **named: Any) -> Any:
        calls.append(arguments)
        if len(calls) > 1:
            raise SystemExit(143)
        return plain(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(fitting, "fit", stopped)
        for _ in range(4):  # as often as it likes
            with pytest.raises(SystemExit):
                search("sweep.trials=3", "sweep.name=broken")
    swept = search("sweep.trials=3", "sweep.name=broken")
    assert swept.counts == {"complete": 3, "fail": 4}
    done = [(one["settings"], one["value"]) for one in told(swept) if one["state"] == "complete"]
    assert done == unbroken
    assert len(list((swept.folder / "trials").iterdir())) == 3  # it kept its folder


def test_a_trial_that_kills_its_worker_is_given_up(
    search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dead(*_: Any) -> None:
        raise SystemExit(137)  # nothing is told to the study, as after SIGKILL

    with monkeypatch.context() as patch:
        patch.setattr(trials, "_attempt", dead)
        for _ in range(trials.ATTEMPTS):
            with pytest.raises(SystemExit):
                search("sweep.trials=2")
    swept = search("sweep.trials=2")
    assert swept.counts == {"complete": 1, "fail": 3, "pruned": 1}
    *died, pruned, done = told(swept)
    assert pruned["error"] == "its worker died 3 times"
    assert all(one["settings"] == pruned["settings"] for one in died)
    assert done["settings"] != pruned["settings"]


def test_a_worker_that_is_asked_to_stop_ends_in_order(
    restored_logging: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan: Any = object()
    given = []

    def work(found: trials.Plan) -> None:
        given.append(found)
        os.kill(os.getpid(), signal.SIGINT)  # of the terminal, to all processes
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setattr(trials, "work", work)
    parent = SimpleNamespace(join=threading.Event().wait)
    monkeypatch.setattr(job, "parent_process", lambda: parent)
    try:
        with pytest.raises(SystemExit) as ended:
            job._worker(plan)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert (given, ended.value.code) == ([plan], 143)


def test_settings_that_no_model_comes_out_of_end_their_trial_only(
    search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, calls = fitting.fit, []

    def failing(*arguments: Any, **named: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 1:
            raise UntrainableError("the loss is nan")
        return plain(*arguments, **named)

    monkeypatch.setattr(fitting, "fit", failing)
    swept = search("sweep.trials=2")
    assert [one["error"] for one in told(swept)] == ["the loss is nan", None]
    assert swept.trial == 1


def test_a_fault_of_the_machine_ends_the_search(
    search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = checkpoint._replace

    def full(path: Path, *parts: bytes) -> None:
        if path.suffix == checkpoint.SUFFIX:
            raise OSError("no space left")
        plain(path, *parts)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_replace", full)
        with pytest.raises(ModelError, match="cannot be written: no space left"):
            search("sweep.trials=1")
    assert search("sweep.trials=1").counts == {"complete": 1, "fail": 1}


def test_feature_maps_that_do_not_fit_end_their_trial_only(
    search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = iter((0, 0))
    monkeypatch.setattr(hardware, "free_memory", lambda: next(free, 10**9))
    swept = search("recipe=probe", "model=small_cnn", "sweep.trials=2")
    assert swept.counts == {"complete": 1, "pruned": 1}
    assert "of memory are free" in told(swept)[0]["error"]


def test_data_without_a_figure_end_the_search(
    search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pulmo.models.module.auroc", lambda *_: None)
    with pytest.raises(DataError, match="the validation split lacks a class"):
        search("sweep.trials=1")


def test_a_search_without_a_whole_trial_says_so(
    search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any, **__: Any) -> Any:
        raise UntrainableError("the loss is nan")

    monkeypatch.setattr(fitting, "fit", failing)
    with pytest.raises(ModelError, match="no trial of the sweep mine came to its end"):
        search("sweep.trials=1")


def test_a_trial_worse_than_the_others_ends_early(
    search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    from optuna import Trial

    monkeypatch.setattr(Trial, "should_prune", lambda trial: trial.number > 0)
    swept = search("sweep.trials=2", "trainer.max_epochs=2")
    assert swept.counts == {"complete": 1, "pruned": 1}


def test_a_space_that_does_not_fit_is_told_before_anything_is_trained(
    search: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "here" / "configs" / "sweep"
    folder.mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    (folder / "odd.yaml").write_text("space:\n  recipe.learning_rat: {low: 0, high: 1}\n")
    with pytest.raises(ConfigError, match=r"did you mean 'recipe\.learning_rate'"):
        search("sweep=odd")
    (folder / "odd.yaml").write_text("space:\n  trainer.batch_size: {choices: [8, 0]}\n")
    with pytest.raises(ConfigError, match=r"trainer\.batch_size=0"):
        search("sweep=odd")
    (folder / "odd.yaml").write_text("space:\n  data.name: {choices: [phantom, other]}\n")
    with pytest.raises(ConfigError, match="only one can be searched on"):
        search("sweep=odd")
    assert not (tmp_path / "sweeps" / "mine" / "sweep.db").exists()


def test_data_that_no_trial_can_be_judged_by_are_told_before_anything_is_trained(
    search: Search, data_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"data\.positive=OTHER, but the data set"):
        search("data.classes=null", "data.positive=OTHER")
    dataset = load(data_dir, "phantom")
    rows = [r for r in dataset.manifest.rows if (r.split, r.label) != ("val", "NORMAL")]
    store(replace(dataset.manifest, rows=tuple(rows)), dataset.root, tmp_path / "data")
    with pytest.raises(DataError, match=r"no validation picture .* shows NORMAL"):
        search("data.positive=null", data_dir=tmp_path / "data")
    assert not (tmp_path / "sweeps" / "mine" / "sweep.db").exists()


def test_settings_of_every_kind_become_overrides(
    search: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "here" / "configs" / "sweep"
    folder.mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    (folder / "kinds.yaml").write_text(
        "startup: 1\nspace:\n"
        "  model.options.width: {low: 2, high: 4, whole: true}\n"
        "  recipe.balance: {choices: [true, false]}\n"
        "  data.resize: {choices: [squash, crop]}\n"
    )
    settings = search("sweep=kinds", "sweep.trials=1").settings
    assert settings["model.options.width"] in (2, 3, 4)
    assert settings["recipe.balance"] in (True, False)
    assert settings["data.resize"] in ("squash", "crop")


def test_a_search_stays_on_the_data_that_it_began_with(
    search: Search, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "data"
    shutil.copytree(data_dir, own)
    plain, seen = fitting.fit, []

    def changing(config: Config, dataset: DataSet, *more: Any, **named: Any) -> Any:
        if not seen:
            prepare(compose([*TINY, "data.splits.val=0.3"]), own)
        seen.append(dataset.manifest.digest)
        return plain(config, dataset, *more, **named)

    before = load(own, "phantom").manifest.digest
    monkeypatch.setattr(fitting, "fit", changing)
    search("sweep.trials=2", data_dir=own)
    assert seen == [before, before]
    assert load(own, "phantom").manifest.digest != before
    with pytest.raises(ConfigError, match="begun with another data"):
        search("sweep.trials=3", data_dir=own)


def test_an_experiment_says_everything_that_was_searched_and_the_seed(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("sweep", "experiment"):
        (tmp_path / "configs" / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    Path("configs/sweep/odd.yaml").write_text(
        "space:\n"
        "  data.resize: {choices: [squash, crop]}\n"
        "  data.mirror: {choices: [true, false]}\n"
    )
    given = (*TINY, "sweep=odd", "seed=4", "data.mirror=false", "data.phantom.noise=0.2")
    places = Settings(data_dir=data_dir)
    plan = job._plan(compose_for_sweep(given), given, places, 1, "0" * 64)
    settings = {"data.resize": "crop", "data.mirror": True}
    told = job._experiment(plan, 3, 0.9, settings)
    Path("configs/experiment/mine.yaml").write_text(told)
    command = next(line for line in told.splitlines() if "main.py train" in line)
    config = compose(command.partition(" train ")[2].replace(plan.name, "mine").split())
    chosen = trials.configured(plan, settings)
    assert config.data == chosen.data
    assert (config.seed, config.model, config.trainer) == (4, chosen.model, chosen.trainer)


def test_without_optuna_the_command_that_brings_it_is_told(
    search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(ConfigError, match="uv sync --locked --group search"):
        search("sweep.trials=1")


def test_trials_can_lie_in_another_database(search: Search, tmp_path: Path) -> None:
    search("sweep.trials=1", sweep_url=f"sqlite:///{tmp_path}/elsewhere.db")
    assert (tmp_path / "elsewhere.db").is_file()
    assert not (tmp_path / "sweeps" / "mine" / "sweep.db").exists()


def test_the_score_is_that_of_the_kept_epoch(tmp_path: Path) -> None:
    table = tmp_path / "metrics.csv"
    table.write_text("epoch,val_loss,val_auroc\n0,nan,0.9\n1,0.4,0.8\n2,0.6,0.95\n")
    assert trials.score(table, "val_auroc") == 0.8
    assert trials.score(table, "val_loss") == 0.4
