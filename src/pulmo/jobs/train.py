"""Training: cached pictures to a run folder with a bundle."""

from dataclasses import dataclass
from pathlib import Path

from pulmo import logs
from pulmo.config.schema import Config
from pulmo.core.bundle import Bundle, NetworkSpec
from pulmo.core.preprocess import InputSpec
from pulmo.data.cache import open_pixels
from pulmo.data.manifest import find, load
from pulmo.errors import ModelError
from pulmo.jobs import run_folder
from pulmo.jobs.data import allowed_errors
from pulmo.jobs.lineage import lineage

log = logs.get_logger(__name__)


@dataclass(frozen=True)
class Trained:
    """A finished run and its bundle."""

    run_dir: Path
    bundle: Bundle


def train(config: Config, data_dir: Path) -> Trained:
    """Train the configured model on the configured data set and write its run folder.

    The run is recorded as failed, with the reason, when anything stops it.
    """
    from pulmo.jobs.fit import fit
    from pulmo.jobs.plots import training_curves
    from pulmo.models.export import to_weights

    dataset = load(data_dir, config.data.name)
    notes = allowed_errors(dataset, config.doctor)
    run_dir = run_folder.create(config)
    handler = logs.add_file(run_dir / run_folder.LOG)
    try:
        run_folder.begin(run_dir, config, lineage(config, dataset, notes))
        log.info(
            "training %s (%s) on %s in %s",
            config.model.architecture,
            config.recipe.kind,
            config.data.name,
            run_dir,
        )
        network = fit(config, dataset, open_pixels(dataset, input_spec(config)), run_dir)
        (run_dir / run_folder.WEIGHTS).write_bytes(to_weights(network))
        training_curves(run_dir / "metrics.csv", run_dir / "curves.png")
        bundle = export(run_dir, data_dir)
        return Trained(run_dir, bundle)
    except BaseException as error:
        run_folder.update(run_dir, status="failed", error=f"{type(error).__name__}: {error}")
        raise
    finally:
        logs.remove(handler)


def export(run_dir: Path, data_dir: Path) -> Bundle:
    """The bundle of a run, made from its weights where it is not there yet."""
    from pulmo.core.bundle import verify
    from pulmo.jobs.bundling import make_bundle
    from pulmo.models.export import load_network

    target = run_dir / run_folder.BUNDLE
    if target.is_dir():
        return verify(target)
    origin = run_folder.read_lineage(run_dir)
    config = Config.model_validate(origin.configuration)
    weights = run_dir / run_folder.WEIGHTS
    if not weights.is_file():
        raise ModelError(f"{run_dir} has no trained weights: its training did not end, train again")
    dataset = find(data_dir, origin.data_digest)
    classes = len(dataset.manifest.classes)
    spec = network_spec(config)
    network = load_network(weights.read_bytes(), spec, config.data.channels, classes)
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
    )


def network_spec(config: Config) -> NetworkSpec:
    """The configured network, as a bundle names it."""
    return NetworkSpec(architecture=config.model.architecture, options=config.model.options)
