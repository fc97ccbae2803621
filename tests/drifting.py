"""A bundle whose reference is of the pictures that tests of drift draw, and files of such ones."""

from pathlib import Path

import numpy as np
from PIL import Image

from pulmo.core import bundle as bundles
from pulmo.core.bundle import Bundle
from pulmo.core.decision import fit_outliers
from pulmo.core.preprocess import Pixels
from pulmo.core.statistics import picture_statistics
from pulmo.inference.engine import load

REFERENCE = 120


def draw(n: int, seed: int, lift: int = 0) -> Pixels:
    """Grey pictures with grain, uint8 [n, 1, 16, 16]; `lift` makes all of them brighter."""
    generator = np.random.default_rng(seed)
    levels = generator.uniform(60, 180, (n, 1, 1, 1)) + lift
    return np.clip(levels + generator.normal(0, 12, (n, 1, 16, 16)), 0, 255).astype(np.uint8)


def save(folder: Path, pixels: Pixels) -> Path:
    """Pictures as files, made for this test."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(pixels):
        Image.fromarray(picture[0]).save(folder / f"{number:04}.png")
    return folder


def with_reference(plain: Bundle, folder: Path) -> Bundle:
    """`plain` with a reference of 120 such pictures, two of each patient."""
    pixels = draw(REFERENCE, 0)
    outputs = load(plain)(pixels)
    assert outputs.embedding is not None
    patients = np.arange(REFERENCE) // 2
    outliers, embeddings = fit_outliers(outputs.embedding, 3, 0.05, patients)
    spec = plain.info.specification.model_copy(update={"outliers": outliers})
    weights = (plain.path / bundles.WEIGHTS).read_bytes()
    digest = bundles.model_digest(plain.graph, weights, spec)
    return bundles.write(
        folder,
        graph=plain.graph,
        weights=weights,
        reference={
            "embeddings": embeddings,
            "probabilities": outputs.probabilities,
            "labels": outputs.probabilities.argmax(axis=1).astype(np.int64),
            "patients": patients,
            **{f"stat_{name}": v for name, v in picture_statistics(pixels).items()},
        },
        members=plain.members(),
        info=plain.info.model_copy(update={"specification": spec, "model_digest": digest}),
        card="# drifting\n",
    )
