"""What was trained is what is served."""

from collections.abc import Callable

import numpy as np
import onnxruntime
import torch

from pulmo.core.bundle import WEIGHTS
from pulmo.core.decision import Decider
from pulmo.core.likeness import likeness
from pulmo.core.ports import Check
from pulmo.inference.engine import INPUT
from pulmo.jobs.staged import Case
from pulmo.models.catalog import build
from pulmo.models.export import from_weights

PICTURES = 300


def test_torch_and_onnx_agree(case: Case, show: Callable[..., None]) -> None:
    if case.candidate.bundle.info.specification.precision is not None:
        show(_twin(case))
        return
    pixels = case.candidate.pixels[:PICTURES]
    expected = case.candidate.by_weights(pixels).probabilities
    served = case.candidate.outputs.probabilities[:PICTURES]
    gap = float(np.abs(served - expected).max())
    changed = int((served.argmax(axis=1) != expected.argmax(axis=1)).sum())
    detail = f"largest gap {gap:.1e}, {changed} of {len(pixels)} labels differ"
    if gap > case.limits.parity_gap:
        detail += ": the graph was quantised badly, or made from weights of another epoch"
    show(Check("torch_onnx", gap <= case.limits.parity_gap and changed == 0, detail))


def _twin(case: Case) -> Check:
    """A graph in whole numbers beside the weights that it was made of, on all pictures at hand that
    neither was fitted to: the gate's and the known ones of validation.
    """
    one, known = case.candidate, case.candidate.known
    specification, reference = one.bundle.info.specification, one.bundle.reference()
    pixels = np.concatenate([one.pixels, one.pixels_of(known.rows)])
    labels = np.concatenate([case.split.labels, reference["labels"][known.places]])
    decider = Decider(specification, reference.get("embeddings"))
    found = likeness(decider, labels, one.by_weights(pixels), one.engine(pixels))
    return Check("torch_onnx", found.close, str(found))


def test_normalisation_is_that_of_the_network(case: Case, show: Callable[..., None]) -> None:
    bundle = case.candidate.bundle
    specification = bundle.info.specification
    stored = from_weights((bundle.path / WEIGHTS).read_bytes(), specification)
    channels, classes = specification.input.channels, len(specification.classes)
    fresh = build(specification.network, channels=channels, classes=classes, weights=None)
    told, same = [], True
    for name in ("mean", "std"):
        ours, theirs = getattr(stored, name).flatten(), getattr(fresh, name).flatten()
        same &= torch.equal(ours, theirs)
        told.append(f"{name} {ours.tolist()}, {specification.network.architecture} has")
        told[-1] += f" {theirs.tolist()}"
    detail = "; ".join(told) + ("" if same else ": the normalisation is stale")
    show(Check("normalisation", same, detail))


def test_answers_are_the_same_one_by_one_and_in_a_batch(
    case: Case, show: Callable[..., None]
) -> None:
    few = case.candidate.pixels[:16]
    graph = onnxruntime.InferenceSession(case.candidate.bundle.graph)  # the engine asks for one
    if graph.get_inputs()[0].shape[0] == 1:
        show(Check("batch", True, "the graph takes one picture at a time"))
        return
    (together,) = graph.run(["probabilities"], {INPUT: np.ascontiguousarray(few)})
    gap = float(np.abs(together - case.candidate.engine(few).probabilities).max())
    show(Check("batch", gap <= case.limits.parity_gap, f"largest gap {gap:.1e}"))
