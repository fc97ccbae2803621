"""Outputs to answers: the rule, the refer band, what is out of distribution."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pulmo.core.bundle import DecisionSpec, NetworkSpec, OutlierSpec, Specification, sha256
from pulmo.core.decision import Decider, Outputs, fit_outliers, labels_of, positive_index
from pulmo.core.preprocess import InputSpec
from pulmo.errors import DataError, ModelError

BINARY = DecisionSpec(
    rule="threshold", positive="SICK", threshold=0.3, refer_low=0.2, refer_high=0.45
)
LARGEST = DecisionSpec(rule="argmax", refer_low=0.0, refer_high=0.5)


def _spec(decision: DecisionSpec, *classes: str, outliers: OutlierSpec | None = None) -> Any:
    return Specification(
        classes=classes or ("WELL", "SICK"),
        input=InputSpec(height=16, width=16, channels=1),
        network=NetworkSpec(architecture="toy"),
        outputs=("probabilities", "logits", "embedding"),
        temperature=1.0,
        decision=decision,
        outliers=outliers,
    )


def _outputs(rows: list[list[float]], embedding: NDArray[np.float32] | None = None) -> Outputs:
    probabilities = np.array(rows, dtype=np.float32)
    return Outputs(probabilities, np.log(np.abs(probabilities) + 1e-9), embedding)


def _cone(n: int, seed: int = 0) -> NDArray[np.float32]:
    """Embeddings that point about the same way."""
    rng = np.random.default_rng(seed)
    return (np.ones(8) + 0.2 * rng.normal(size=(n, 8))).astype(np.float32)


def test_a_threshold_answers_the_positive_class_from_its_value_up() -> None:
    answers = Decider(_spec(BINARY), None).answers(
        _outputs([[0.9, 0.1], [0.5, 0.5], [0.70, 0.30], [0.75, 0.25]])
    )
    assert [answer.label for answer in answers] == ["WELL", "SICK", "SICK", "WELL"]
    assert [answer.decision for answer in answers] == ["accept", "accept", "refer", "refer"]
    assert [answer.class_index for answer in answers] == [0, 1, 1, 0]
    assert answers[0].probability == pytest.approx(0.9)
    assert answers[2].probability == pytest.approx(0.3)
    assert answers[2].probabilities == pytest.approx((0.7, 0.3))
    assert answers[2].reasons == (
        "the probability of SICK, 0.300, lies between 0.200 and 0.450, where a human decides",
    )
    assert answers[0].reasons == ()
    assert answers[0].distance is None


def test_the_positive_class_may_come_first() -> None:
    spec = _spec(BINARY, "SICK", "WELL")
    assert positive_index(spec) == 0
    probabilities = np.array([[0.31, 0.69], [0.29, 0.71]], dtype=np.float32)
    assert labels_of(probabilities, spec).tolist() == [0, 1]


def test_without_a_threshold_the_most_probable_class_answers() -> None:
    spec = _spec(LARGEST, "a", "b", "c")
    assert positive_index(spec) is None
    sure, unsure = Decider(spec, None).answers(_outputs([[0.2, 0.7, 0.1], [0.3, 0.3, 0.4]]))
    assert (sure.label, sure.decision) == ("b", "accept")
    assert (unsure.label, unsure.decision) == ("c", "refer")
    assert "0.400, lies below 0.500" in unsure.reasons[0]


def test_a_score_is_compared_in_full_precision() -> None:
    third = float(np.float32(0.1)) - 1e-10  # float32 would round it up to the score
    decision = BINARY.model_copy(update={"threshold": third, "refer_low": 0.0, "refer_high": 0.0})
    assert labels_of(np.array([[0.9, 0.1]], dtype=np.float32), _spec(decision)).tolist() == [1]
    above = BINARY.model_copy(update={"threshold": third + 2e-10})
    assert labels_of(np.array([[0.9, 0.1]], dtype=np.float32), _spec(above)).tolist() == [0]


def test_what_is_unlike_the_reference_gets_no_label() -> None:
    outliers, reference = fit_outliers(_cone(200), 5, 0.01)
    decider = Decider(_spec(BINARY, outliers=outliers), reference)
    strange = np.array([1, -1, 1, -1, 1, -1, 1, -1], dtype=np.float32)
    embedding = np.stack([_cone(1, seed=5)[0], strange, np.zeros(8, dtype=np.float32)])
    known, other, empty = decider.answers(_outputs([[0.9, 0.1]] * 3, embedding))
    assert (known.label, known.decision) == ("WELL", "accept")
    assert known.distance is not None
    assert 0 <= known.distance <= outliers.limit
    assert (other.label, other.class_index, other.decision) == (None, None, "refer")
    assert other.probability == pytest.approx(0.9)
    assert "unlike" in other.reasons[0]
    assert empty.label is None
    assert empty.distance == pytest.approx(1.0)


def test_about_the_asked_share_of_new_pictures_is_out_of_distribution() -> None:
    outliers, reference = fit_outliers(_cone(1500), 5, 0.05)
    decider = Decider(_spec(BINARY, outliers=outliers), reference)
    answers = decider.answers(_outputs([[0.9, 0.1]] * 1500, _cone(1500, seed=1)))
    share = sum(answer.label is None for answer in answers) / 1500
    assert 0.03 <= share <= 0.07


def test_the_distance_is_that_to_the_kth_nearest_other() -> None:
    angles = np.radians([0, 10, 30, 60])
    embeddings = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    outliers, reference = fit_outliers(embeddings, 2, 0.2)
    # second nearest other of each: 30°, 20°, 30°, 50°; the 80 % quantile is the largest
    assert outliers.limit == pytest.approx(1 - np.cos(np.radians(50)), abs=1e-3)
    assert outliers.neighbours == 2
    assert reference.dtype == np.float16
    assert outliers.reference == sha256(reference.tobytes())


def test_pictures_of_the_same_patient_are_no_neighbours() -> None:
    pictures = np.repeat(_cone(30), 6, axis=0)
    patients = np.repeat(np.arange(30), 6)
    alone, _ = fit_outliers(pictures, 5, 0.1)
    grouped, _ = fit_outliers(pictures, 5, 0.1, patients)
    assert alone.limit < 1e-3  # each picture has its own copies
    assert grouped.limit > 0.01


def test_a_reference_needs_enough_sound_pictures() -> None:
    with pytest.raises(DataError, match=r"decision\.neighbours \(5\)"):
        fit_outliers(_cone(5), 5, 0.01)
    with pytest.raises(DataError, match="0 of other patients"):
        fit_outliers(_cone(50), 5, 0.01, np.zeros(50))
    broken = _cone(50)
    broken[3, 3] = np.nan
    with pytest.raises(DataError, match="not finite"):
        fit_outliers(broken, 5, 0.01)
    with pytest.raises(DataError, match="float16"):
        fit_outliers(_cone(50) * 1e6, 5, 0.01)


def test_only_the_very_reference_of_the_limits_is_accepted() -> None:
    outliers, reference = fit_outliers(_cone(50), 5, 0.01)
    spec = _spec(BINARY, outliers=outliers)
    with pytest.raises(ModelError, match="not those"):
        Decider(spec, reference * 2)
    with pytest.raises(ModelError, match="no float16 reference"):
        Decider(spec, None)
    with pytest.raises(ModelError, match="no float16 reference"):
        Decider(spec, reference.astype(np.float32))  # type: ignore[arg-type]
    greedy = outliers.model_copy(update={"neighbours": 51})
    with pytest.raises(ModelError, match="too few"):
        Decider(_spec(BINARY, outliers=greedy), reference)


@pytest.mark.parametrize(
    "rows",
    [[[np.nan, 1.0]], [[0.5, 0.6]], [[1.5, -0.5]], [[0.2, 0.3, 0.5]], [[0.0, 0.0]]],
)
def test_outputs_of_no_sound_graph_are_refused(rows: list[list[float]]) -> None:
    with pytest.raises(ModelError):
        Decider(_spec(BINARY), None).answers(_outputs(rows))


def test_logits_and_embeddings_must_be_sound_too() -> None:
    outliers, reference = fit_outliers(_cone(50), 5, 0.01)
    decider = Decider(_spec(BINARY, outliers=outliers), reference)
    good = np.array([[0.5, 0.5]], dtype=np.float32)
    with pytest.raises(ModelError, match="not finite"):
        decider.answers(Outputs(good, np.array([[np.inf, 0]], dtype=np.float32), _cone(1)))
    with pytest.raises(ModelError, match="no embedding"):
        decider.answers(Outputs(good, good, None))
    with pytest.raises(ModelError, match="no embedding"):
        decider.answers(Outputs(good, good, _cone(1)[:, :5]))
    with pytest.raises(ModelError, match="embedding that is not finite"):
        decider.answers(Outputs(good, good, np.full((1, 8), np.nan, dtype=np.float32)))


def test_no_picture_gives_no_answer() -> None:
    nothing = np.zeros((0, 2), dtype=np.float32)
    assert Decider(_spec(BINARY), None).answers(Outputs(nothing, nothing)) == []
