"""The phantom is the same everywhere, and its classes differ where they should."""

import hashlib
from collections import defaultdict

import numpy as np
import pytest

from pulmo.config.schema import PhantomConfig
from pulmo.data import phantom

SMALL = PhantomConfig(images=60, size=48)


def test_the_same_bytes_come_out_on_every_machine() -> None:
    drawn = b"".join(pixels.tobytes() for _, _, pixels in phantom.pictures(SMALL))
    assert (
        hashlib.sha256(drawn).hexdigest()
        == "65d9028a58b20082c7c589e557c9b2f35488430338da72c4a2416198a00ad887"
    )


def test_a_patient_has_one_class_and_one_to_three_pictures() -> None:
    found = defaultdict(list)
    for label, name, pixels in phantom.pictures(SMALL):
        assert pixels.shape == (48, 48)
        assert pixels.dtype == np.uint8
        patient, _, view = name.removesuffix(".png").partition("_")
        found[patient].append((label, int(view)))
    assert sum(map(len, found.values())) == 60
    assert len(next(iter(found))) == len("p0001")
    for pictures in found.values():
        assert len({label for label, _ in pictures}) == 1
        assert [view for _, view in pictures] == list(range(1, len(pictures) + 1))
    assert {len(pictures) for pictures in found.values()} == {1, 2, 3}


def test_more_pictures_leave_the_first_ones_as_they_are() -> None:
    few = [(name, p.tobytes()) for _, name, p in phantom.pictures(SMALL)]
    more = PhantomConfig(images=70, size=48)
    assert few[:-3] == [(name, p.tobytes()) for _, name, p in phantom.pictures(more)][:57]


def test_no_two_pictures_are_equal() -> None:
    assert len({p.tobytes() for _, _, p in phantom.pictures(SMALL)}) == 60


def test_both_classes_are_about_as_frequent() -> None:
    ill = [phantom.Dice(0, patient, 1).roll() < 0.5 for patient in range(1, 2001)]
    assert sum(ill) / 2000 == pytest.approx(0.5, abs=0.04)


def test_illness_makes_the_lungs_denser_and_leaves_the_rest_alone() -> None:
    for patient in range(1, 6):
        well = phantom.draw(patient, 1, False, 64, 0.0).astype(int)
        ill = phantom.draw(patient, 1, True, 64, 0.0).astype(int)
        assert ill.mean() > well.mean() + 1
        np.testing.assert_array_equal(ill[-6:], well[-6:])


def test_noise_makes_the_classes_more_alike() -> None:
    def gap(noise: float) -> float:
        pairs = [
            phantom.draw(p, 1, True, 48, noise).mean() - phantom.draw(p, 1, False, 48, noise).mean()
            for p in range(1, 21)
        ]
        return float(np.mean(pairs))

    assert gap(1.0) < 0.8 * gap(0.0)
