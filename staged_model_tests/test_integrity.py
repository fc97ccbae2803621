"""The bundle is what it says it is."""

from collections.abc import Callable

import numpy as np

from pulmo.core.bundle import verify
from pulmo.core.ports import Check
from pulmo.jobs.staged import Case


def test_every_file_matches_its_digest(case: Case, show: Callable[..., None]) -> None:
    bundle = verify(case.candidate.bundle.path)
    show(
        Check(
            "digests", True, f"model {bundle.info.model_digest[:12]}, bundle {bundle.digest[:12]}"
        )
    )


def test_the_graph_returns_what_the_bundle_declares(case: Case, show: Callable[..., None]) -> None:
    specification = case.candidate.bundle.info.specification
    outputs = case.candidate.outputs
    n, classes = len(case.split.labels), len(specification.classes)
    assert outputs.probabilities.shape == outputs.logits.shape == (n, classes)
    assert np.isfinite(outputs.logits).all()
    np.testing.assert_allclose(outputs.probabilities.sum(axis=1), 1, atol=1e-5)
    scaled = outputs.logits / specification.temperature
    exponent = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    expected = exponent / exponent.sum(axis=1, keepdims=True)
    gap = float(np.abs(outputs.probabilities - expected).max())
    show(Check("temperature", gap <= 1e-5, f"probabilities against scaled logits: gap {gap:.1e}"))


def test_classes_stand_in_the_order_of_the_data(case: Case, show: Callable[..., None]) -> None:
    ours = case.candidate.bundle.info.specification.classes
    theirs = case.candidate.dataset.manifest.classes
    detail = f"classes {', '.join(ours)}"
    if ours != theirs:
        detail += (
            f"; the data set has {', '.join(theirs)}: with the class order swapped, clients that "
            "read class_index would be told the wrong class"
        )
    show(Check("classes", ours == theirs, detail))
