"""Whole numbers lose little, and what one loses the next makes good."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pulmo.core.rounding import LEVELS, Bytes, Codes, Convolution, fit, rounded

RANDOM = np.random.default_rng(0)


@given(arrays(np.float32, 50, elements=st.floats(-100, 100, width=32)))
def test_bytes_hold_zero_and_are_never_further_off_than_the_whole_range(values: np.ndarray) -> None:
    codes = Codes.of(values)
    assert 0 <= codes.zero <= 255
    assert codes.rounded(np.zeros(1, np.float32)).tolist() == [0]
    span = max(values.max(), 0) - min(values.min(), 0)
    error = float(np.square(codes.rounded(values) - values).mean())
    assert error <= (span / 255) ** 2 / 3 + 1e-9  # no worse than rounding over the whole range


def test_one_value_far_away_does_not_take_the_range_of_all_others() -> None:
    values = np.append(RANDOM.uniform(0, 1, 390_000), 1.9).astype(np.float32)
    assert Codes.of(values).scale * 255 < 1.5


@pytest.mark.parametrize(
    ("groups", "strides", "pads", "kernel"),
    [(1, (1, 1), (0, 0, 0, 0), 1), (6, (2, 2), (0, 0, 1, 1), 3), (2, (1, 2), (2, 1, 2, 1), 5)],
)
def test_windows_are_what_a_convolution_multiplies(
    groups: int, strides: tuple[int, int], pads: tuple[int, int, int, int], kernel: int
) -> None:
    maps = RANDOM.normal(size=(3, 6, 9, 8)).astype(np.float32)
    weight = RANDOM.normal(size=(12, 6 // groups, kernel, kernel)).astype(np.float32)
    layer = Convolution(weight, np.zeros(12, np.float32), groups, strides, pads)
    top, left, bottom, right = pads
    padded = torch.nn.functional.pad(torch.from_numpy(maps), (left, right, top, bottom))
    wanted = torch.nn.functional.conv2d(
        padded, torch.from_numpy(weight), stride=strides, groups=groups
    ).numpy()
    inside = weight.reshape(groups, 12 // groups, -1).transpose(0, 2, 1)
    for step in (1, 2):
        made = layer.windows(maps, step) @ inside
        np.testing.assert_allclose(made, layer.places(wanted, step), rtol=1e-4, atol=1e-4)


def test_what_rounding_loses_at_one_input_is_made_up_for_at_the_others() -> None:
    inputs = RANDOM.normal(size=(4000, 20)) + 3 * RANDOM.normal(size=(4000, 1))  # go together
    weights, moments = RANDOM.normal(size=(1, 8, 20)), (inputs.T @ inputs / 4000)[None]
    codes, scales = rounded(weights, moments)
    assert (codes == np.rint(codes)).all()
    assert np.abs(codes).max() <= LEVELS
    plain = np.clip(np.rint(weights / scales[:, :, None]), -LEVELS, LEVELS)
    off, off_plain = (
        np.square(inputs @ (one * scales[:, :, None] - weights)[0].T).mean()
        for one in (codes, plain)
    )
    assert off < off_plain / 2


def test_a_layer_makes_good_what_was_lost_before_it() -> None:
    maps = RANDOM.normal(size=(16, 8, 12, 12)).astype(np.float32)
    weight = RANDOM.normal(size=(4, 8, 1, 1)).astype(np.float32)
    bias = RANDOM.normal(size=4).astype(np.float32)
    layer = Convolution(weight, bias)
    wanted = np.einsum("nchw,oc->nohw", maps, weight[:, :, 0, 0]) + bias[:, None, None]
    worn = 0.9 * maps + 0.2  # what came before has shrunk and moved everything
    found = fit(layer, worn, wanted)
    assert found.codes.dtype == np.int8
    weights = found.codes[:, :, 0, 0] * found.scales[:, None]
    made = np.einsum("nchw,oc->nohw", worn, weights) + found.bias[:, None, None]
    assert np.abs((made - wanted).mean(axis=(0, 2, 3))).max() < 1e-3
    unfitted = np.einsum("nchw,oc->nohw", worn, weight[:, :, 0, 0]) + bias[:, None, None]
    off, off_unfitted = (np.square(one - wanted).mean() for one in (made, unfitted))
    assert off < off_unfitted / 10


def test_weak_channels_are_stretched_as_far_as_is_safe_and_the_next_layer_undoes_it() -> None:
    outputs = np.zeros((2, 3, 4, 4), np.float32)
    outputs[:, 0], outputs[:, 1] = 9.0, 3.0  # the third says nothing
    layer = Convolution(np.ones((3, 2, 1, 1), np.float32), np.ones(3, np.float32), low=0, high=6)
    by = layer.stretch(outputs)
    assert by.tolist() == pytest.approx([1.0, 6 / 3.6, 4.0])
    stretched = layer.stretched(None, by)
    assert stretched.weight[:, 0, 0, 0].tolist() == pytest.approx(by.tolist())
    assert stretched.bias.tolist() == pytest.approx(by.tolist())
    after = Convolution(np.ones((3, 1, 1, 1), np.float32), np.ones(3, np.float32), groups=3)
    undone = after.stretched(by, None)
    assert (undone.weight[:, 0, 0, 0] * by).tolist() == pytest.approx([1, 1, 1])
    assert undone.bias.tolist() == [1, 1, 1]


def test_maps_are_held_in_bytes_with_weak_channels_made_larger() -> None:
    maps = RANDOM.normal(size=(4, 2, 6, 6)).astype(np.float32)
    maps[:, 1] *= 0.01
    held = Bytes.of(maps)
    assert held.by.tolist() == [1, 4]
    larger = maps * held.by[:, None, None]
    off = np.square(held.codes.rounded(larger) / held.by[:, None, None] - maps)
    plain = np.square(Codes.of(maps).rounded(maps) - maps)
    assert off[:, 1].mean() < plain[:, 1].mean() / 10
