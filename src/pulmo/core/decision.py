"""From a graph's outputs to answers: label, accept or refer, and why. Nothing else decides."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pulmo.core.bundle import OutlierSpec, Specification, sha256
from pulmo.core.neighbours import directions, distances
from pulmo.errors import DataError, ModelError

Array = NDArray[np.float32]
Indices = NDArray[np.int64]

_ROUNDING = 1e-3  # how far a row of float32 probabilities may be from a sum of one


@dataclass(frozen=True)
class Outputs:
    """What a graph returns for N pictures; None where the network has no such output."""

    probabilities: Array  # [N, K], 0..1
    logits: Array  # [N, K]
    embedding: Array | None = None  # [N, D]
    saliency: Array | None = None  # [N, K, h, w]


@dataclass(frozen=True)
class Answer:
    """The answer for one picture.

    Out of distribution there is no label: `label` and `class_index` are None and `probability` is
    that of the class the model leans to. `distance` is None where the model has no outlier limit.
    """

    label: str | None
    class_index: int | None
    probability: float
    probabilities: tuple[float, ...]
    decision: Literal["accept", "refer"]
    reasons: tuple[str, ...]
    distance: float | None


def labels_of(probabilities: NDArray[np.floating], spec: Specification) -> Indices:
    """The class index int64 [N] that the decision rule answers for probabilities [N, K]."""
    positive, threshold = positive_index(spec), spec.decision.threshold
    if positive is None or threshold is None:
        largest: Indices = np.argmax(probabilities, axis=1).astype(np.int64)
        return largest
    scores = probabilities[:, positive].astype(np.float64)  # float32 would round the threshold
    return np.where(scores >= threshold, positive, 1 - positive).astype(np.int64)


def positive_index(spec: Specification) -> int | None:
    """The index of the class that a threshold looks for, None where the largest one wins."""
    decision = spec.decision
    if decision.rule == "argmax" or decision.positive is None:
        return None
    return spec.classes.index(decision.positive)


def fit_outliers(
    embeddings: NDArray[np.floating],
    neighbours: int,
    share: float,
    groups: NDArray[Any] | None = None,
) -> tuple[OutlierSpec, NDArray[np.float16]]:
    """The outlier limit and the reference to store, from validation embeddings [n, D].

    The limit is the (1 - share) quantile of each picture's distance to its k-th nearest other
    picture; with `groups` [n] only pictures of other patients count, as a new patient has no
    picture in the reference. Raises DataError where too few others are left.
    """
    if not np.isfinite(embeddings).all() or np.abs(embeddings).max(initial=0) > 6e4:
        raise DataError("the validation embeddings are not finite or too large for float16")
    reference = np.ascontiguousarray(embeddings, dtype=np.float16)
    own = np.arange(len(reference)) if groups is None else np.asarray(groups)
    require_others(own, neighbours)
    found = distances(embeddings.astype(np.float32), directions(reference), neighbours, own)
    limit = float(np.quantile(found, 1 - share, method="higher"))
    digest = sha256(reference.tobytes())
    spec = OutlierSpec(neighbours=neighbours, limit=round(limit, 6), reference=digest)
    return spec, reference


def require_others(groups: NDArray[Any], neighbours: int) -> None:
    """Raise DataError where a picture of `groups` [n] has fewer of other patients than that."""
    others = len(groups) - int(np.unique(groups, return_counts=True)[1].max(initial=0))
    if others < neighbours:
        raise DataError(
            f"{len(groups)} validation pictures leave {others} of other patients to compare with; "
            f"lower decision.neighbours ({neighbours}) or add pictures"
        )


class Decider:
    """The decision rules of one bundle, ready to answer.

    `reference` is `embeddings` float16 [n, D] of the bundle's reference.npz, needed where the
    specification has outlier limits. Raises ModelError if it is not the one they were made with.
    """

    def __init__(self, spec: Specification, reference: NDArray[np.float16] | None) -> None:
        self.spec = spec
        self._reference: Array | None = None
        if spec.outliers is not None:
            self._reference = directions(_checked(reference, spec.outliers))

    def answers(self, outputs: Outputs) -> list[Answer]:
        """One answer a picture. Raises ModelError for outputs no sound graph returns."""
        rows = self._checked(outputs)
        far = self._outlying(outputs.embedding, len(rows))
        labels = labels_of(outputs.probabilities, self.spec).tolist()
        return [
            self._answer(row, label, distance)
            for row, label, distance in zip(rows, labels, far, strict=True)
        ]

    def _answer(
        self, probabilities: tuple[float, ...], index: int, distance: float | None
    ) -> Answer:
        outliers = self.spec.outliers
        if outliers is not None and distance is not None and distance > outliers.limit:
            reason = (
                "the picture is unlike those the model was trained on "
                f"(distance {distance:.3f}, limit {outliers.limit:.3f})"
            )
            top = max(probabilities)
            return Answer(None, None, top, probabilities, "refer", (reason,), distance)
        doubt = _doubt(probabilities, self.spec)
        return Answer(
            label=self.spec.classes[index],
            class_index=index,
            probability=probabilities[index],
            probabilities=probabilities,
            decision="refer" if doubt else "accept",
            reasons=doubt,
            distance=distance,
        )

    def _checked(self, outputs: Outputs) -> list[tuple[float, ...]]:
        """The probabilities, row by row. Raises ModelError."""
        probabilities, classes = outputs.probabilities, len(self.spec.classes)
        if probabilities.ndim != 2 or probabilities.shape[1] != classes:
            raise ModelError(
                f"the graph returned probabilities of shape {probabilities.shape} for {classes} "
                "classes: its bundle.json describes another graph"
            )
        rows = [tuple(row) for row in probabilities.tolist()]
        sound = all(min(row) >= 0 and abs(sum(row) - 1) <= _ROUNDING for row in rows)
        if not sound or not np.isfinite(outputs.logits).all():
            raise ModelError(
                "the graph returned probabilities that are not finite or do not sum to one: "
                "the model is damaged, use another version"
            )
        return rows

    def _outlying(self, embedding: Array | None, n: int) -> Sequence[float | None]:
        outliers = self.spec.outliers
        if outliers is None or self._reference is None:
            return [None] * n
        fits = embedding is not None and embedding.shape == (n, self._reference.shape[1])
        if embedding is None or not fits:
            raise ModelError("the graph returned no embedding that fits the bundle's reference")
        found: list[float] = distances(embedding, self._reference, outliers.neighbours).tolist()
        if not all(map(math.isfinite, found)):
            raise ModelError("the graph returned an embedding that is not finite")
        return found


def _doubt(probabilities: tuple[float, ...], spec: Specification) -> tuple[str, ...]:
    """Why a human should look, in words; empty where the answer stands."""
    decision, positive = spec.decision, positive_index(spec)
    score = max(probabilities) if positive is None else probabilities[positive]
    if not decision.refer_low <= score < decision.refer_high:
        return ()
    if positive is None:
        return (
            f"the largest probability, {score:.3f}, lies below {decision.refer_high:.3f}, "
            "where a human decides",
        )
    return (
        f"the probability of {decision.positive}, {score:.3f}, lies between "
        f"{decision.refer_low:.3f} and {decision.refer_high:.3f}, where a human decides",
    )


def _checked(reference: NDArray[np.float16] | None, outliers: OutlierSpec) -> NDArray[np.float16]:
    if reference is None or reference.dtype != np.float16 or reference.ndim != 2:
        raise ModelError("the bundle has outlier limits but no float16 reference embeddings")
    if sha256(np.ascontiguousarray(reference).tobytes()) != outliers.reference:
        raise ModelError("the reference embeddings are not those the outlier limits were made with")
    if len(reference) < outliers.neighbours or not np.isfinite(reference).all():
        raise ModelError("the reference embeddings are too few or not finite")
    return reference
