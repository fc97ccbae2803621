"""Picture statistics, on pictures whose values are known."""

import numpy as np

from pulmo.core.statistics import picture_statistics


def test_a_flat_picture_has_its_brightness_and_nothing_else() -> None:
    found = picture_statistics(np.full((1, 1, 4, 4), 102, dtype=np.uint8))
    assert {name: round(float(value[0]), 6) for name, value in found.items()} == {
        "brightness": 0.4,
        "contrast": 0.0,
        "dark": 0.0,
        "bright": 0.0,
        "sharpness": 0.0,
    }


def test_half_black_half_white_is_dark_and_bright_and_has_one_edge() -> None:
    picture = np.zeros((1, 3, 4, 4), dtype=np.uint8)
    picture[..., 2:] = 255
    found = {name: float(value[0]) for name, value in picture_statistics(picture).items()}
    assert found["brightness"] == found["contrast"] == 0.5
    assert found["dark"] == found["bright"] == 0.5
    np.testing.assert_allclose(found["sharpness"], (1 / 3) / 2, rtol=1e-6)


def test_every_statistic_has_one_value_a_picture() -> None:
    pictures = np.zeros((5, 1, 8, 6), dtype=np.uint8)
    assert {v.shape for v in picture_statistics(pictures).values()} == {(5,)}
    assert {v.dtype for v in picture_statistics(pictures).values()} == {np.dtype(np.float32)}
