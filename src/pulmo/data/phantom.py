"""A drawn chest radiograph: pictures to try everything on where no real ones are at hand.

Every value comes from the raw bits of a generator by +, -, ×, ÷ and floor alone, which IEEE 754
fixes, so that the same bytes come out on every machine. Coordinates run from -1 (left, top) to 1.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pulmo.config.schema import PhantomConfig
from pulmo.core.preprocess import Pixels

VERSION = 1
NORMAL, PNEUMONIA = "NORMAL", "PNEUMONIA"

Plane = NDArray[np.float64]

_PATIENT, _VIEW = 0, 1  # what a generator is for: one patient's body, or one exposure of it


class Dice:
    """Uniform numbers from the raw bits of PCG64, whose stream NumPy never changes."""

    def __init__(self, *key: int) -> None:
        self._bits = np.random.PCG64(key)

    def plane(self, height: int, width: int) -> Plane:
        """Numbers in [0, 1) as float64 [height, width]."""
        raw: NDArray[np.uint64] = self._bits.random_raw(height * width)
        return (raw >> np.uint64(11)).astype(np.float64).reshape(height, width) * 2.0**-53

    def roll(self, low: float = 0.0, high: float = 1.0) -> float:
        """One number in [low, high)."""
        return low + (high - low) * float(self.plane(1, 1)[0, 0])


def pictures(config: PhantomConfig) -> Iterator[tuple[str, str, Pixels]]:
    """Class, file name (`p0001_1.png`) and pixels uint8 [size, size] of every picture.

    A patient has one class and one to three pictures. `noise` is the share of hard cases.
    """
    left, patient = config.images, 0
    while left:
        patient += 1
        label = PNEUMONIA if Dice(_PATIENT, patient, 1).roll() < 0.5 else NORMAL
        views = min(left, 1 + int(Dice(_PATIENT, patient, 2).roll(0, 3)))
        for view in range(1, views + 1):
            pixels = draw(patient, view, label == PNEUMONIA, config.size, config.noise)
            yield label, f"p{patient:04}_{view}.png", pixels
        left -= views


def draw(patient: int, view: int, ill: bool, size: int, noise: float) -> Pixels:
    """One exposure of one patient, uint8 [size, size]; every argument changes the picture."""
    body, shot = Dice(_PATIENT, patient, 0), Dice(_VIEW, patient, view)
    x, y = _pose(shot, size)
    trunk, lungs, density = _anatomy(body, x, y)
    density = density + _vessels(shot, x, y, size) * lungs
    density = density + (0.66 - density) * _opacities(body, shot, x, y, ill, noise) * lungs
    return _expose(shot, density * trunk, noise)


def _pose(dice: Dice, size: int) -> tuple[Plane, Plane]:
    steps = (np.arange(size, dtype=np.float64) * 2 + 1) / size - 1
    across, down = np.broadcast_arrays(steps[None, :], steps[:, None])
    half = dice.roll(-0.045, 0.045)  # tangent of half the angle: rotation without a cosine
    cos, sin = (1 - half * half) / (1 + half * half), 2 * half / (1 + half * half)
    zoom = dice.roll(0.93, 1.08)
    shift_x, shift_y = dice.roll(-0.06, 0.06), dice.roll(-0.06, 0.06)
    x = (across * cos - down * sin) * zoom + shift_x
    y = (across * sin + down * cos) * zoom + shift_y
    return x, y


def _anatomy(dice: Dice, x: Plane, y: Plane) -> tuple[Plane, Plane, Plane]:
    """The trunk and the lungs as masks from 0 to 1, and how dense everything is."""
    side = np.abs(x)
    wide, long = dice.roll(0.92, 1.08), dice.roll(0.92, 1.06)
    shoulder = _step(y + 0.96 - 0.55 * _square(side) - 0.10 * side, 0.12)
    trunk = _step(0.97 * wide - side - 0.04 * y, 0.07) * shoulder
    neck = _step(0.27 - side, 0.10) * _step(-0.60 - y, 0.10)
    trunk = np.maximum(trunk, neck)

    apex, arch = dice.roll(-0.80, -0.74), dice.roll(1.2, 1.7)
    floor_left, floor_right = dice.roll(0.34, 0.46), dice.roll(0.40, 0.52)
    lungs = np.zeros_like(x)
    for sign, floor in ((-1.0, floor_left), (1.0, floor_right)):
        u = sign * x / wide
        middle = 0.41 + 0.10 * y
        reach = 0.345 + 0.10 * y
        height = _square((y - 0.04) / (0.80 * long))
        oval = 1 - _square((u - middle) / reach) - 0.45 * height - 0.55 * _square(height)
        dome = floor * long + arch * _square(u - 0.36) - y
        lungs = np.maximum(lungs, _step(oval, 0.32) * _step(dome, 0.07))
    lungs = lungs * _step(y - apex, 0.12)

    density = 0.62 - 0.40 * lungs
    density = density + 0.10 * _step(y - 0.45, 0.5)  # the belly is thick
    heart = _heart(dice, x, y)
    density = density + (0.66 - density) * heart
    lungs = lungs * (1 - 0.75 * heart)
    density = density + _spine(dice, x, y) + _bones(dice, x, y, lungs)
    trachea = _step(0.045 - np.abs(x + 0.01), 0.03) * _step(-0.28 - y, 0.10)
    return trunk, lungs, density - 0.10 * trachea


def _heart(dice: Dice, x: Plane, y: Plane) -> Plane:
    """Heart, great vessels and the knob of the aorta as a mask from 0 to 1."""
    cx, cy = dice.roll(0.09, 0.15), dice.roll(0.24, 0.32)
    rx, ry = dice.roll(0.27, 0.37), dice.roll(0.25, 0.31)
    heart = _step(1 - _square((x - cx + 0.2 * (y - cy)) / rx) - _square((y - cy) / ry), 0.35)
    band = _step(0.135 - np.abs(x - 0.02), 0.06) * _step(0.55 - y, 0.3)
    knob = _step(1 - _square((x - 0.13) / 0.10) - _square((y + 0.24) / 0.11), 0.5)
    return np.maximum(np.maximum(heart, 0.85 * band), 0.6 * knob)


def _spine(dice: Dice, x: Plane, y: Plane) -> Plane:
    bend, pitch = dice.roll(-0.02, 0.02), dice.roll(0.125, 0.145)
    column = _step(0.085 - np.abs(x - bend * y), 0.035)
    disc = np.abs(_fraction(y / pitch) - 0.5) * 2  # 0 within a vertebra, 1 at a disc
    return column * (0.10 - 0.06 * _step(disc - 0.7, 0.2))


def _bones(dice: Dice, x: Plane, y: Plane, lungs: Plane) -> Plane:
    side = np.abs(x)
    gap, start = dice.roll(0.150, 0.175), dice.roll(0.0, 1.0)
    cage = _step(0.83 - side, 0.06) * _step(side - 0.06, 0.04) * _step(0.72 - y, 0.2)
    back = (y - 0.30 * side + 0.55 * _square(side - 0.25)) / gap + start
    front = (y + 0.62 * side - 0.20 * _square(side)) / (1.15 * gap) + start
    strength = dice.roll(0.075, 0.115)
    ribs = strength * _band(back, 0.20) + 0.45 * strength * _band(front, 0.20)
    slope = dice.roll(0.12, 0.24)
    clavicle = y + 0.66 + slope * (side - 0.1) - 0.35 * _square(side - 0.4)
    collar = _step(0.032 - np.abs(clavicle), 0.02) * _step(0.75 - side, 0.1)
    collar = collar * _step(side - 0.07, 0.03)
    return ribs * cage * (0.35 + 0.65 * lungs) + 0.16 * collar


def _vessels(dice: Dice, x: Plane, y: Plane, size: int) -> Plane:
    """Branching vessels are told by noise that is strong at the hilum and fades outwards."""
    far = _square((np.abs(x) - 0.16) / 0.30) + _square((y + 0.02) / 0.42)
    texture = _cloud(dice, size, 12) + 0.8 * _cloud(dice, size, 26)
    hilum = dice.roll(0.05, 0.11) / (1 + 3 * _square(far))
    return hilum + texture * (0.045 + 0.14 / (1 + far))


def _opacities(
    body: Dice, shot: Dice, x: Plane, y: Plane, ill: bool, noise: float
) -> Plane:  # fmt: skip
    """Consolidations of the ill; and of the well, now and then, a shadow that looks like one."""
    hard = body.roll() < noise
    count = 2 + int(body.roll(0, 3))
    strength = body.roll(0.50, 0.80) if hard else body.roll(0.80, 1.10)
    if not ill:
        count, strength = 1, (body.roll(0.05, 0.25) if hard else 0.0)
    total = np.zeros_like(x)
    for _ in range(count):
        sign = -1.0 if body.roll() < 0.5 else 1.0
        cx, cy = sign * body.roll(0.24, 0.56), body.roll(-0.35, 0.42)
        rx, ry = body.roll(0.20, 0.36), body.roll(0.20, 0.40)
        spot = _step(1 - _square((x - cx) / rx) - _square((y - cy) / ry), 0.60)
        total = np.maximum(total, spot * body.roll(0.7, 1.0))
    patchy = 0.85 + 0.6 * _cloud(shot, x.shape[0], 9)
    return np.minimum(strength * total * patchy, 1.0)


def _expose(dice: Dice, density: Plane, noise: float) -> Pixels:
    size = density.shape[0]
    gain, offset = dice.roll(0.86, 1.10), dice.roll(-0.03, 0.05)
    bow = dice.roll(-0.35, 0.45)  # the curve of the film
    signal = np.clip(density * gain + offset, 0.0, 1.0)
    signal = signal + bow * signal * (1 - signal) * 0.6
    grain = sum(dice.plane(size, size) for _ in range(3)) - 1.5  # nearly normal, variance 1/4
    signal = signal + grain * (0.02 + 0.04 * noise)
    return np.floor(np.clip(signal, 0.0, 1.0) * 255 + 0.5).astype(np.uint8)


def _cloud(dice: Dice, size: int, cells: int) -> Plane:
    """Smooth noise in [-0.5, 0.5]: a coarse grid of numbers, joined by smooth steps."""
    grid = dice.plane(cells + 1, cells + 1) - 0.5
    place = (np.arange(size, dtype=np.float64) + 0.5) * cells / size
    cell = np.floor(place).astype(np.int64)
    t = place - cell
    t = t * t * (3 - 2 * t)
    rows = grid[cell] * (1 - t)[:, None] + grid[cell + 1] * t[:, None]
    joined: Plane = rows[:, cell] * (1 - t)[None, :] + rows[:, cell + 1] * t[None, :]
    return joined


def _band(phase: Plane, width: float) -> Plane:
    """A soft stripe of this relative width around every whole number of `phase`."""
    return _step(width - np.abs(_fraction(phase) - 0.5), 0.6 * width)


def _fraction(values: Plane) -> Plane:
    fraction: Plane = values - np.floor(values)
    return fraction


def _step(distance: Any, soft: float) -> Plane:
    """0 below 0, 1 above `soft`, smooth between."""
    t = np.clip(distance / soft, 0.0, 1.0)
    step: Plane = t * t * (3 - 2 * t)
    return step


def _square(values: Plane) -> Plane:
    return values * values
