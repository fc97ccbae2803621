"""One worker of a sweep: trial after trial, each a training judged on its validation split."""

import csv
import math
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pulmo import logs
from pulmo.config.compose import compose
from pulmo.config.schema import Config
from pulmo.config.sweeping import Choices, Range, SweepConfig
from pulmo.errors import ConfigError, DataError, RegistryError, UntrainableError

if TYPE_CHECKING:
    from filelock import FileLock
    from optuna import Study, Trial
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

log = logs.get_logger(__name__)

LOCK = "sweep.lock"  # held while trials are handed out
WORKING = "trial.lock"  # in a trial's folder: held by the worker that lives
ATTEMPTS = 3  # of a trial whose worker died, perhaps by what it was asked to do


@dataclass(frozen=True)
class Plan:
    """What every worker needs to know. `data` is the digest of the data set of all trials,
    `overrides` are theirs without the sweep's; `threads` is what each worker may use, `alone`
    whether it is the only one.
    """

    name: str
    folder: Path
    url: str
    data_dir: Path
    data: str
    overrides: tuple[str, ...]
    sweep: SweepConfig
    seed: int
    threads: int
    alone: bool


def library() -> ModuleType:
    """Optuna, silent. Raises ConfigError where it is not installed."""
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise ConfigError(
            "sweep needs Optuna, which is not installed: uv sync --locked --group search"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    return optuna


def open_study(plan: Plan) -> "Study":
    """The study in the sweep's database, made if it is not there. Raises RegistryError."""
    from sqlalchemy.exc import SQLAlchemyError

    optuna, sweep = library(), plan.sweep
    patience = {"connect_args": {"timeout": 120}} if plan.url.startswith("sqlite") else {}
    pruner = optuna.pruners.MedianPruner(sweep.startup, sweep.warmup)
    try:
        storage = optuna.storages.RDBStorage(plan.url, engine_kwargs=patience)
        study: Study = optuna.create_study(
            storage=storage,
            study_name=plan.name,
            direction="maximize" if sweep.metric == "val_auroc" else "minimize",
            pruner=pruner if sweep.prune else optuna.pruners.NopPruner(),
            load_if_exists=True,
        )
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        from pulmo.config.settings import shown

        raise RegistryError(f"the sweep's database {shown(plan.url)}: {error}") from error
    return study


def recover(study: "Study", plan: Plan) -> int:
    """Ask again for the trials that ran when their workers ended; each goes on in its own folder.

    The sweep's lock must be held. Returns how many there were.
    """
    from optuna.trial import TrialState

    found = 0
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        lock = _lock(plan, trial)
        if not _taken(lock):
            continue  # its worker lives
        try:
            study.tell(trial.number, state=TrialState.FAIL)
            again = {"folder": _folder(trial), "attempt": _number(trial) + 1}
            study.enqueue_trial(trial.params, user_attrs=again)
            found += 1
        finally:
            lock.release()
    return found


def work(plan: Plan) -> None:
    """Do trials until as many have begun as the sweep asks for."""
    import torch
    from filelock import FileLock

    optuna = library()
    torch.set_num_threads(plan.threads)
    study = open_study(plan)
    known: dict[str, Any] = {}  # embeddings of a frozen network, made once
    while True:
        with FileLock(plan.folder / LOCK):
            begun = len(study.get_trials(deepcopy=False, states=_counted()))
            if begun >= plan.sweep.trials:
                return
            study.sampler = optuna.samplers.TPESampler(
                seed=_seed(plan.seed, begun),
                n_startup_trials=plan.sweep.startup,
                constant_liar=True,
            )
            trial = study.ask(distributions(plan.sweep))
            lock = _lock(plan, trial)
            lock.acquire()
        try:
            _attempt(study, trial, plan, known)
        finally:
            lock.release()


def distributions(sweep: SweepConfig) -> dict[str, "BaseDistribution"]:
    """The space as Optuna knows it."""
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    def of(part: Range | Choices) -> "BaseDistribution":
        if isinstance(part, Choices):
            return CategoricalDistribution(part.choices)
        if part.whole:
            return IntDistribution(int(part.low), int(part.high), log=part.log)
        return FloatDistribution(part.low, part.high, log=part.log)

    return {key: of(part) for key, part in sweep.space.items()}


def configured(plan: Plan, settings: Mapping[str, Any]) -> Config:
    """The configuration of a trial with these settings. Raises ConfigError."""
    return compose([*plan.overrides, *(f"{key}={_text(v)}" for key, v in settings.items())])


def score(table: Path, metric: str) -> float:
    """The metric at the epoch with the least finite validation loss, whose weights are kept."""
    with table.open(newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if math.isfinite(float(row["val_loss"]))]
    return float(min(rows, key=lambda row: float(row["val_loss"]))[metric])


def _attempt(study: "Study", trial: "Trial", plan: Plan, known: dict[str, Any]) -> None:
    """Train with the trial's settings and tell the study how it went.

    One that was asked to stop or met a fault of the machine stays RUNNING there, to be asked for
    again, and its attempt does not count.
    """
    from optuna.exceptions import TrialPruned
    from optuna.trial import TrialState

    folder = plan.folder / "trials" / _folder(trial)
    try:
        if _number(trial) > ATTEMPTS:
            raise UntrainableError(f"its worker died {ATTEMPTS} times")
        value = _train(trial, plan, folder, known)
    except TrialPruned:
        study.tell(trial, state=TrialState.PRUNED)
        log.info("trial %d: ended early", trial.number)
    except UntrainableError as error:
        trial.set_user_attr("error", str(error))
        study.tell(trial, state=TrialState.PRUNED)
        log.warning("trial %d: %s", trial.number, error)
    except BaseException as error:
        trial.set_user_attr("attempt", _number(trial) - 1)
        trial.set_user_attr("error", str(error) or type(error).__name__)
        raise
    else:
        study.tell(trial, value)
        log.info("trial %d: %s %.4f", trial.number, plan.sweep.metric, value)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def _train(trial: "Trial", plan: Plan, folder: Path, known: dict[str, Any]) -> float:
    import pytorch_lightning as pl
    from optuna.exceptions import TrialPruned

    from pulmo.data.cache import open_pixels
    from pulmo.data.manifest import find
    from pulmo.jobs.fit import fit
    from pulmo.jobs.train import input_spec

    class Watch(pl.Callback):
        """Tells every epoch, and ends what is worse than the others."""

        def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            trial.report(float(trainer.callback_metrics[plan.sweep.metric]), trainer.current_epoch)
            if trial.should_prune():
                raise TrialPruned

    config = configured(plan, trial.params)
    dataset = find(plan.data_dir, plan.data)
    pixels = open_pixels(dataset, input_spec(config))
    fit(config, dataset, pixels, folder, watch=Watch(), known=known)
    value = score(folder / "metrics.csv", plan.sweep.metric)
    if not math.isfinite(value):
        raise DataError(f"{plan.sweep.metric} is no number: the validation split lacks a class")
    return value


def _folder(trial: "Trial | FrozenTrial") -> str:
    """The name of a trial's folder; a trial that is asked again keeps the first one's."""
    return str(trial.user_attrs.get("folder", f"{trial.number:04d}"))


def _number(trial: "Trial | FrozenTrial") -> int:
    """Which attempt at its settings a trial is, from 1."""
    return int(trial.user_attrs.get("attempt", 1))


def _lock(plan: Plan, trial: "Trial | FrozenTrial") -> "FileLock":
    from filelock import FileLock

    folder = plan.folder / "trials" / _folder(trial)
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / WORKING)


def _taken(lock: "FileLock") -> bool:
    from filelock import Timeout

    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    return True


def _counted() -> tuple[Any, ...]:
    """States of trials that count: one that failed has been asked for again."""
    from optuna.trial import TrialState

    return TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING


def _seed(seed: int, begun: int) -> int:
    """The sampler's seed before a trial: a resumed sweep draws what an unbroken one would."""
    import numpy as np

    return int(np.random.SeedSequence([seed, begun]).generate_state(1)[0])


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
