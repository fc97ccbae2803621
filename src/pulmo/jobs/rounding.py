"""A run's model in whole numbers: a model of its own that answers as the float one does."""

from pathlib import Path

import numpy as np

from pulmo.config.schema import Config
from pulmo.core.bundle import WEIGHTS, Bundle, BundleInfo, model_digest, verify
from pulmo.core.decision import Decider
from pulmo.core.likeness import likeness
from pulmo.data.cache import open_pixels
from pulmo.data.manifest import find
from pulmo.errors import RefusedError
from pulmo.inference.engine import Engine, load
from pulmo.jobs.bundling import publish
from pulmo.jobs.card import model_card
from pulmo.jobs.fit import samples
from pulmo.jobs.lineage import ROUNDED
from pulmo.jobs.measurement import measure
from pulmo.jobs.train import export
from pulmo.logs import get_logger
from pulmo.models.whole_numbers import to_whole_numbers
from pulmo.progress import track

FOLDER = "bundle-int8"
PICTURES = 512  # of the train split, on which weights and ranges are chosen

log = get_logger(__name__)


def to_int8(run_dir: Path, data_dir: Path) -> Bundle:
    """The bundle of a run with its later layers in whole numbers, beside the float one.

    Temperature, limits and reference stay those of the float model, so that both decide alike.
    Raises RefusedError, and writes nothing, where they do not on the validation split; ModelError
    for a network that has nothing to be rounded.
    """
    model = export(run_dir, data_dir)
    info, target = model.info, run_dir / FOLDER
    if target.is_dir():
        return verify(target)
    config = Config.model_validate(info.lineage.configuration)
    dataset = find(data_dir, info.lineage.data_digest)
    cached = open_pixels(dataset, info.specification.input)
    train, val = samples(dataset, cached, "train"), samples(dataset, cached, "val")
    chosen = np.random.default_rng(config.seed).permutation(train.rows)[:PICTURES]
    graph = to_whole_numbers(model.graph, np.ascontiguousarray(cached[np.sort(chosen)]), track)
    specification = info.specification.model_copy(update={"precision": "int8"})
    pixels = np.ascontiguousarray(cached[val.rows])
    outputs = Engine(graph, specification)(pixels)
    reference = model.reference()
    decider = Decider(specification, reference.get("embeddings"))
    found = likeness(decider, val.labels, load(model)(pixels), outputs)
    log.info("in whole numbers %s", found)
    if not found.close:
        raise RefusedError(
            f"in whole numbers the model would answer otherwise: {found}; serve the float one"
        )
    metrics, curves = measure(
        specification,
        reference["embeddings"],
        outputs,
        val.labels,
        np.array([dataset.manifest.rows[row].patient for row in val.rows]),
        config.evaluate,
        config.seed,
    )
    note = f"{ROUNDED} {info.name}@{info.model_digest}: {found}"
    changes = {
        "specification": specification,
        "metrics": {"val": metrics},
        "curves": curves,
        "lineage": info.lineage.model_copy(update={"notes": (*info.lineage.notes, note)}),
    }
    return _write(target, model, graph, info.model_copy(update=changes), config.data.intended_use)


def _write(target: Path, model: Bundle, graph: bytes, info: BundleInfo, use: str) -> Bundle:
    """The bundle of another graph of a model's weights."""
    weights = (model.path / WEIGHTS).read_bytes()
    digest = model_digest(graph, weights, info.specification)
    made = info.model_copy(update={"model_digest": digest})
    return publish(
        target,
        graph=graph,
        weights=weights,
        reference=model.reference(),
        members=model.members(),
        info=made,
        card=model_card(made, use),
    )
