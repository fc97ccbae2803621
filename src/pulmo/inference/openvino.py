"""OpenVINO, where its dependency group is installed: on some processors it is faster."""

import importlib.util
import sys
import threading
from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from pulmo.core.bundle import Specification
from pulmo.core.preprocess import Pixels
from pulmo.errors import ModelError
from pulmo.inference.engine import INPUT, Run, onnxruntime


def installed() -> bool:
    """Whether it is there."""
    return importlib.util.find_spec("openvino") is not None


def openvino(graph: bytes, specification: Specification, threads: int | None) -> Run:
    """A graph run by OpenVINO in float32, as ONNX Runtime would. Raises ModelError."""
    onnxruntime(graph, specification, threads)  # what it would refuse is refused
    sys.modules.setdefault("openvino_telemetry", cast(Any, None))  # it writes to the home folder
    try:
        import openvino as ov
    except (ImportError, OSError) as error:  # also of a library that it lacks
        raise ModelError(f"OpenVINO cannot be loaded: {error}") from error
    options: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": "f32",  # it takes bfloat16 by itself where it can
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,
    }
    if threads is not None:
        options |= {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    try:
        core = ov.Core()
        model = core.read_model(graph)
        spec = specification.input
        # A shape that is known beforehand is a sixth faster.
        model.reshape({INPUT: [1, spec.channels, spec.height, spec.width]})
        compiled = core.compile_model(model, "CPU", options)
    except RuntimeError as error:
        raise ModelError(f"OpenVINO cannot load the graph: {error}") from error
    own = threading.local()  # a request of its own for every thread

    def run(names: Sequence[str], picture: Pixels) -> list[Any]:
        if not hasattr(own, "request"):
            own.request = compiled.create_infer_request()
            own.picture = np.empty(model.input().get_shape(), np.uint8)
            own.request.set_input_tensor(ov.Tensor(own.picture, shared_memory=True))
        own.picture[:] = picture
        found = own.request.infer(share_outputs=True)  # views of what the next one overwrites
        return [np.array(found[name]) for name in names]

    return run
