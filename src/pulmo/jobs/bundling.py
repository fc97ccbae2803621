"""A trained network to a bundle: everything that is chosen is chosen here, on validation data."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pulmo.config.schema import Config, DecisionConfig
from pulmo.core import calibration
from pulmo.core.arrays import Arrays
from pulmo.core.bundle import (
    Bundle,
    BundleInfo,
    DecisionSpec,
    Lineage,
    Specification,
    model_digest,
    write,
)
from pulmo.core.decision import Outputs, fit_outliers
from pulmo.core.preprocess import InputSpec, Pixels
from pulmo.core.statistics import picture_statistics
from pulmo.data import files
from pulmo.data.cache import open_pixels
from pulmo.data.datamodule import Samples
from pulmo.data.manifest import DataSet, Row
from pulmo.inference.engine import Engine
from pulmo.jobs.card import model_card
from pulmo.jobs.fit import samples
from pulmo.jobs.measurement import measure
from pulmo.jobs.train import input_spec
from pulmo.models.catalog import Network
from pulmo.models.export import OUTPUTS, to_graph, to_weights
from pulmo.progress import track

SCORE_METRIC = "auroc"
BATCH = 32


def make_bundle(
    network: Network,
    config: Config,
    dataset: DataSet,
    origin: Lineage,
    folder: Path,
    members: Arrays | None = None,
) -> Bundle:
    """Calibrate and export `network` into `folder`, which appears whole or not at all.

    Temperature, limits and metrics come from the validation split, all but the temperature from
    the very graph that will be served. `members` are the pictures that the model has seen; left
    out, those of the train and val splits.
    """
    plain = input_spec(config)
    cached = open_pixels(dataset, plain)
    val = samples(dataset, cached, "val")
    pixels = np.ascontiguousarray(cached[val.rows])
    temperature = calibration.temperature(_logits(network, pixels), val.labels)
    graph, weights = to_graph(network, temperature, plain), to_weights(network)
    draft = _draft(config, dataset.manifest.classes, plain, temperature)
    outputs = Engine(graph, draft)(pixels)
    decision = _decision(config, outputs, val.labels, dataset.manifest.classes)
    assert outputs.embedding is not None
    patients = np.array([dataset.manifest.rows[row].patient for row in val.rows])
    outliers, embeddings = fit_outliers(
        outputs.embedding, config.decision.neighbours, config.decision.outliers, patients
    )
    specification = draft.model_copy(update={"decision": decision, "outliers": outliers})
    metrics, curves = measure(
        specification, embeddings, outputs, val.labels, patients, config.evaluate, config.seed
    )
    info = BundleInfo(
        name=config.registry.name,
        model_digest=model_digest(graph, weights, specification),
        specification=specification,
        metrics={"val": metrics},
        curves=curves,
        score_metric=SCORE_METRIC,
        lineage=origin,
    )
    return publish(
        folder,
        graph=graph,
        weights=weights,
        reference=_reference(embeddings, outputs, pixels, val, dataset, patients),
        members=_members(dataset) if members is None else members,
        info=info,
        card=model_card(info, config.data.intended_use),
    )


def publish(folder: Path, **contents: Any) -> Bundle:
    """A bundle of these contents, which appears whole or not at all."""
    partial = folder.with_name(folder.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    written = write(partial, **contents)
    files.publish(partial, folder)
    return written.model_copy(update={"path": folder})


def _logits(network: Network, pixels: Pixels) -> NDArray[np.float64]:
    found = []
    starts = range(0, len(pixels), BATCH)
    with torch.inference_mode():
        for start in track(starts, "calibrating", total=len(starts)):
            images = torch.from_numpy(pixels[start : start + BATCH]).float() / 255
            found.append(network(images).double().numpy())
    return np.concatenate(found)


def _draft(
    config: Config, classes: tuple[str, ...], plain: InputSpec, temperature: float
) -> Specification:
    """A specification whose decision and outlier limits are still to be chosen."""
    return Specification(
        classes=classes,
        input=plain,
        network=config.model.network,
        outputs=OUTPUTS,
        temperature=temperature,
        decision=DecisionSpec(rule="argmax", refer_low=0, refer_high=0),
    )


def _decision(
    config: Config, outputs: Outputs, labels: NDArray[np.int64], classes: tuple[str, ...]
) -> DecisionSpec:
    chosen: DecisionConfig = config.decision
    positive = config.data.positive
    if positive is None:
        low, high = calibration.refer_band(outputs.probabilities.max(axis=1), None, chosen.refer)
        return DecisionSpec(rule="argmax", refer_low=low, refer_high=high)
    index = classes.index(positive)
    scores = outputs.probabilities[:, index]
    threshold = calibration.threshold(scores, labels == index, chosen.objective)
    low, high = calibration.refer_band(scores, threshold, chosen.refer)
    return DecisionSpec(
        rule="threshold", positive=positive, threshold=threshold, refer_low=low, refer_high=high
    )


def _reference(
    embeddings: NDArray[np.float16],
    outputs: Outputs,
    pixels: Pixels,
    val: Samples,
    dataset: DataSet,
    patients: NDArray[np.str_],
) -> dict[str, NDArray[np.generic]]:
    return {
        "embeddings": embeddings,
        "probabilities": outputs.probabilities.astype(np.float32),
        "labels": val.labels,
        "patients": np.unique(patients, return_inverse=True)[1].astype(np.int64),
        "digests": _digests([dataset.manifest.rows[row] for row in val.rows]),
        **{f"stat_{name}": value for name, value in picture_statistics(pixels).items()},
    }


def _members(dataset: DataSet) -> Arrays:
    number = {"train": 0, "val": 1}
    rows = [row for row in dataset.manifest.rows if row.split in number]
    splits = np.array([number[row.split] for row in rows], dtype=np.uint8)
    return {"digests": _digests(rows), "splits": splits}


def _digests(rows: Sequence[Row]) -> NDArray[np.uint8]:
    joined = b"".join(bytes.fromhex(row.pixels) for row in rows)
    return np.frombuffer(joined, dtype=np.uint8).reshape(-1, 32)
