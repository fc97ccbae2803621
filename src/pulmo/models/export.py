"""A trained network to the bytes of a bundle: ONNX graph and safetensors weights, and back."""

import io
import logging
import warnings
from typing import Literal

import onnx
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from pulmo.core.bundle import NetworkSpec, Specification
from pulmo.core.decision import Outputs
from pulmo.core.preprocess import InputSpec, Pixels
from pulmo.errors import ModelError
from pulmo.models.catalog import Network, build

OPSET = 18
OUTPUTS: tuple[Literal["probabilities", "logits", "embedding", "saliency"], ...] = (
    "probabilities",
    "logits",
    "embedding",
    "saliency",
)


class Deployed(nn.Module):
    """The graph that is served: uint8 [N, C, H, W] → probabilities, logits, embedding, saliency.

    Scaling and normalisation are inside, so no consumer can get them wrong.
    """

    def __init__(self, network: Network, temperature: float) -> None:
        super().__init__()
        self.network = network
        self.temperature = temperature

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Probabilities [N, K], logits [N, K], embedding [N, D], saliency [N, K, h, w]."""
        features = self.network.feature_map(image.float() / 255)
        embedding = features.mean(dim=(2, 3))
        logits = self.network.head(embedding)
        weight = self.network.head.weight[:, :, None, None]
        saliency = nn.functional.conv2d(features, weight)
        return (logits / self.temperature).softmax(dim=1), logits, embedding, saliency


def to_graph(network: Network, temperature: float, spec: InputSpec) -> bytes:
    """The ONNX graph, free of exporter metadata: equal weights give equal bytes anywhere."""
    example = torch.zeros(2, spec.channels, spec.height, spec.width, dtype=torch.uint8)
    deployed = Deployed(network, temperature).cpu().eval()
    buffer = io.BytesIO()
    quiet = logging.getLogger("torch.onnx")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's notes on its own deprecations
            torch.onnx.export(
                deployed,
                (example,),
                buffer,  # type: ignore[arg-type] # the tracing exporter writes to streams
                input_names=["image"],
                output_names=list(OUTPUTS),
                dynamic_axes={name: {0: "n"} for name in ("image", *OUTPUTS)},
                opset_version=OPSET,
                dynamo=False,
            )
    finally:
        quiet.setLevel(level)
    return stripped(onnx.load_from_string(buffer.getvalue()))


def stripped(model: onnx.ModelProto) -> bytes:
    """The bytes of a graph without a word of who made it where."""
    model.producer_name = "pulmo"
    model.producer_version = model.doc_string = ""
    del model.metadata_props[:]
    graph = model.graph
    graph.name, graph.doc_string = "pulmo", ""
    del graph.metadata_props[:]
    for part in (*graph.node, *graph.initializer, *graph.value_info, *graph.input, *graph.output):
        part.doc_string = ""
        del part.metadata_props[:]
    onnx.checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def to_weights(network: Network) -> bytes:
    """All parameters and buffers as safetensors bytes, without metadata."""
    tensors = {
        name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()
    }
    return save(tensors)


def from_weights(weights: bytes, spec: Specification) -> Network:
    """The network of a bundle, rebuilt from its weights, in evaluation mode on the CPU."""
    return load_network(weights, spec.network, spec.input.channels, len(spec.classes))


def ask(weights: bytes, spec: Specification, pixels: Pixels) -> Outputs:
    """What a bundle's weights say of uint8 pixels [N, C, H, W], without its graph."""
    deployed = Deployed(from_weights(weights, spec), spec.temperature).eval()
    with torch.inference_mode():
        parts = [deployed(torch.from_numpy(pixels[i : i + 32])) for i in range(0, len(pixels), 32)]
    found = [torch.cat(part).numpy() for part in zip(*parts, strict=True)]
    return Outputs(**dict(zip(OUTPUTS, found, strict=True)))


def load_network(weights: bytes, spec: NetworkSpec, channels: int, classes: int) -> Network:
    """The network that `spec` names, filled with safetensors bytes. Raises ModelError."""
    network = build(spec, channels=channels, classes=classes, weights=None)
    try:
        network.load_state_dict(load(weights))
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"the weights do not fit {spec.architecture}: {error}") from error
    return network.eval()
