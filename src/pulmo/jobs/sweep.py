"""A search for good settings: many trainings, kept, resumable, judged on validation data alone."""

import json
import os
import signal
import threading
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from pulmo import logs
from pulmo.config.compose import compose
from pulmo.config.schema import Config
from pulmo.config.settings import Settings, shown
from pulmo.config.sweeping import Choices
from pulmo.data import files
from pulmo.data.manifest import load
from pulmo.errors import ConfigError, ModelError
from pulmo.jobs import plots, trials
from pulmo.jobs.data import require_positive, require_validated
from pulmo.jobs.run_folder import LATER
from pulmo.jobs.trials import Plan

if TYPE_CHECKING:
    from optuna import Study

log = logs.get_logger(__name__)

DECIDED = ("seed", "model", "recipe", "trainer", "decision")  # what an experiment's file says
AGREED = "agreed"  # the study's attribute that says what was searched, and on what


@dataclass(frozen=True)
class Swept:
    """A sweep that came to its end. `counts` is by state; `importance` adds up to 1."""

    folder: Path
    experiment: Path
    metric: str
    value: float
    trial: int
    settings: Mapping[str, Any]
    counts: Mapping[str, int]
    importance: Mapping[str, float]


def sweep(config: Config, overrides: Sequence[str], places: Settings, workers: int = 1) -> Swept:
    """Search `config.sweep` with `workers` processes, going on where an earlier call stopped.

    `overrides` are those that made `config`. Raises ConfigError for a space that does not fit the
    configuration, and where the sweep of that name was another one, DataError for validation
    pictures that its metric cannot judge by.
    """
    from filelock import FileLock

    manifest = load(places.data_dir, config.data.name).manifest
    plan = _plan(config, overrides, places, workers, manifest.digest)
    trials.library()
    for settings in _corners(plan):
        if trials.configured(plan, settings).data.name != config.data.name:
            raise ConfigError("sweep.space names several data sets: only one can be searched on")
    require_positive(config, manifest)
    if plan.sweep.metric == "val_auroc":
        require_validated(manifest)
    with FileLock(plan.folder / trials.LOCK):
        study = trials.open_study(plan)
        _agree(study, plan)
        found = trials.recover(study, plan)
    if found:
        log.info("%d trials were broken off and are tried again", found)
    log.info("the sweep %s in %s", plan.name, plan.folder)
    if plan.alone:
        trials.work(plan)
    else:
        _together(plan, workers)
    return _result(study, plan)


def _plan(
    config: Config, overrides: Sequence[str], places: Settings, workers: int, data: str
) -> Plan:
    assert config.sweep is not None
    name = config.sweep.name or f"{config.registry.name}-{config.recipe.kind}"
    folder = (Path(config.run.root) / "sweeps" / name).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Plan(
        name=name,
        folder=folder,
        url=_url(places.sweep_url, folder),
        data_dir=places.data_dir.absolute(),
        data=data,
        overrides=tuple(text for text in overrides if not _is_sweeps(text)),
        sweep=config.sweep,
        seed=config.seed,
        threads=config.trainer.threads or max(1, (cores or 1) // workers),
        alone=workers == 1,
    )


def _url(given: str | None, folder: Path) -> str:
    from sqlalchemy import make_url

    from pulmo.store.postgres import with_driver

    if given is None:
        return f"sqlite:///{folder / 'sweep.db'}"
    return with_driver(make_url(given)).render_as_string(hide_password=False)


def _is_sweeps(text: str) -> bool:
    return text.lstrip("+~").startswith(("sweep=", "sweep."))


def _corners(plan: Plan) -> list[dict[str, Any]]:
    """Both ends of every range and all choices: each must make a configuration."""
    found: list[dict[str, Any]] = []
    for key, part in plan.sweep.space.items():
        if isinstance(part, Choices):
            found += [{key: value} for value in part.choices]
        else:
            ends = (int(part.low), int(part.high)) if part.whole else (part.low, part.high)
            found += [{key: value} for value in ends]
    return found


def _agree(study: "Study", plan: Plan) -> None:
    whole = compose(plan.overrides).document()
    document = {part: value for part, value in whole.items() if part not in ("run", *LATER)}
    space = {key: part.model_dump() for key, part in plan.sweep.space.items()}
    now = {
        "configuration": document,
        "space": space,
        "metric": plan.sweep.metric,
        "data": plan.data,
    }
    before = study.user_attrs.get(AGREED)
    if before is None:
        study.set_user_attr(AGREED, now)
    elif before != json.loads(json.dumps(now)):
        differing = ", ".join(key for key in now if before.get(key) != now[key])
        raise ConfigError(
            f"the sweep {plan.name} in {shown(plan.url)} was begun with another {differing}: "
            "give what it was begun with, or another sweep.name"
        )


def _together(plan: Plan, workers: int) -> None:
    """Workers in processes of their own; they end with this one, however it ends."""
    context = get_context("spawn")
    started = [context.Process(target=_worker, args=(plan,)) for _ in range(workers)]
    for process in started:
        process.start()
    try:
        for process in started:
            process.join()
    except BaseException:
        for process in started:
            process.terminate()  # it saves its trial and ends
        for process in started:
            process.join()
        raise
    ended = [process.exitcode for process in started if process.exitcode != 0]
    if ended:
        raise ModelError(
            f"{len(ended)} of {workers} workers ended with {ended}: see above; the same command "
            "goes on where they stopped"
        )


def _worker(plan: Plan) -> None:
    logs.setup()
    parent = parent_process()
    assert parent is not None
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who began it hears of it, and ends it
    signal.signal(signal.SIGTERM, _stop)

    def follow() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=follow, daemon=True).start()
    trials.work(plan)


