"""A graph in whole numbers says nearly what the network says, and really is in whole numbers."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from pulmo.core.bundle import NetworkSpec
from pulmo.core.preprocess import InputSpec, Pixels
from pulmo.errors import ModelError
from pulmo.inference.graph import inspect
from pulmo.models.catalog import build
from pulmo.models.export import OUTPUTS, to_graph
from pulmo.models.whole_numbers import to_whole_numbers

SIDE = 64


def plain(items: object, label: str, total: int) -> object:
    return items


def pictures(count: int, seed: int) -> Pixels:
    """Blots of grey: something that a network sees differently."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (count, 1, 8, 8), dtype=np.uint8)
    return np.ascontiguousarray(coarse.repeat(SIDE // 8, 2).repeat(SIDE // 8, 3))


def float_graph(architecture: str) -> bytes:
    torch.manual_seed(0)
    spec = NetworkSpec(architecture=architecture)
    network = build(spec, channels=1, classes=2, weights=None)
    with torch.no_grad():  # so that normalisations have seen something
        for _ in range(20):
            network.train()(torch.from_numpy(pictures(16, 1)).float() / 255)
    return to_graph(network.eval(), 1.0, InputSpec(height=SIDE, width=SIDE, channels=1))


def run(graph: bytes, pixels: Pixels) -> list[np.ndarray]:
    session = ort.InferenceSession(graph)
    assert [one.name for one in session.get_outputs()] == list(OUTPUTS)
    told = [session.run(None, {"image": pixels[i : i + 1]}) for i in range(len(pixels))]
    return [np.concatenate(part) for part in zip(*told, strict=True)]


@pytest.mark.parametrize("architecture", ["efficientnet_lite0", "test_efficientnet", "test_resnet"])
def test_it_says_nearly_what_the_network_says(architecture: str, tmp_path: Path) -> None:
    graph = float_graph(architecture)
    made = to_whole_numbers(graph, pictures(48, 2), plain)
    inspect(made)
    unseen = pictures(24, 3)
    for wanted, got in zip(run(graph, unseen), run(made, unseen), strict=True):
        assert got.shape == wanted.shape
        assert np.square(got - wanted).mean() < 0.2 * wanted.var(axis=0).mean()
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "as_it_runs.onnx")
    ort.InferenceSession(made, options)
    runs = [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node]
    constants = onnx.load_from_string(made).graph.initializer
    rounded = sum(
        one.data_type == onnx.TensorProto.INT8 and len(one.dims) == 4 for one in constants
    )
    assert runs.count("QLinearConv") == rounded > 3
    assert len(made) < len(graph)


def test_equal_graphs_and_pictures_give_equal_bytes() -> None:
    graph = float_graph("test_resnet")
    assert to_whole_numbers(graph, pictures(8, 2), plain) == to_whole_numbers(
        graph, pictures(8, 2), plain
    )


def test_a_layer_whose_bounded_outputs_the_graph_returns_is_rounded_too() -> None:
    model = onnx.load_from_string(float_graph("test_resnet"))
    last = [node for node in model.graph.node if node.op_type == "Conv"][-2]
    (weight,) = (one for one in model.graph.initializer if one.name == last.input[1])
    other = onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * 2, "other")
    conv = onnx.NodeProto()
    conv.CopyFrom(last)
    conv.name = "other_conv"
    del conv.input[1:], conv.output[:]
    conv.input.append("other")
    conv.output.append("other_sum")
    relu = onnx.helper.make_node("Relu", ["other_sum"], ["told"])
    model.graph.initializer.append(other)
    model.graph.node.extend([conv, relu])
    model.graph.output.append(onnx.helper.make_tensor_value_info("told", 1, None))
    graph = model.SerializeToString()
    wanted, got = (
        ort.InferenceSession(one).run(["told"], {"image": pictures(1, 3)})[0]
        for one in (graph, to_whole_numbers(graph, pictures(16, 2), plain))
    )
    assert np.square(got - wanted).mean() < 0.2 * wanted.var()


def test_a_network_without_small_maps_is_told() -> None:
    with pytest.raises(ModelError, match="no convolutions of small maps"):
        to_whole_numbers(float_graph("small_cnn"), pictures(4, 2), plain)
