"""Figures of drift: real pictures, equal numbers give equal bytes, and colours say what moved."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image
from samples import blind, make_sample

from pulmo.core.drift import judge
from pulmo.jobs import drift_plots
from pulmo.jobs.plots import BLUE, ORANGE, RED

REFERENCE = make_sample(60, 0)
QUIET, MOVED = make_sample(40, 1), make_sample(40, 1, shift=2)
REPORTS = {"quiet": judge(REFERENCE, QUIET), "moved": judge(REFERENCE, MOVED)}
EVIDENCE = np.geomspace(1, 1e7, 5000)

DRAWN: dict[str, Callable[[], bytes]] = {
    "findings": lambda: drift_plots.findings(REPORTS["quiet"]),
    "values": lambda: drift_plots.values(REFERENCE, QUIET, REPORTS["quiet"]),
    "values of answers alone": lambda: drift_plots.values(
        blind(REFERENCE), blind(QUIET), judge(blind(REFERENCE), blind(QUIET))
    ),
    "likeness": lambda: drift_plots.likeness(REFERENCE, QUIET),
    "timeline": lambda: drift_plots.timeline(EVIDENCE[:90], 1e5, None, [REPORTS["quiet"]] * 2),
}


def share(png: bytes, colour: str) -> float:
    image = Image.open(io.BytesIO(png)).convert("RGB")
    wanted = tuple(bytes.fromhex(colour[1:]))
    return float((np.asarray(image) == wanted).all(axis=-1).mean())


@pytest.mark.parametrize("name", DRAWN)
def test_a_figure_is_a_picture_and_the_same_twice(name: str) -> None:
    png = DRAWN[name]()
    assert png == DRAWN[name]()
    assert b"Software" not in png
    if name != "likeness":  # its dots shine through
        assert share(png, BLUE) > 0.0003
    assert (share(png, ORANGE) > 0.0002) == name.startswith("values")
    assert share(png, RED) < 0.0001


def test_what_moved_is_red() -> None:
    assert share(drift_plots.findings(REPORTS["moved"]), RED) > 0.001
    assert share(drift_plots.values(REFERENCE, MOVED, REPORTS["moved"]), RED) > 0.0005
    reports = [REPORTS["quiet"], REPORTS["moved"]]
    assert share(drift_plots.timeline(EVIDENCE, 1e5, 3600, reports), RED) > 0.0005


def test_embeddings_are_drawn_where_both_sides_have_them() -> None:
    assert drift_plots.has_map(REFERENCE, QUIET, REPORTS["quiet"])
    assert not drift_plots.has_map(REFERENCE, blind(QUIET), judge(REFERENCE, blind(QUIET)))