def _stop(number: int, _: object) -> NoReturn:
    raise SystemExit(128 + number)


def _result(study: "Study", plan: Plan) -> Swept:
    """Plots, a table and the best trial as an experiment, in the sweep's folder."""
    from optuna.trial import TrialState

    told = study.get_trials(deepcopy=False)
    done = [one for one in told if one.state is TrialState.COMPLETE]
    if not done:
        raise ModelError(f"no trial of the sweep {plan.name} came to its end: see {plan.folder}")
    best = study.best_trial
    assert best.value is not None
    experiment = plan.folder / "experiment" / f"{plan.name}.yaml"
    experiment.parent.mkdir(exist_ok=True)
    files.write(experiment, _experiment(plan, best.number, best.value, best.params).encode())
    importance = _importance(study)
    points = [(one.number, one.value) for one in done if one.value is not None]
    better = max if plan.sweep.metric == "val_auroc" else min
    files.write(plan.folder / "history.png", plots.history(points, plan.sweep.metric, better))
    if importance:
        files.write(plan.folder / "importance.png", plots.importance(importance))
    states = [one.state.name.lower() for one in told]
    swept = Swept(
        folder=plan.folder,
        experiment=experiment,
        metric=plan.sweep.metric,
        value=best.value,
        trial=best.number,
        settings=best.params,
        counts={state: states.count(state) for state in sorted(set(states))},
        importance=importance,
    )
    table = [
        {
            "trial": one.number,
            "state": one.state.name.lower(),
            "value": one.value,
            "settings": one.params,
            "error": one.user_attrs.get("error"),
        }
        for one in told
    ]
    document = {"best": best.number, "metric": plan.sweep.metric, "trials": table}
    files.write(plan.folder / "sweep.json", f"{json.dumps(document, indent=2)}\n".encode())
    return swept


def _importance(study: "Study") -> dict[str, float]:
    """How much each setting decides, where enough trials differ to say so."""
    import optuna

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of few trials: the plot shows how little it is
            found = optuna.importance.get_param_importances(study)
    except (ValueError, RuntimeError, ZeroDivisionError):
        return {}
    return {key: float(value) for key, value in found.items()}


def _experiment(plan: Plan, number: int, value: float, settings: Mapping[str, Any]) -> str:
    """What the trial's configuration says otherwise than the plain one, as YAML: what is DECIDED,
    and the parts that were searched. The data set is named beside it, without what was searched.
    """
    given = [(text, text.lstrip("+").partition("=")[0]) for text in plan.overrides]
    kept = [
        text
        for text, key in given
        if key.partition(".")[0] == "data" and key not in plan.sweep.space
    ]
    parts = dict.fromkeys([*DECIDED, *(key.partition(".")[0] for key in plan.sweep.space)])
    plain, chosen = compose(kept).document(), trials.configured(plan, settings).document()
    lines = [
        "# @package _global_",
        f"# Trial {number} of the sweep {plan.name}: {plan.sweep.metric} {value:.4f}.",
        f"# In configs/experiment: uv run main.py train {' '.join(kept)} experiment={plan.name}",
    ]
    different = _difference(plain, {part: chosen[part] for part in parts})
    return "\n".join([*lines, *_lines(different, "")]) + "\n"


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in now.items():
        old = before.get(key)
        if isinstance(value, dict) and isinstance(old, dict):
            if inner := _difference(old, value):
                found[key] = inner
        elif value != old:
            found[key] = value
    return found


def _lines(values: Mapping[str, Any], indent: str) -> list[str]:
    lines = []
    for key, value in values.items():
        if isinstance(value, dict) and value:
            lines += [f"{indent}{key}:", *_lines(value, f"{indent}  ")]
        else:
            lines.append(f"{indent}{key}: {json.dumps(value)}")
    return lines
