"""Pictures as a model saw them: what a window of them and the bundle's reference have in common."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pulmo.core.bundle import Bundle, Specification
from pulmo.core.decision import Outputs, labels_of, positive_index
from pulmo.core.neighbours import directions, distances
from pulmo.core.receipt import Receipt, unpacked
from pulmo.errors import DataError, ModelError

STATISTIC = "stat_"  # how names of picture statistics begin in a bundle's reference

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Sample:
    """n pictures: what the model said of them and, where it is known, how they look.

    `decided` is what the decision rule says of every picture and `score` what it looks at: the
    probability of the positive class, or the largest one. `labels` and `patients` (equal numbers:
    the same one) are known of a reference. Raises DataError for values that are not finite.
    """

    probabilities: Floats  # [n, K]
    score: Floats  # [n]
    decided: Indices  # [n]
    referred: Mask  # [n]
    outlying: Mask | None = None  # [n]; None where the model has no outlier limit
    embeddings: NDArray[np.float32] | None = None  # [n, D]
    statistics: Mapping[str, Floats] = field(default_factory=dict)  # each [n]
    labels: Indices | None = None
    patients: Indices | None = None

    def __post_init__(self) -> None:
        values: list[NDArray[Any]] = [self.probabilities, *self.statistics.values()]
        values += [] if self.embeddings is None else [self.embeddings]
        if any(len(one) != len(self.score) for one in values):
            raise DataError("the pictures' values are not as many as the pictures")
        if not all(np.isfinite(one).all() for one in values):
            raise DataError("the pictures' values are not all finite: their log is damaged")

    def __len__(self) -> int:
        return len(self.score)

    def only(self, rows: NDArray[Any]) -> "Sample":
        """The pictures at `rows`: places int64 [m], or a mask bool [n]."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        named = values.pop("statistics")
        chosen: dict[str, Any] = {
            name: None if value is None else value[rows] for name, value in values.items()
        }
        chosen["statistics"] = {name: value[rows] for name, value in named.items()}
        return Sample(**chosen)


def of_reference(bundle: Bundle) -> Sample:
    """The validation pictures that a bundle remembers.

    A picture is compared with those of other patients; a bundle that knows no patients takes every
    picture for one of its own. Raises ModelError where the bundle remembers none.
    """
    arrays, spec = bundle.reference(), bundle.info.specification
    probabilities, embeddings = arrays["probabilities"], arrays.get("embeddings")
    patients = arrays.get("patients", np.arange(len(probabilities)))
    outlying = None
    if spec.outliers is not None and embeddings is not None:
        known = directions(embeddings)
        far = distances(known, known, spec.outliers.neighbours, patients)
        outlying = far > spec.outliers.limit
    try:
        return _sample(
            spec,
            probabilities,
            outlying,
            None if embeddings is None else embeddings.astype(np.float32),
            {
                name.removeprefix(STATISTIC): values
                for name, values in sorted(arrays.items())
                if name.startswith(STATISTIC)
            },
            arrays["labels"],
            patients,
        )
    except DataError as error:
        raise ModelError(f"{bundle.path}: the reference is damaged: {error}") from error


def of_outputs(
    bundle: Bundle, outputs: Outputs, statistics: Mapping[str, NDArray[np.floating]]
) -> Sample:
    """Pictures that a bundle's graph was just asked about."""
    spec, outlying = bundle.info.specification, None
    if spec.outliers is not None and outputs.embedding is not None:
        known = directions(bundle.reference()["embeddings"])
        far = distances(outputs.embedding, known, spec.outliers.neighbours)
        outlying = far > spec.outliers.limit
    return _sample(spec, outputs.probabilities, outlying, outputs.embedding, statistics)


def of_receipts(spec: Specification, receipts: Sequence[Receipt]) -> Sample:
    """Pictures that a server answered with a model of this specification.

    Embeddings and statistics are known where every receipt holds them. Raises DataError for
    receipts of other classes.
    """
    try:
        rows = [[one.probabilities[name] for name in spec.classes] for one in receipts]
    except KeyError as error:
        raise DataError(f"a receipt does not know the class {error}: it is damaged") from error
    return _sample(
        spec,
        np.array(rows, dtype=np.float64).reshape(-1, len(spec.classes)),
        None if spec.outliers is None else _unlike(receipts),
        _embeddings(receipts),
        _statistics(receipts),
    )


def _unlike(receipts: Sequence[Receipt]) -> Mask:
    return np.array([one.prediction is None for one in receipts], dtype=np.bool_)


def _embeddings(receipts: Sequence[Receipt]) -> NDArray[np.float32] | None:
    found = [unpacked(one.embedding) for one in receipts if one.embedding is not None]
    if len(found) < len(receipts) or not found:
        return None
    if len({len(one) for one in found}) > 1:
        raise DataError("receipts of one model hold embeddings of several lengths: log is damaged")
    return np.stack(found)


def _statistics(receipts: Sequence[Receipt]) -> dict[str, NDArray[np.floating]]:
    known = [one.statistics or {} for one in receipts]
    names = sorted(set.intersection(*(set(one) for one in known))) if known else []
    return {name: np.array([one[name] for one in known]) for name in names}


def _sample(
    spec: Specification,
    probabilities: NDArray[np.floating],
    outlying: Mask | None,
    embeddings: NDArray[np.float32] | None,
    statistics: Mapping[str, NDArray[np.floating]],
    labels: Indices | None = None,
    patients: Indices | None = None,
) -> Sample:
    wide, positive = probabilities.astype(np.float64), positive_index(spec)
    score = wide.max(axis=1, initial=0.0) if positive is None else wide[:, positive]
    doubtful = (score >= spec.decision.refer_low) & (score < spec.decision.refer_high)
    return Sample(
        probabilities=wide,
        score=score,
        decided=labels_of(probabilities, spec),
        referred=doubtful if outlying is None else doubtful | outlying,
        outlying=outlying,
        embeddings=embeddings,
        statistics={name: value.astype(np.float64) for name, value in statistics.items()},
        labels=labels,
        patients=patients,
    )
