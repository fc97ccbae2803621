"""Training: cached pictures to a run folder with a bundle."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pulmo import logs
from pulmo.config.schema import Config
from pulmo.core.bundle import Bundle
from pulmo.core.preprocess import InputSpec
from pulmo.data import files
from pulmo.data.cache import open_pixels
from pulmo.data.manifest import find, load
from pulmo.errors import ModelError
from pulmo.jobs import ranks, run_folder
from pulmo.jobs.data import allowed_errors, require_choices
from pulmo.jobs.lineage import lineage

if TYPE_CHECKING:
    from pulmo.models.tracking import Tracker

log = logs.get_logger(__name__)


@dataclass(frozen=True)
class Trained:
    """A finished run and its bundle; `seen_at` is where a tracking service shows it."""

    run_dir: Path
    bundle: Bundle
    seen_at: str | None = None


def train(config: Config, data_dir: Path, tracker: "Tracker | None" = None) -> Trained:
    """Train the configured model on the configured data set and write its run folder.

    `run.json` tells how it ended: `done`, `stopped` by a signal or `failed`, with the reason. The
    `tracker` is told as it goes; whether it listens changes nothing. Raises ConfigError or
    DataError at once where the data would not do for what is chosen after the training.
    """
    from pulmo.jobs.hardware import use_threads

    dataset = load(data_dir, config.data.name)
    require_choices(config, dataset.manifest)
    notes = allowed_errors(dataset, config.doctor)
    run_dir = run_folder.create(config)
    with run_folder.at_work(run_dir):
        use_threads(config.trainer)  # the run's origin tells how many there are
        run_folder.begin(run_dir, config, lineage(config, dataset, notes))
        return _go(run_dir, data_dir, tracker)


def resume(config: Config, data_dir: Path, tracker: "Tracker | None" = None) -> Trained:
    """Go on with the run in `run.dir`, or with the newest unfinished one of this configuration.

    Weights and bundle become those of an unbroken run; code of another commit than it was begun
    with is warned of and recorded. A folder without a run gets one. Raises
    ConfigError where the run was begun with another configuration.
    """
    given = config.run.dir
    run_dir = run_folder.unfinished(config) if given is None else Path(given)
    if not run_folder.begun(run_dir):
        return train(config, data_dir, tracker)
    run_folder.agree(run_dir, config)
    with run_folder.at_work(run_dir):
        run_folder.go_on(run_dir)
        return _go(run_dir, data_dir, tracker)


def _go(run_dir: Path, data_dir: Path, tracker: "Tracker | None") -> Trained:
    from pulmo.jobs.tracking import followed

    handler = logs.add_file(run_dir / run_folder.LOG)
    try:
        with followed(tracker, run_dir):
            bundle = _finished(run_dir, data_dir, tracker)
    except (SystemExit, KeyboardInterrupt):
        log.info("stopped; go on with: pulmo train --resume run.dir=%s", run_dir)
        _record(run_dir, "stopped", "stopped by a signal")
        raise
    except BaseException as error:
        _record(run_dir, "failed", f"{type(error).__name__}: {error}")
        raise
    finally:
        logs.remove(handler)
    return Trained(run_dir, bundle, tracker.where if tracker else None)


def _finished(run_dir: Path, data_dir: Path, tracker: "Tracker | None") -> Bundle:
    """Do what is not done yet: weights, curves, bundle."""
    from pulmo.jobs.fit import fit
    from pulmo.jobs.plots import training_curves
    from pulmo.jobs.tracking import CURVES, tell
    from pulmo.models.export import to_weights

    origin, config = run_folder.read_lineage(run_dir), run_folder.recorded(run_dir)
    weights = run_dir / run_folder.WEIGHTS
    if not weights.is_file():
        run_folder.update(run_dir, status="running", error=None)
        model, recipe = config.model.architecture, config.recipe.kind
        log.info("training %s (%s) on %s in %s", model, recipe, config.data.name, run_dir)
        dataset = find(data_dir, origin.data_digest)
        with ranks.leading(config, run_dir):
            pixels = open_pixels(dataset, input_spec(config))
            network = fit(config, dataset, pixels, run_dir, tracker)
        files.write(weights, to_weights(network))
    else:
        ranks.dismiss(config)
    training_curves(run_dir / "metrics.csv", run_dir / CURVES)
    bundle = export(run_dir, data_dir)
    if tracker is not None:
        tell(tracker, run_dir, bundle)
    return bundle


def _record(run_dir: Path, status: str, error: str) -> None:
    try:
        run_folder.update(run_dir, status=status, error=error)
    except (OSError, ModelError) as fault:  # the first error is the one to tell
        log.warning("run.json cannot say that the run %s: %s", status, fault)


def export(run_dir: Path, data_dir: Path) -> Bundle:
    """The bundle of a run, made from its weights where it is not there yet."""
    from pulmo.core.bundle import verify
    from pulmo.jobs.bundling import make_bundle
    from pulmo.models.export import load_network

    target = run_dir / run_folder.BUNDLE
    if target.is_dir():
        bundle = verify(target)
        run_folder.finish(run_dir, bundle)
        return bundle
    origin = run_folder.read_lineage(run_dir)
    config = Config.model_validate(origin.configuration)
    weights = run_dir / run_folder.WEIGHTS
    if not weights.is_file():
        raise ModelError(f"{run_dir} has no trained weights: its training did not end, train again")
    dataset = find(data_dir, origin.data_digest)
    classes = len(dataset.manifest.classes)
    spec, channels = config.model.network, config.data.channels
    network = load_network(weights.read_bytes(), spec, channels, classes)
    bundle = make_bundle(network, config, dataset, origin, target)
    run_folder.finish(run_dir, bundle)
    return bundle


def input_spec(config: Config) -> InputSpec:
    """The picture that the configured network takes."""
    side = config.model.image_size
    return InputSpec(
        height=side,
        width=side,
        channels=config.data.channels,
        resize=config.data.resize,
        dicom=config.data.dicom,
        preprocess=config.data.preprocess,
    )
