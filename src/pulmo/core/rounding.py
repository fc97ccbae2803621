"""Convolutions in whole numbers: ranges for their inputs, and weights that make good what is lost.

Weights are first fitted to what the layer should say of inputs that are rounded already, then
rounded one input after the other, so that what is lost at one is made up for at those still to come
(GPTQ, Frantar et al. 2022, arXiv:2210.17323).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Array = NDArray[np.float32]
Doubles = NDArray[np.float64]

LEVELS = 127  # weights are from minus this to this
_BYTE = 255
_CHUNK = 8  # pictures that are looked at together
_ENOUGH = 400  # places for each input of a convolution; more are left out
_RIDGE = 0.02  # of the mean square of an input: what holds fitted weights near those they were
_DAMP = 0.01  # the same, for rounding
_SAMPLE = 400_000  # values that a range is chosen for
_LEAST = 1e-8
_STRETCH = 4.0
_MARGIN = 1.2


@dataclass(frozen=True)
class Codes:
    """How floats become bytes: value = scale * (byte - zero)."""

    scale: float
    zero: int

    @classmethod
    def of(cls, values: Array) -> "Codes":
        """The range that rounds values with the least square error; it holds zero."""
        flat = values.reshape(-1)
        flat = flat[:: max(1, flat.size // _SAMPLE)]
        low, high = min(float(flat.min()), 0.0), max(float(flat.max()), _LEAST)
        tried = []
        for part in np.linspace(0.5, 1, 21):
            scale = float(np.float32((high - low) * part / _BYTE))
            codes = cls(scale, round(-low * part / scale))
            tried.append((float(np.square(codes.rounded(flat) - flat).mean()), codes))
        return min(tried, key=lambda one: one[0])[1]

    def rounded(self, values: Array) -> Array:
        """Floats as they are once they were bytes."""
        codes = np.clip(np.rint(values / self.scale) + self.zero, 0, _BYTE) - self.zero
        found: Array = (codes * self.scale).astype(np.float32)
        return found


@dataclass(frozen=True)
class Bytes:
    """Maps as bytes: channels are made `by` [c] times as large, and then what `codes` say."""

    codes: Codes
    by: Array

    @classmethod
    def of(cls, maps: Array) -> "Bytes":
        """The bytes that hold maps [n, c, h, w] best."""
        by = stretch(maps)
        return cls(Codes.of(maps * by[:, None, None]), by)


@dataclass(frozen=True)
class Convolution:
    """A convolution as ONNX has it: weights [o, i, k, l], bias [o], paddings top, left, bottom and
    right; what comes out is held between `low` and `high`.
    """

    weight: Array
    bias: Array
    groups: int = 1
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    low: float = -np.inf
    high: float = np.inf

    def windows(self, maps: Array, step: int = 1) -> Array:
        """What outputs are made of: [n, c, h, w] → [groups, places, inputs], of the places of an
        output every `step`-th a side.
        """
        top, left, bottom, right = self.pads
        padded = np.pad(maps, ((0, 0), (0, 0), (top, bottom), (left, right)))
        k, m = self.weight.shape[2:]
        seen = sliding_window_view(padded, (k, m), axis=(2, 3))
        seen = seen[:, :, :: self.strides[0] * step, :: self.strides[1] * step]
        n, c, h, w = seen.shape[:4]
        parted = seen.reshape(n, self.groups, c // self.groups, h, w, k, m)
        moved = parted.transpose(1, 0, 3, 4, 2, 5, 6)
        found: Array = moved.reshape(self.groups, n * h * w, c // self.groups * k * m)
        return found

    def places(self, outputs: Array, step: int = 1) -> Array:
        """Outputs [n, o, h, w] in the order of `windows`: [groups, places, outputs of a group]."""
        outputs = outputs[:, :, ::step, ::step]
        n, o, h, w = outputs.shape
        parted = outputs.reshape(n, self.groups, o // self.groups, h, w).transpose(1, 0, 3, 4, 2)
        found: Array = parted.reshape(self.groups, n * h * w, o // self.groups)
        return found

    def stretch(self, outputs: Array) -> Array:
        """As `stretch` of outputs [n, o, h, w] within their bounds: [o]."""
        return stretch(np.clip(outputs, self.low, self.high))

    def stretched(self, inputs: Array | None, outputs: Array | None) -> "Convolution":
        """The same for channels of inputs and outputs that are so much larger; a bounded output is
        then bounded by none but its codes.
        """
        weight, bias = self.weight, self.bias
        if inputs is not None:
            each = inputs.reshape(self.groups, 1, -1, 1, 1)
            weight = (weight.reshape(self.groups, -1, *weight.shape[1:]) / each).reshape(
                weight.shape
            )
        if outputs is not None:
            weight, bias = weight * outputs[:, None, None, None], bias * outputs
        return replace(self, weight=weight, bias=bias)


@dataclass(frozen=True)
class Rounded:
    """A convolution in whole numbers: weights are `codes` int8 [o, i, k, l] times `scales` [o], and
    with `bias` [o] their mean error is none. `outputs` are some of what comes out.
    """

    codes: NDArray[np.int8]
    scales: Array
    bias: Array
    outputs: Array


def stretch(maps: Array) -> Array:
    """By how much each channel of maps [n, c, h, w] can be larger, so that all of them reach as far
    as the largest one: [c].
    """
    reach = np.abs(maps).max(axis=(0, 2, 3))
    least = max(float(reach.max()), _LEAST) / _STRETCH
    found: Array = (reach.max() / np.maximum(reach * _MARGIN, least)).astype(np.float32)
    return np.maximum(found, 1)


def fit(layer: Convolution, maps: Array, wanted: Array) -> Rounded:
    """Whole numbers for a layer so that `maps` [n, c, h, w] give nearly `wanted` [n, o, h, w]."""
    outputs, inputs = len(layer.weight) // layer.groups, layer.weight[0].size
    moments, shared, seen, said = _sums(layer, maps, wanted)
    present = layer.weight.reshape(layer.groups, outputs, inputs).astype(np.float64)
    ridge = _diagonal(moments, _RIDGE)
    aim = shared + ridge @ present.transpose(0, 2, 1)
    best = np.linalg.solve(moments + ridge, aim).transpose(0, 2, 1).astype(np.float64)
    codes, scales = rounded(best, moments)
    weights = (codes * scales[:, :, None]).transpose(0, 2, 1)
    bias = said - (seen[:, None] @ weights)[:, 0]
    some = layer.windows(maps[:: max(1, wanted.size // _SAMPLE)])
    made = some @ weights.astype(np.float32) + bias[:, None].astype(np.float32)
    return Rounded(
        codes=codes.reshape(layer.weight.shape).astype(np.int8),
        scales=scales.reshape(-1).astype(np.float32),
        bias=bias.reshape(-1).astype(np.float32),
        outputs=np.clip(made, layer.low, layer.high),
    )


def rounded(weights: Doubles, moments: Doubles) -> tuple[Doubles, Doubles]:
    """Weights [g, o, i] as whole numbers within ±LEVELS, and the scale of each output [g, o].

    `moments` [g, i, i] say how inputs vary together: which can make up for another one.
    """
    power: Doubles = moments.diagonal(axis1=1, axis2=2)
    scales = _scales(weights, power)
    order = np.argsort(-power.mean(axis=0), kind="stable")
    left = weights[:, :, order].copy()
    damped = (moments + _diagonal(moments, _DAMP))[:, order][:, :, order]
    factor = np.linalg.cholesky(np.linalg.inv(damped)).transpose(0, 2, 1)
    codes = np.empty_like(left)
    for i in range(left.shape[2]):
        codes[:, :, i] = np.clip(np.rint(left[:, :, i] / scales), -LEVELS, LEVELS)
        lost = (left[:, :, i] - codes[:, :, i] * scales) / factor[:, i, i, None]
        left[:, :, i + 1 :] -= lost[:, :, None] * factor[:, None, i, i + 1 :]
    return codes[:, :, np.argsort(order)], scales


def _sums(
    layer: Convolution, maps: Array, wanted: Array
) -> tuple[Doubles, Doubles, Doubles, Doubles]:
    """Over places: how inputs vary together [g, i, i], and with outputs [g, i, o]; the means of
    inputs [g, i] and outputs [g, o], which the bias takes care of.
    """
    groups, inputs = layer.groups, layer.weight[0].size
    outputs = len(layer.weight) // groups
    moments, shared = np.zeros((groups, inputs, inputs)), np.zeros((groups, inputs, outputs))
    seen, said, count = np.zeros((groups, inputs)), np.zeros((groups, outputs)), 0
    for given, told in _chunks(layer, maps, wanted):
        turned = given.transpose(0, 2, 1)
        moments += turned @ given
        shared += turned @ told
        seen += given.sum(axis=1, dtype=np.float64)
        said += told.sum(axis=1, dtype=np.float64)
        count += given.shape[1]
    seen, said = seen / count, said / count
    moments = moments / count - seen[:, :, None] * seen[:, None]
    return moments, shared / count - seen[:, :, None] * said[:, None], seen, said


def _chunks(layer: Convolution, maps: Array, wanted: Array) -> Iterator[tuple[Array, Array]]:
    places = wanted.size / len(layer.weight)
    step = max(1, int((places / (_ENOUGH * layer.weight[0].size)) ** 0.5))
    for start in range(0, len(maps), _CHUNK):
        part = slice(start, start + _CHUNK)
        yield layer.windows(maps[part], step), layer.places(wanted[part], step)


def _diagonal(moments: Doubles, share: float) -> Doubles:
    """A share of the mean square of the inputs of each group, on the diagonal."""
    mean = moments.trace(axis1=1, axis2=2) / moments.shape[-1]
    found: Doubles = np.eye(moments.shape[-1]) * np.maximum(share * mean, _LEAST)[:, None, None]
    return found


def _scales(weights: Doubles, power: Doubles) -> Doubles:
    """The scale of each output [g, o] that rounds its weights with the least error, where inputs
    count as their mean squares [g, i] say.
    """
    largest = np.maximum(np.abs(weights).max(axis=2), _LEAST)
    tried: list[tuple[NDArray[Any], Doubles]] = []
    for part in np.linspace(0.6, 1, 17):
        scales = (largest * part / LEVELS).astype(np.float32).astype(np.float64)
        codes = np.clip(np.rint(weights / scales[:, :, None]), -LEVELS, LEVELS)
        errors = np.square(codes * scales[:, :, None] - weights) * power[:, None]
        tried.append((errors.sum(axis=2), scales))
    best = np.stack([errors for errors, _ in tried]).argmin(axis=0)
    every = np.stack([scales for _, scales in tried])
    found: Doubles = np.take_along_axis(every, best[None], axis=0)[0]
    return found
