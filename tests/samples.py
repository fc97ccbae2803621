"""Samples of pictures that no model has seen: what tests of drift are made of."""

from dataclasses import replace

import numpy as np

from pulmo.core.sample import Sample

CLASSES, WIDTH = 2, 8


def make_sample(n: int, seed: int, *, sick: float = 0.5, shift: float = 0.0) -> Sample:
    """Pictures of which a share `sick` is of the second class; `shift` moves embeddings and
    brightness, in standard deviations. Every four belong to two patients.
    """
    draw = np.random.default_rng(seed)
    labels = (draw.random(n) < sick).astype(np.int64)
    logits = 5.78 * (2 * labels - 1) + draw.normal(0, 3.4, n)  # calibrated where half are sick
    score = 1 / (1 + np.exp(-logits))
    embeddings = draw.normal(0, 1, (n, WIDTH)) + labels[:, None] + 3 + shift * np.eye(WIDTH)[0] * 3
    return Sample(
        probabilities=np.stack([1 - score, score], axis=1),
        score=score,
        decided=(score >= 0.5).astype(np.int64),
        referred=(score > 0.4) & (score < 0.6),
        outlying=np.zeros(n, dtype=np.bool_),
        embeddings=embeddings.astype(np.float32),
        statistics={
            "brightness": draw.normal(0.5 + 0.1 * shift, 0.1, n),
            "contrast": draw.normal(0.2, 0.02, n),
        },
        labels=labels,
        patients=np.arange(n) // 2,
    )


def blind(sample: Sample) -> Sample:
    """The same pictures where nothing was kept of them but the answers."""
    return replace(sample, embeddings=None, statistics={})
