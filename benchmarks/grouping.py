"""Patients grouped by what a frozen network sees in their pictures, and a group left out."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pulmo.config.schema import Config, ModelConfig
from pulmo.core.bundle import sha256
from pulmo.core.preprocess import Pixels
from pulmo.data.cache import open_pixels
from pulmo.data.manifest import EXCLUDED, TRAIN, VAL, DataSet
from pulmo.jobs.train import input_spec
from pulmo.models.catalog import build
from pulmo.progress import track

CLUSTERS = 5
HELD = "held"
# What tells clusters apart is always the same network, whatever is judged.
JUDGE = ModelConfig(architecture="efficientnet_lite0", weights="packaged", image_size=160)
BATCH = 32


def clusters(config: Config, dataset: DataSet) -> dict[str, int]:
    """Patient → cluster: k-means of their mean embeddings, kept beside the data set's pixels."""
    config = config.model_copy(update={"model": JUDGE})
    spec = input_spec(config)
    path = dataset.folder / f"clusters-{sha256(spec.model_dump_json().encode())[:16]}.npz"
    if not path.is_file():
        rows = [i for i, row in enumerate(dataset.manifest.rows) if row.split in (TRAIN, VAL)]
        found = _embedded(config, dataset, open_pixels(dataset, spec), rows)
        patients, means = by_patient([dataset.manifest.rows[i].patient for i in rows], found)
        part = path.with_suffix(".part.npz")
        np.savez(part, patients=patients, embeddings=means, clusters=grouped(means))
        part.replace(path)
    with np.load(path, allow_pickle=False) as kept:
        pairs = zip(kept["patients"].tolist(), kept["clusters"].tolist(), strict=True)
        return {str(patient): int(cluster) for patient, cluster in pairs}


def _embedded(
    config: Config, dataset: DataSet, pixels: Pixels, rows: Sequence[int]
) -> NDArray[np.float32]:
    spec = JUDGE.network
    classes = len(dataset.manifest.classes)
    network = build(spec, channels=config.data.channels, classes=classes, weights=JUDGE.weights)
    network.eval().to(memory_format=torch.channels_last)
    return asked(network.embed, pixels, rows)


def asked(
    ask: Callable[[Tensor], Tensor], pixels: Pixels, rows: Sequence[int] | NDArray[np.int64]
) -> NDArray[np.float32]:
    """What a network says of the pictures in these rows, float32 [n, …]."""
    found, starts = [], range(0, len(rows), BATCH)
    with torch.inference_mode():
        for start in track(starts, "looking", total=len(starts)):
            images = torch.from_numpy(pixels[rows[start : start + BATCH]]).float() / 255
            found.append(ask(images.contiguous(memory_format=torch.channels_last)).numpy())
    return np.concatenate(found)


def by_patient(
    patients: Sequence[str], embeddings: NDArray[np.float32]
) -> tuple[NDArray[np.str_], NDArray[np.float32]]:
    """The patients in order, and the mean of their pictures' embeddings [n, D]."""
    names, member = np.unique(np.array(patients), return_inverse=True)
    sums = np.zeros((len(names), embeddings.shape[1]))
    np.add.at(sums, member, embeddings)
    means: NDArray[np.float32] = (sums / np.bincount(member)[:, None]).astype(np.float32)
    return names, means


def grouped(means: NDArray[np.float32]) -> NDArray[np.int64]:
    """The cluster of each row [n], by k-means."""
    from sklearn.cluster import KMeans  # type: ignore[import-untyped]

    found = KMeans(n_clusters=CLUSTERS, random_state=0, n_init=10).fit(means)
    return np.asarray(found.labels_, dtype=np.int64)


def without(dataset: DataSet, cluster_of: dict[str, int], number: int) -> DataSet:
    """The data set with one cluster's pictures of train and val held out, and no gate or test."""

    def split(name: str, patient: str) -> str:
        if name not in (TRAIN, VAL):
            return EXCLUDED
        return HELD if cluster_of[patient] == number else name

    rows = tuple(replace(row, split=split(row.split, row.patient)) for row in dataset.manifest.rows)
    return replace(dataset, manifest=replace(dataset.manifest, rows=rows))


def size(dataset: DataSet, cluster_of: dict[str, int], number: int) -> dict[str, int]:
    """Pictures of each class of train and val in one cluster."""
    found = Counter(
        row.label
        for row in dataset.manifest.rows
        if row.split in (TRAIN, VAL) and cluster_of[row.patient] == number
    )
    return {name: found[name] for name in dataset.manifest.classes}
