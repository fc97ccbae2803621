"""A trained network on new validation data: its limits are chosen anew, nothing is trained."""

from pathlib import Path

import numpy as np

from pulmo import logs
from pulmo.config.schema import Config
from pulmo.core.arrays import Arrays
from pulmo.core.bundle import WEIGHTS, Bundle, Specification
from pulmo.data.manifest import VAL, DataSet, load
from pulmo.errors import DataError, RefusedError
from pulmo.jobs import run_folder
from pulmo.jobs.data import allowed_errors, require_choices
from pulmo.jobs.lineage import RECALIBRATED, lineage
from pulmo.jobs.train import Trained

_TRAIN, _VAL = 0, 1  # as members.npz numbers the splits

log = logs.get_logger(__name__)


def recalibrate(bundle: Bundle, config: Config, data_dir: Path) -> Trained:
    """Choose temperature, threshold, refer band and outlier limit of `bundle` on the present data.

    The validation split of the configured data set decides; the result is a new run folder whose
    bundle has the old weights. Its members are those of the old model and the new validation
    pictures. Raises DataError for other classes or channels, RefusedError where a validation
    picture was trained on, and for a model in whole numbers.
    """
    from pulmo.jobs.bundling import make_bundle
    from pulmo.models.export import from_weights

    info = bundle.info
    if info.specification.precision is not None:
        raise RefusedError(
            "a model in whole numbers keeps the limits of the float one it was made from: "
            "recalibrate that one, and export it with --int8"
        )
    dataset = load(data_dir, config.data.name)
    _require_fit(dataset, info.specification)
    members = extended(bundle.members(), dataset)
    config = adapted(config, info.specification)
    notes = (
        f"{RECALIBRATED} {info.name}@{info.model_digest}",
        *allowed_errors(dataset, config.doctor),
    )
    run_dir = run_folder.create(config)
    origin = lineage(config, dataset, notes)
    run_folder.begin(run_dir, config, origin)
    handler = logs.add_file(run_dir / run_folder.LOG)
    try:
        log.info("recalibrating %s@%s in %s", info.name, info.model_digest[:12], run_dir)
        require_choices(config, dataset.manifest)
        network = from_weights((bundle.path / WEIGHTS).read_bytes(), info.specification)
        target = run_dir / run_folder.BUNDLE
        made = make_bundle(network, config, dataset, origin, target, members)
        run_folder.finish(run_dir, made)
        return Trained(run_dir, made)
    except BaseException as error:
        run_folder.update(run_dir, status="failed", error=f"{type(error).__name__}: {error}")
        raise
    finally:
        logs.remove(handler)


def adapted(config: Config, spec: Specification) -> Config:
    """The configuration with the network and the pictures that the model was trained with."""
    seen = spec.input.model_dump(include={"resize", "preprocess"}) | {"dicom": spec.input.dicom}
    options = dict(spec.network.options)
    network = {
        "architecture": spec.network.architecture,
        "standardise": bool(options.pop("standardise", False)),
        "options": options,
        "image_size": spec.input.height,
    }
    groups = {
        "data": config.data.model_copy(update=seen),
        "model": config.model.model_copy(update=network),
    }
    return config.model_copy(update=groups)


def extended(members: Arrays, dataset: DataSet) -> Arrays:
    """The members of a model and every validation picture, each once; train outweighs val.

    Raises RefusedError where the model was trained on a validation picture.
    """
    known = {
        bytes(digest): int(split)
        for digest, split in zip(members["digests"], members["splits"], strict=True)
    }
    held_out = {bytes.fromhex(r.pixels) for r in dataset.manifest.rows if r.split == VAL}
    trained = sum(known.get(digest) == _TRAIN for digest in held_out)
    if trained:
        raise RefusedError(
            f"the model was trained on {trained} of the {len(held_out)} validation pictures of "
            f"{dataset.manifest.name}: what is chosen on them flatters it; take other data"
        )
    known |= dict.fromkeys(held_out, _VAL)
    digests = np.frombuffer(b"".join(known), dtype=np.uint8).reshape(-1, 32)
    return {"digests": digests, "splits": np.array(list(known.values()), dtype=np.uint8)}


def _require_fit(dataset: DataSet, spec: Specification) -> None:
    manifest = dataset.manifest
    if manifest.classes != spec.classes:
        raise DataError(
            f"the data set {manifest.name} shows {', '.join(manifest.classes)}, but the model "
            f"knows {', '.join(spec.classes)}: choose the data set with data=…"
        )
    if manifest.channels != spec.input.channels:
        raise DataError(
            f"the data set {manifest.name} has {manifest.channels} channels, but the model takes "
            f"{spec.input.channels}: set data.channels and make the data set anew"
        )
