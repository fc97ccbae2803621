"""Corruptions: the same pixels for the same key, and more of them with every severity."""

import numpy as np
import pytest

from pulmo.core.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from pulmo.core.preprocess import Pixels


@pytest.fixture
def picture() -> Pixels:
    """A smooth picture with a fine pattern: uint8 [1, 64, 64]."""
    y, x = np.mgrid[0:64, 0:64]
    waves = 128 + 60 * np.sin(x / 9) * np.cos(y / 7) + 20 * np.sin(x * y / 40)
    return waves.astype(np.uint8)[None]


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_grows_with_its_severity_and_repeats_itself(
    name: str, picture: Pixels
) -> None:
    before = picture.copy()
    changed = [corrupt(picture, name, severity, 7) for severity in SEVERITIES]
    apart = [np.abs(one.astype(int) - picture.astype(int)).mean() for one in changed]
    assert 0 < apart[0] < apart[4]
    assert apart[4] == max(apart)
    assert all(one.shape == picture.shape and one.dtype == np.uint8 for one in changed)
    np.testing.assert_array_equal(corrupt(picture, name, 3, 7), changed[2])
    np.testing.assert_array_equal(picture, before)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_colour_pictures_keep_their_shape(name: str, picture: Pixels) -> None:
    colour = np.concatenate([picture, picture[:, ::-1], 255 - picture])
    assert corrupt(colour, name, 5, 1).shape == (3, 64, 64)


def test_noise_has_the_strength_it_claims_and_differs_by_picture() -> None:
    flat = np.full((1, 128, 128), 128, dtype=np.uint8)
    first, second = (corrupt(flat, "noise", 1, key).astype(float) for key in (1, 2))
    assert first.std() / 255 == pytest.approx(0.04, rel=0.05)
    assert first.mean() == pytest.approx(128, abs=0.5)
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.05


def test_exposure_goes_both_ways(picture: Pixels) -> None:
    for name in ("brightness", "gamma"):
        shifts = [corrupt(picture, name, 4, key).mean() - picture.mean() for key in range(40)]
        assert {shift > 0 for shift in shifts} == {True, False}
        assert min(map(abs, shifts)) > 10


def test_contrast_keeps_the_mean(picture: Pixels) -> None:
    found = corrupt(picture, "contrast", 5, 0)
    assert found.mean() == pytest.approx(picture.mean(), abs=1)
    assert found.std() == pytest.approx(0.2 * picture.std(), rel=0.05)
