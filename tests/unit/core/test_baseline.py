"""The simplest model: it finds a line where there is one, and nothing where there is none."""

import numpy as np
import pytest

from pulmo.core import baseline, metrics


@pytest.mark.parametrize("shape", [(1, 40, 50), (3, 16, 16), (1, 8, 9)])
def test_a_thumbnail_keeps_the_mean_of_its_tiles(shape: tuple[int, int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, *shape), dtype=np.uint8)
    pixels[1] = 51
    small = baseline.thumbnails(pixels)
    side = [min(16, n) for n in shape[1:]]
    assert small.shape == (3, shape[0] * side[0] * side[1])
    assert small[1] == pytest.approx(0.2)
    if all(n % 16 == 0 for n in shape[1:]):
        assert small.mean() == pytest.approx(pixels.mean() / 255)


def test_the_first_tile_is_the_mean_of_the_corner() -> None:
    pixels = np.zeros((300, 1, 32, 32), dtype=np.uint8)
    pixels[299, 0, :2, :2] = [[0, 255], [255, 0]]
    small = baseline.thumbnails(pixels)
    assert small[299, 0] == pytest.approx(0.5)
    assert small.sum() == pytest.approx(0.5)


def test_a_line_ranks_what_a_line_can_tell() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, 400)
    features = rng.normal(size=(400, 6)) + 2 * np.eye(6)[labels]
    line = baseline.fit(features[:300], labels[:300], 3)
    found = metrics.auroc(labels[300:], line.scores(features[300:]), None)
    assert found is not None
    assert found > 0.9
    other = baseline.fit(rng.normal(size=(300, 6)), labels[:300], 3)
    chance = metrics.auroc(labels[300:], other.scores(rng.normal(size=(100, 6))), None)
    assert chance is not None
    assert chance < 0.7


def test_a_rare_class_weighs_as_much_as_a_common_one() -> None:
    features = np.concatenate([np.full((95, 1), -1.0), np.full((5, 1), 1.0)])
    labels = np.array([0] * 95 + [1] * 5)
    scores = baseline.fit(features, labels, 2).scores(np.array([[-1.0], [1.0]]))
    assert scores.argmax(axis=1).tolist() == [0, 1]
