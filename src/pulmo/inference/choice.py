"""Which engine runs a graph: the one that was measured to be faster on this very machine."""

import time
from typing import Literal

import numpy as np

from pulmo.core.bundle import Bundle, Specification
from pulmo.core.decision import Outputs
from pulmo.core.preprocess import Pixels
from pulmo.errors import ConfigError, ModelError
from pulmo.inference.engine import Backend, Engine, onnxruntime
from pulmo.inference.openvino import installed, openvino
from pulmo.logs import get_logger

Kind = Literal["auto", "onnxruntime", "openvino"]

WORTH = 1.15  # another engine than the usual one is taken from here up
GAP = 1e-4  # no engine may change a probability by more
RUNS, SECONDS = 12, 1.0

logger = get_logger(__name__)

_known: dict[str, Backend] = {}  # by kind of graph: a model that takes over needs no measurement


def load_fastest(bundle: Bundle, threads: int | None, kind: Kind = "auto") -> Engine:
    """The graph of a bundle, run by the engine `kind`, or by the faster one.

    OpenVINO counts where it is installed. Raises ModelError, ConfigError where it is asked for
    and not there.
    """
    if kind == "openvino" and not installed():
        raise ConfigError("PULMO_ENGINE asks for OpenVINO: uv sync --group openvino installs it")
    graph, specification = bundle.graph, bundle.info.specification
    try:
        usual = Engine(graph, specification, threads)
        if kind == "onnxruntime" or not installed():
            return usual
        if kind == "openvino":
            return Engine(graph, specification, threads, openvino)
        likeness = _likeness(graph, specification)
        if likeness not in _known:
            _known[likeness] = _faster(usual, graph, threads)
        chosen = _known[likeness]
        return usual if chosen is onnxruntime else Engine(graph, specification, threads, chosen)
    except ModelError as error:
        raise ModelError(f"{bundle.path}: {error}") from error


def _likeness(graph: bytes, specification: Specification) -> str:
    """What decides how fast a graph is: not its weights."""
    quantised = b"QuantizeLinear" in graph
    return f"{specification.network} {specification.input} {specification.outputs} {quantised}"


def _faster(usual: Engine, graph: bytes, threads: int | None) -> Backend:
    spec = usual.specification.input
    shape = (1, spec.channels, spec.height, spec.width)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    try:
        other = Engine(graph, usual.specification, threads, openvino)
        gap = _gap(usual(pixels), other(pixels))
    except ModelError as error:
        logger.warning("ONNX Runtime answers: %s", error)
        return onnxruntime
    ratio = _best(usual, other, pixels)
    taken = openvino if gap <= GAP and ratio >= WORTH else onnxruntime
    logger.info("%s answers: OpenVINO is %.2f times as fast", taken.__name__, ratio)
    return taken


def _gap(one: Outputs, other: Outputs) -> float:
    return float(np.abs(one.probabilities - other.probabilities).max())


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
