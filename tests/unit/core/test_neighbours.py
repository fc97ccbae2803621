import numpy as np
import pytest

from pulmo.core.neighbours import directions, distances


def test_the_kth_nearest_direction_counts_and_length_does_not() -> None:
    reference = directions(np.array([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]]))
    asked = np.array([[5.0, 0.0], [0.0, 0.0]], dtype=np.float32)
    assert distances(asked, reference, 1).tolist() == [0.0, 1.0]
    assert distances(asked, reference, 3).tolist() == [2.0, 1.0]
    assert distances(asked[:0], reference, 1).shape == (0,)


def test_the_reference_s_own_rows_of_one_patient_do_not_count() -> None:
    embeddings = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=np.float32)
    reference = directions(embeddings)
    alone = distances(embeddings, reference, 1, np.arange(3))
    assert alone == pytest.approx([0.0, 0.0, 1.0])
    assert distances(embeddings, reference, 1, np.array([7, 7, 8])) == pytest.approx([1, 1, 1])
