import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from pulmo.core.bundle import Bundle, Specification
from pulmo.core.preprocess import InputSpec
from pulmo.errors import ModelError
from pulmo.inference.engine import Engine, exact_bytes, load


def grey(*levels: int) -> np.ndarray:
    return np.stack([np.full((1, 16, 16), level, dtype=np.uint8) for level in levels])


def test_a_bundles_graph_answers_by_its_declared_names(toy_bundle: Bundle) -> None:
    outputs = load(toy_bundle, threads=1)(grey(0, 255))
    np.testing.assert_allclose(outputs.logits, [[4, -4], [-4, 4]], atol=1e-5)
    np.testing.assert_allclose(outputs.probabilities[1, 1], 1 / (1 + np.exp(-8)), atol=1e-6)
    assert outputs.embedding is not None
    assert outputs.embedding.shape == (2, 16)
    assert outputs.saliency is not None
    assert outputs.saliency.shape == (2, 2, 4, 4)


def test_company_changes_nothing(toy_bundle: Bundle) -> None:
    engine = load(toy_bundle)
    pixels = np.random.default_rng(0).integers(0, 256, (7, 1, 16, 16), dtype=np.uint8)
    together = engine(pixels)
    for row, one in enumerate(pixels):
        alone = engine(one[None])
        for name in ("probabilities", "logits", "embedding", "saliency"):
            np.testing.assert_array_equal(getattr(together, name)[row], getattr(alone, name)[0])


@pytest.mark.parametrize("number", ["batch", 1, None])
def test_how_a_graph_calls_the_number_of_pictures_does_not_matter(
    number: str | int | None, toy_graph: bytes, toy_specification: Specification
) -> None:
    model = onnx.load_from_string(toy_graph)
    for value in (*model.graph.input, *model.graph.output):
        dimension = value.type.tensor_type.shape.dim[0]
        dimension.Clear()
        if isinstance(number, int):
            dimension.dim_value = number
        elif number is not None:
            dimension.dim_param = number
    engine, usual = (Engine(g, toy_specification) for g in (model.SerializeToString(), toy_graph))
    np.testing.assert_array_equal(
        engine(grey(0, 90, 255)).probabilities, usual(grey(0, 90, 255)).probabilities
    )


def test_outputs_that_are_not_declared_are_left_out(
    toy_graph: bytes, toy_specification: Specification
) -> None:
    plain = toy_specification.model_copy(update={"outputs": ("probabilities", "logits")})
    outputs = Engine(toy_graph, plain)(grey(10))
    assert outputs.embedding is None
    assert outputs.saliency is None


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((1, 1, 16, 16), dtype=np.float32),
        np.zeros((1, 16, 16), dtype=np.uint8),
        np.zeros((1, 3, 16, 16), dtype=np.uint8),
        np.zeros((1, 1, 16, 8), dtype=np.uint8),
    ],
)
def test_other_pixels_are_refused(toy_bundle: Bundle, pixels: np.ndarray) -> None:
    with pytest.raises(ModelError, match=r"takes uint8 \[N, 1, 16, 16\]"):
        load(toy_bundle)(pixels)


def test_no_picture_at_all_is_refused(toy_bundle: Bundle) -> None:
    with pytest.raises(ModelError, match="no picture"):
        load(toy_bundle)(np.zeros((0, 1, 16, 16), dtype=np.uint8))


@pytest.mark.parametrize("graph", [b"", b"no graph", b"\x00" * 64])
def test_bytes_that_are_no_graph_are_refused(
    graph: bytes, toy_specification: Specification
) -> None:
    with pytest.raises(ModelError, match="cannot be loaded"):
        Engine(graph, toy_specification)


def test_a_fault_names_the_bundle(make_bundle: Callable[..., Bundle], tmp_path: Path) -> None:
    wider = InputSpec(height=32, width=16, channels=1)
    with pytest.raises(ModelError, match=r"wrong: the graph must take 'image'"):
        load(make_bundle(tmp_path / "wrong", input=wider))


