"""A bundle's graph as a function from pixels to outputs, by ONNX Runtime or what is faster."""

import os
import platform
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as faults

from pulmo.core.bundle import Bundle, Specification
from pulmo.core.decision import Outputs
from pulmo.core.preprocess import Pixels
from pulmo.errors import ModelError
from pulmo.inference.graph import inspect

Run = Callable[[Sequence[str], Pixels], Sequence[Any]]  # names of outputs, one picture → arrays
Backend = Callable[[bytes, Specification, int | None], Run]  # graph, what it is, threads

INPUT = "image"
_NUMBER = "n"  # what exported graphs call the number of pictures

_EXTERNAL = "session.model_external_initializers_file_folder_path"
EXACT_BYTES = "session.x64quantprecision"
_FAULTS = (
    faults.EPFail,
    faults.Fail,
    faults.InvalidArgument,
    faults.InvalidGraph,
    faults.InvalidProtobuf,
    faults.NoModel,
    faults.NotImplemented,
    faults.RuntimeException,
    MemoryError,
    ValueError,
)
_FATAL = 4  # ONNX Runtime's log level: its errors are raised here, not printed


class Engine:
    """A graph that answers; safe to call from several threads at once.

    `graph` holds the bytes of one ONNX file with standard operators: neither external data nor a
    library of custom operators is ever read. `threads` None leaves their number to the `backend`.
    Raises ModelError for a graph that does not load or is not what `specification` says.
    """

    def __init__(
        self,
        graph: bytes,
        specification: Specification,
        threads: int | None = None,
        backend: "Backend | None" = None,
    ) -> None:
        self.specification = specification
        self._run = (backend or onnxruntime)(graph, specification, threads)

    def __call__(self, pixels: Pixels) -> Outputs:
        """Outputs for uint8 pixels [N, C, H, W], N ≥ 1.

        Pictures are asked one after the other: on a processor a batch takes longer than they do
        alone, and a graph whose sizes are all known is a fifth faster.

        Raises ModelError for other pixels, and for a graph that fails or returns what its bundle
        does not declare: wrong shapes, values that are not finite.
        """
        spec = self.specification.input
        expected = (spec.channels, spec.height, spec.width)
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != expected:
            raise ModelError(
                f"the graph takes uint8 [N, {', '.join(map(str, expected))}], "
                f"not {pixels.dtype} {list(pixels.shape)}"
            )
        if len(pixels) == 0:
            raise ModelError("the graph was given no picture at all")
        names = list(self.specification.outputs)
        try:
            told = [self._run(names, pixels[i : i + 1]) for i in range(len(pixels))]
        except Exception as error:
            raise ModelError(f"the graph failed on {len(pixels)} pictures: {error}") from error
        for arrays in told:
            self._check(dict(zip(names, arrays, strict=True)))
        whole = told[0] if len(told) == 1 else map(np.concatenate, zip(*told, strict=True))
        return Outputs(**dict(zip(names, whole, strict=True)))

    def _check(self, arrays: dict[str, Any]) -> None:
        """Raise ModelError for what is no answer to one picture."""
        classes = len(self.specification.classes)
        for name, array in arrays.items():
            shape = array.shape
            right = {
                "embedding": len(shape) == 2 and shape[0] == 1,
                "saliency": len(shape) == 4 and shape[:2] == (1, classes),
            }.get(name, shape == (1, classes))
            if not right or array.dtype != np.float32:
                raise ModelError(f"the graph returned {name} as {array.dtype} {list(shape)}")
            if not np.isfinite(array).all():
                raise ModelError(f"the graph returned values of {name} that are not finite")


@cache
def exact_bytes(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The value of EXACT_BYTES: 1 where the processor has no instructions that multiply bytes, or
    nobody knows. ONNX Runtime's quickest way overflows there; this one is exact, and slower.
    """
    if platform.machine() not in ("x86_64", "AMD64"):
        return "0"
    try:
        return "0" if "_vnni" in cpuinfo.read_text("utf-8") else "1"
    except OSError:
        return "1"


def onnxruntime(graph: bytes, specification: Specification, threads: int | None) -> Run:
    """A graph run by ONNX Runtime. Raises ModelError."""
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL
    options.inter_op_num_threads = 1
    options.intra_op_num_threads = threads or 0
    options.add_free_dimension_override_by_name(_NUMBER, 1)
    # External data would be looked for below a file, where nothing can lie.
    options.add_session_config_entry(_EXTERNAL, os.devnull)
    options.add_session_config_entry(EXACT_BYTES, exact_bytes())
    try:
        inspect(graph)
        session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except (ModelError, *_FAULTS) as error:
        raise ModelError(f"the graph cannot be loaded: {error}") from error
    _check_signature(session, specification)
    return lambda names, pixels: session.run(list(names), {INPUT: pixels})


def load(bundle: Bundle, threads: int | None = None) -> Engine:
    """The graph of a bundle, ready to be called. Raises ModelError."""
    try:
        return Engine(bundle.graph, bundle.info.specification, threads)
    except ModelError as error:
        raise ModelError(f"{bundle.path}: {error}") from error


def _check_signature(session: ort.InferenceSession, spec: Specification) -> None:
    inputs = session.get_inputs()
    expected = [spec.input.channels, spec.input.height, spec.input.width]
    fits = (
        len(inputs) == 1
        and inputs[0].name == INPUT
        and inputs[0].type == "tensor(uint8)"
        and len(inputs[0].shape) == 4
        and inputs[0].shape[1:] == expected
        and (inputs[0].shape[0] == 1 or not isinstance(inputs[0].shape[0], int))
    )
    if not fits:
        given = [(node.name, node.type, node.shape) for node in inputs]
        raise ModelError(f"the graph must take '{INPUT}' as uint8 [N, *{expected}], not {given}")
    missing = set(spec.outputs) - {node.name for node in session.get_outputs()}
    if missing:
        raise ModelError(f"the graph lacks the declared outputs {', '.join(sorted(missing))}")
