from contextlib import suppress

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from pulmo.errors import ModelError
from pulmo.inference.graph import inspect


def model(*nodes: onnx.NodeProto, constants: tuple[onnx.TensorProto, ...] = ()) -> bytes:
    graph = helper.make_graph(list(nodes), "g", [], [], list(constants))
    return bytes(helper.make_model(graph).SerializeToString())


def nested(depth: int, last: onnx.NodeProto) -> onnx.NodeProto:
    for _ in range(depth):
        inner = helper.make_graph([last], "inner", [], [])
        last = helper.make_node("If", ["c"], ["y"], then_branch=inner)
    return last


def test_an_ordinary_graph_passes(toy_graph: bytes) -> None:
    inspect(toy_graph)


@pytest.mark.parametrize("operator", ["Loop", "Scan", "SequenceMap"])
@pytest.mark.parametrize("depth", [0, 3])
def test_what_may_never_end_is_refused_however_deep_it_lies(operator: str, depth: int) -> None:
    with pytest.raises(ModelError, match=f"operator {operator}, it may never end"):
        inspect(model(nested(depth, helper.make_node(operator, ["x"], ["y"]))))


def test_it_is_refused_inside_a_function_as_well() -> None:
    body = [helper.make_node("Loop", ["x"], ["y"])]
    function = helper.make_function("d", "f", ["x"], ["y"], body, [helper.make_opsetid("", 17)])
    made = helper.make_model(helper.make_graph([], "g", [], []), functions=[function])
    with pytest.raises(ModelError, match="Loop"):
        inspect(made.SerializeToString())


def outside() -> onnx.TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1])
    tensor.data_location = TensorProto.EXTERNAL
    return tensor


def test_data_outside_the_file_are_refused_wherever_they_are_named() -> None:
    for bytes_ in (
        model(constants=(outside(),)),
        model(helper.make_node("Constant", [], ["y"], value=outside())),
        model(nested(2, helper.make_node("Constant", [], ["y"], value=outside()))),
    ):
        with pytest.raises(ModelError, match="outside its file"):
            inspect(bytes_)


def test_data_in_the_file_pass() -> None:
    inspect(model(constants=(numpy_helper.from_array(np.ones(3), "w"),)))


def test_graphs_in_graphs_end_somewhere() -> None:
    inspect(model(nested(10, helper.make_node("Identity", ["x"], ["y"]))))
    with pytest.raises(ModelError, match="graphs in graphs"):
        inspect(model(nested(20, helper.make_node("Identity", ["x"], ["y"]))))


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"\x0b", "kind 3"),
        (b"\x3a\x7f", "longer than the file"),
        (b"\xff" * 20, "without an end"),
        (b"\x80", "no ONNX file"),
    ],
)
def test_bytes_that_are_no_protobuf_are_refused(data: bytes, told: str) -> None:
    with pytest.raises(ModelError, match=told):
        inspect(data)


@given(st.binary(max_size=300))
def test_no_bytes_at_all_do_more_than_be_refused(data: bytes) -> None:
    with suppress(ModelError):
        inspect(data)


def test_a_tag_that_another_reader_would_cut_short_is_refused(toy_graph: bytes) -> None:
    plain = toy_graph[:1]
    assert plain == bytes([0x08])  # ir_version, the first field of a model
    inspect(toy_graph)
    long = bytes([0x88, 0x80, 0x80, 0x80, 0x10])  # the same number, with a bit beyond the 32nd
    with pytest.raises(ModelError, match="too large"):
        inspect(long + toy_graph[1:])