def test_an_output_that_is_declared_but_missing_is_refused(
    toy_graph: bytes, toy_specification: Specification
) -> None:
    model = onnx.load_from_string(toy_graph)
    del model.graph.output[3]
    with pytest.raises(ModelError, match="lacks the declared outputs saliency"):
        Engine(model.SerializeToString(), toy_specification)


def test_external_data_is_never_read(
    toy_graph: bytes,
    toy_specification: Specification,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = onnx.load_from_string(toy_graph)
    bias = next(one for one in model.graph.initializer if one.name == "bias")
    (tmp_path / "outside.bin").write_bytes(bias.raw_data)
    bias.ClearField("raw_data")
    bias.data_location = TensorProto.EXTERNAL
    bias.external_data.add(key="location", value="outside.bin")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="cannot be loaded"):
        Engine(model.SerializeToString(), toy_specification)


def test_values_that_are_not_finite_are_refused(
    toy_graph: bytes, toy_specification: Specification
) -> None:
    model = onnx.load_from_string(toy_graph)
    scale = next(one for one in model.graph.initializer if one.name == "scale")
    scale.raw_data = np.array(0, dtype=np.float32).tobytes()
    engine = Engine(model.SerializeToString(), toy_specification)
    with pytest.raises(ModelError, match="not finite"):
        engine(grey(0))


def test_a_shape_that_does_not_fit_the_classes_is_refused(
    toy_graph: bytes, toy_specification: Specification
) -> None:
    three = toy_specification.model_copy(
        update={"classes": ("A", "B", "C"), "outputs": ("probabilities", "logits")}
    )
    with pytest.raises(ModelError, match=r"returned probabilities as float32 \[1, 2\]"):
        Engine(toy_graph, three)(grey(0))


def test_a_graph_that_fails_while_running_is_told(
    toy_graph: bytes, toy_specification: Specification
) -> None:
    model = onnx.load_from_string(toy_graph)
    shape = onnx.numpy_helper.from_array(np.array([3, 7], dtype=np.int64), "shape")
    model.graph.initializer.append(shape)
    flatten = next(node for node in model.graph.node if node.output[0] == "embedding")
    flatten.op_type = "Reshape"
    flatten.input.append("shape")
    del model.graph.output[2].type.tensor_type.shape.dim[:]
    engine = Engine(model.SerializeToString(), toy_specification)
    with pytest.raises(ModelError, match="failed on 1 pictures"):
        engine(grey(0))


def test_nothing_is_told_to_the_makers_of_the_engine(tmp_path: Path) -> None:
    home = {**os.environ, "HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    home.pop("ORT_DISABLE_TELEMETRY", None)
    code = "import pulmo.inference.engine"
    subprocess.run([sys.executable, "-c", code], env=home, check=True)
    assert list(tmp_path.iterdir()) == []


def test_an_output_without_a_row_for_the_picture_is_refused(
    toy_graph: bytes, toy_specification: Specification
) -> None:
    model = onnx.load_from_string(toy_graph)
    told = next(value for value in model.graph.output if value.name == "logits")
    made = next(node for node in model.graph.node if "logits" in node.output)
    made.output[list(made.output).index("logits")] = "rows"
    for node in model.graph.node:
        node.input[:] = ["rows" if name == "logits" else name for name in node.input]
    model.graph.node.append(onnx.helper.make_node("ReduceSum", ["rows"], ["logits"], keepdims=0))
    del told.type.tensor_type.shape.dim[:]
    with pytest.raises(ModelError, match=r"returned logits as float32 \[\]"):
        Engine(model.SerializeToString(), toy_specification)(grey(0, 255))


@pytest.mark.parametrize(
    ("machine", "flags", "value"),
    [
        ("x86_64", "avx2 avx512_vnni", "0"),
        ("x86_64", "avx2 avx_vnni", "0"),
        ("x86_64", "avx2 avx512f", "1"),
        ("x86_64", None, "1"),
        ("arm64", None, "0"),
    ],
)
def test_bytes_are_multiplied_exactly_where_the_quick_way_overflows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: str, flags: str | None, value: str
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    path = tmp_path / "cpuinfo"
    if flags is not None:
        path.write_text(f"flags\t\t: fpu {flags}\n", encoding="utf-8")
    assert exact_bytes(path) == value
