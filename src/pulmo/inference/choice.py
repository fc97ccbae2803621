"""Which engine runs a graph: the one that was measured to be faster on this very machine."""

import time
from typing import Literal

import numpy as np

from pulmo.core.bundle import Bundle, Specification
from pulmo.core.decision import Outputs
from pulmo.core.preprocess import InputSpec, Pixels
from pulmo.errors import ConfigError, ModelError
from pulmo.inference.engine import Engine
from pulmo.inference.openvino import installed, openvino
from pulmo.logs import get_logger

Kind = Literal["auto", "onnxruntime", "openvino"]

WORTH = 1.15  # another engine than the usual one is taken from here up
GAP = 1e-4  # no engine may change a probability by more, nor an embedding by more of its length
RUNS, SECONDS = 12, 1.0
NOISE = ((1, 1.0), (1, 0.2), (4, 0.6), (16, 1.0))  # pixels of one value in a row, contrast

logger = get_logger(__name__)

_ratios: dict[str, float] = {}  # OpenVINO's speed by kind of graph: a successor is not timed


def load_fastest(bundle: Bundle, threads: int | None, kind: Kind = "auto") -> Engine:
    """The graph of a bundle, run by the engine `kind`, or by the faster one.

    OpenVINO counts where it is installed, and where it gives this graph's answers; a graph in
    whole numbers, which it rounds otherwise, is ONNX Runtime's. Raises ModelError, ConfigError
    where it is asked for and not there.
    """
    if kind == "openvino" and not installed():
        raise ConfigError("PULMO_ENGINE asks for OpenVINO: uv sync --group openvino installs it")
    graph, specification = bundle.graph, bundle.info.specification
    try:
        usual = Engine(graph, specification, threads)
        if kind == "onnxruntime" or not installed() or specification.precision is not None:
            return usual
        if kind == "openvino":
            return Engine(graph, specification, threads, openvino)
        return _faster(usual, graph, threads)
    except ModelError as error:
        raise ModelError(f"{bundle.path}: {error}") from error


def _faster(usual: Engine, graph: bytes, threads: int | None) -> Engine:
    """OpenVINO where it is faster and answers the same, else the usual engine."""
    likeness = _likeness(usual.specification)
    if _ratios.get(likeness, WORTH) < WORTH:
        return usual
    pictures = _pictures(usual.specification.input)
    expected = usual(pictures)
    try:
        other = Engine(graph, usual.specification, threads, openvino)
        gap = _gap(expected, other(pictures))
        if likeness not in _ratios:
            _ratios[likeness] = _best(usual, other, pictures[:1])
    except ModelError as error:
        logger.warning("ONNX Runtime answers: %s", error)
        return usual
    taken = other if gap <= GAP and _ratios[likeness] >= WORTH else usual
    told = "%s answers: OpenVINO is %.2f times as fast and changes answers by %.1e"
    logger.info(told, "OpenVINO" if taken is other else "ONNX Runtime", _ratios[likeness], gap)
    return taken


def _likeness(specification: Specification) -> str:
    """What decides how fast a graph is: not its weights."""
    return f"{specification.network} {specification.input} {specification.outputs}"


def _pictures(spec: InputSpec) -> Pixels:
    """Noise, always the same, as uint8 [n, C, H, W]: fine and coarse, strong and weak."""
    random, pictures = np.random.default_rng(0), []
    for cell, contrast in NOISE:
        shape = spec.channels, -(-spec.height // cell), -(-spec.width // cell)
        noise = random.uniform(-127, 127, shape).repeat(cell, axis=1).repeat(cell, axis=2)
        pictures.append(128 + contrast * noise[:, : spec.height, : spec.width])
    return np.stack(pictures).astype(np.uint8)


def _gap(one: Outputs, other: Outputs) -> float:
    """The largest change of a probability, or of an embedding as a share of its length."""
    changes = [np.abs(one.probabilities - other.probabilities).max()]
    if one.embedding is not None and other.embedding is not None:
        lengths = np.linalg.norm(one.embedding, axis=1)
        moved = np.linalg.norm(one.embedding - other.embedding, axis=1)
        changes.append((moved / np.maximum(lengths, np.finfo(np.float32).tiny)).max())
    return float(np.max(changes))


def _best(usual: Engine, other: Engine, pixels: Pixels) -> float:
    """Shortest time ÷ shortest time, in turns: what else the machine does lengthens some only."""
    times: dict[Engine, list[float]] = {usual: [], other: []}
    end = time.perf_counter() + SECONDS
    while len(times[other]) < RUNS and (time.perf_counter() < end or not times[other]):
        for engine, taken in times.items():
            begun = time.perf_counter()
            engine(pixels)
            taken.append(time.perf_counter() - begun)
    return min(times[usual]) / min(times[other])
