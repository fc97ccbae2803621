"""Trained networks become bytes that say the same and are the same wherever they are made."""

import numpy as np
import onnxruntime as ort
import pytest
import torch

from pulmo.core.bundle import NetworkSpec
from pulmo.core.preprocess import InputSpec
from pulmo.errors import ModelError
from pulmo.models.catalog import Network, build
from pulmo.models.export import OUTPUTS, Deployed, load_network, to_graph, to_weights

SPEC = NetworkSpec(architecture="small_cnn", options={"width": 4})
INPUT = InputSpec(height=32, width=24, channels=1)


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    return build(SPEC, channels=1, classes=3, weights=None).eval()


def test_the_graph_says_what_the_network_says(network: Network) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 1, 32, 24), dtype=np.uint8)
    session = ort.InferenceSession(to_graph(network, 1.7, INPUT))
    assert [o.name for o in session.get_outputs()] == list(OUTPUTS)
    with torch.no_grad():
        expected = Deployed(network, 1.7)(torch.from_numpy(pixels))
    for got, wanted in zip(session.run(None, {"image": pixels}), expected, strict=True):
        np.testing.assert_allclose(got, wanted.numpy(), atol=1e-5)


def test_the_temperature_softens_probabilities_and_leaves_logits(network: Network) -> None:
    pixels = torch.randint(0, 256, (2, 1, 32, 24), dtype=torch.uint8)
    with torch.no_grad():
        cold, logits, _, _ = Deployed(network, 1.0)(pixels)
        hot, same, _, _ = Deployed(network, 10.0)(pixels)
    torch.testing.assert_close(logits, same)
    torch.testing.assert_close(hot, (logits / 10).softmax(dim=1))
    assert hot.max() < cold.max()


def test_equal_networks_give_equal_bytes(network: Network) -> None:
    twin = load_network(to_weights(network), SPEC, 1, 3)
    assert to_weights(twin) == to_weights(network)
    assert to_graph(twin, 1.0, INPUT) == to_graph(network, 1.0, INPUT)


def test_the_graph_names_no_file_of_this_machine(network: Network) -> None:
    graph = to_graph(network, 1.0, INPUT)
    assert b"/" + b"src/" not in graph
    assert b".py" not in graph


def test_weights_of_another_network_are_refused(network: Network) -> None:
    wider = NetworkSpec(architecture="small_cnn", options={"width": 8})
    with pytest.raises(ModelError, match="do not fit small_cnn"):
        load_network(to_weights(network), wider, 1, 3)
