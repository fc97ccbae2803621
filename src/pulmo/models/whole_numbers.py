"""A graph whose later convolutions multiply bytes, which processors with VNNI do far faster.

One convolution after the other is replaced, and each makes good what those before it lost. Where
maps are large the network stays in floats: edges are differences of almost equal values, in which
rounding drowns.
"""

import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from pulmo.core.preprocess import Pixels
from pulmo.core.rounding import Array, Bytes, Codes, Convolution, Rounded, fit
from pulmo.errors import ModelError
from pulmo.models.export import stripped

SCALED = 16  # convolutions of maps that are this many times smaller than the picture are replaced
_LARGEST_BIAS = 2**30

Values = dict[str, NDArray[Any]]  # what a graph makes of all pictures, by its names
Track = Callable[[Iterable[Any], str, int], Iterable[Any]]


@dataclass(frozen=True)
class _Layer:
    """A convolution of a graph; `limit` holds its outputs within bounds, where there is one."""

    node: onnx.NodeProto
    limit: onnx.NodeProto | None
    convolution: Convolution

    @property
    def source(self) -> str:
        """The name of its inputs."""
        return str(self.node.input[0])

    @property
    def target(self) -> str:
        """The name of its outputs, within their bounds."""
        return str((self.node if self.limit is None else self.limit).output[0])


def to_whole_numbers(graph: bytes, pictures: Pixels, track: Track) -> bytes:
    """The graph in whole numbers where maps are small, for one picture at a time.

    Weights and ranges are chosen on `pictures` uint8 [n, C, H, W], best ones that the network was
    trained on. Raises ModelError for a graph without convolutions of small maps.
    """
    original = _resolved(graph)
    layers = _layers(original, pictures.shape[2])
    if not layers:
        raise ModelError("the network has no convolutions of small maps: nothing would be faster")
    made = onnx.ModelProto()
    made.CopyFrom(original)
    before: Values = {original.graph.input[0].name: pictures}
    after, coded = dict(before), dict[str, Bytes]()
    takers = _takers(original, layers)
    for layer in track(layers, "rounding", len(layers)):
        name, said = layer.source, layer.node.output[0]
        _compute(original, (name, said), before)
        _compute(made, (name,), after)
        maps, wanted, convolution = after[name], before[said], layer.convolution
        source = coded.get(name)
        if begins := source is None:
            source = Bytes.of(maps)
            maps = maps * source.by[:, None, None]
        by = np.ones(len(wanted[0]), np.float32)
        if len(takers[layer.target]) == 1:  # else some would have to undo it
            by = convolution.stretch(wanted)
        convolution = convolution.stretched(source.by, by)
        found = fit(convolution, source.codes.rounded(maps), wanted * by[:, None, None])
        coded[layer.target] = told = Bytes(Codes.of(found.outputs), by)
        ends = True not in takers[layer.target]
        _replace(made, layer, found, source, told, begins=begins, ends=ends)
        _forget(original, before)
        _forget(made, after)
    return stripped(made)


def _resolved(graph: bytes) -> onnx.ModelProto:
    """The graph for one picture, without arithmetic on sizes, paddings or normalisations."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.add_free_dimension_override_by_name("n", 1)
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "plain.onnx")
        ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        model = onnx.load(options.optimized_model_filepath)
    for entry in [entry for entry in model.opset_import if entry.domain]:
        model.opset_import.remove(entry)
    return model


def _layers(model: onnx.ModelProto, side: int) -> list[_Layer]:
    """The convolutions to replace, in the order in which they run."""
    sides = {
        one.name: one.type.tensor_type.shape.dim[2].dim_value
        for one in onnx.shape_inference.infer_shapes(model).graph.value_info
        if len(one.type.tensor_type.shape.dim) == 4
    }
    constants = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    ends = {one.name for one in model.graph.output}
    users = defaultdict[str, list[onnx.NodeProto]](list)
    for node in model.graph.node:
        for name in node.input:
            users[name].append(node)
    found = []
    for node in model.graph.node:
        if node.op_type == "Conv" and ends.isdisjoint(node.output):
            small = 0 < sides.get(node.input[0], 0) * SCALED <= side
            layer = _layer(node, constants, users[node.output[0]]) if small else None
            found += [] if layer is None else [layer]
    # What later layers add to stays in floats, and so does what leads there alone: its noise would
    # stay in all of them.
    floats, replaced = set[str](), list[_Layer]()
    for layer in reversed(found):
        takers = users[layer.node.output[0]]
        added = len(takers) > 1 and any(one.op_type == "Add" for one in takers)
        if added or not floats.isdisjoint(one.output[0] for one in users[layer.target]):
            floats.add(layer.node.output[0])
        else:
            replaced.append(layer)
    return replaced[::-1]


def _layer(
    node: onnx.NodeProto, constants: dict[str, NDArray[Any]], users: Sequence[onnx.NodeProto]
) -> _Layer | None:
    """A convolution with what follows it; None for a kind that stays as it is."""
    said = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    weight = constants.get(node.input[1])
    plain = said.get("auto_pad", b"NOTSET") == b"NOTSET" and set(said.get("dilations", ())) <= {1}
    if weight is None or weight.ndim != 4 or not plain:
        return None
    none = np.zeros(len(weight), np.float32)
    bias = constants.get(node.input[2]) if len(node.input) > 2 else none
    if bias is None:
        return None
    limit, low, high = None, -np.inf, np.inf
    if len(users) == 1 and users[0].op_type == "Relu":
        limit, low = users[0], 0.0
    elif len(users) == 1 and users[0].op_type == "Clip":
        bounds = [constants.get(name) for name in users[0].input[1:]]
        if len(bounds) == 2 and bounds[0] is not None and bounds[1] is not None:
            limit, low, high = users[0], float(bounds[0]), float(bounds[1])
    convolution = Convolution(
        weight,
        bias,
        groups=said.get("group", 1),
        strides=tuple(said.get("strides", (1, 1))),
        pads=tuple(said.get("pads", (0, 0, 0, 0))),
        low=low,
        high=high,
    )
    return _Layer(node, limit, convolution)


def _takers(model: onnx.ModelProto, layers: Sequence[_Layer]) -> dict[str, set[bool]]:
    """By name of a value: whether it goes to convolutions that are replaced, to others, or both."""
    replaced = {layer.node.output[0] for layer in layers}
    found: dict[str, set[bool]] = {one.name: {False} for one in model.graph.output}
    for node in model.graph.node:
        for name in node.input:
            found.setdefault(name, set()).add(node.output[0] in replaced)
    return found


def _compute(model: onnx.ModelProto, names: Sequence[str], known: Values) -> None:
    """Add the values at `names` to those that are known, of which they are made."""
    wanted = [name for name in names if name not in known]
    needed, given, nodes = set(wanted), Values(), list[onnx.NodeProto]()
    for node in reversed(model.graph.node):
        if not needed.isdisjoint(node.output):
            nodes.append(node)
            given |= {name: known[name] for name in node.input if name in known}
            needed |= set(node.input) - set(known)
    if not nodes:
        return
    part = helper.make_graph(
        nodes[::-1],
        "part",
        [_info(name, one.dtype, (1, *one.shape[1:])) for name, one in given.items()],
        [_info(name, np.dtype(np.float32), None) for name in wanted],
        [one for one in model.graph.initializer if one.name in needed],
    )
    whole = helper.make_model(part, opset_imports=model.opset_import, ir_version=model.ir_version)
    options = ort.SessionOptions()
    # In floats between bytes and bytes: on no processor may sums of bytes overflow here.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(
        whole.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    count = len(next(iter(given.values())))
    made = [
        session.run(wanted, {name: one[i : i + 1] for name, one in given.items()})
        for i in range(count)
    ]
    known |= dict(zip(wanted, map(np.concatenate, zip(*made, strict=True)), strict=True))


def _info(name: str, kind: np.dtype[Any], shape: Sequence[int] | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(kind), shape)


def _forget(model: onnx.ModelProto, known: Values) -> None:
    """Let go of values of which nothing is made any more."""
    needed = {one.name for one in model.graph.output}
    for node in reversed(model.graph.node):
        if any(name in needed and name not in known for name in node.output):
            needed.update(node.input)
    for name in set(known) - needed:
        del known[name]


def _replace(
    model: onnx.ModelProto,
    layer: _Layer,
    found: Rounded,
    given: Bytes,
    told: Bytes,
    *,
    begins: bool,
    ends: bool,
) -> None:
    """Put a convolution of bytes into a graph. `begins` says that floats come in, `ends` that none
    but floats go out; between them channels stay as large as they are in bytes.
    """
    graph, name = model.graph, layer.target
    source, target, before, after = layer.source, name, list[onnx.NodeProto](), []
    if begins:
        source, larger = f"{name}.given", f"{name}.larger"
        before = [_times(graph, layer.source, larger, given.by)]
        before += _bytes_and_back(graph, larger, source, given.codes)
    if ends:
        target = f"{name}.large"
        after = [_times(graph, target, name, np.float32(1) / told.by)]
    unit = found.scales * np.float32(given.codes.scale)
    sums = np.clip(np.rint(found.bias / unit), -_LARGEST_BIAS, _LARGEST_BIAS).astype(np.int32)
    by = [
        _constant(graph, f"{name}.weight", found.codes),
        _constant(graph, f"{name}.weight.scale", found.scales),
        _constant(graph, f"{name}.weight.zero", np.zeros(len(unit), np.int8)),
    ]
    plus = [_constant(graph, f"{name}.bias", sums), _constant(graph, f"{name}.bias.scale", unit)]
    conv = onnx.NodeProto()
    conv.CopyFrom(layer.node)
    del conv.input[:], conv.output[:]
    conv.input.extend([source, f"{name}.by", f"{name}.plus"])
    conv.output.append(f"{name}.sum")
    nodes = [
        helper.make_node("DequantizeLinear", by, [f"{name}.by"], axis=0),
        helper.make_node("DequantizeLinear", plus, [f"{name}.plus"], axis=0),
        conv,
        *_bytes_and_back(graph, f"{name}.sum", target, told.codes),
    ]
    # The bytes end where the limit would: it is left out.
    _exchange(graph, {name: [], layer.node.output[0]: [*before, *nodes, *after]})


def _constant(graph: onnx.GraphProto, name: str, values: NDArray[Any]) -> str:
    graph.initializer.append(numpy_helper.from_array(values, name))
    return name


def _times(graph: onnx.GraphProto, source: str, target: str, by: Array) -> onnx.NodeProto:
    factors = _constant(graph, f"{target}.times", by[:, None, None])
    return helper.make_node("Mul", [source, factors], [target])


def _bytes_and_back(
    graph: onnx.GraphProto, source: str, target: str, by: Codes
) -> list[onnx.NodeProto]:
    pair = [
        _constant(graph, f"{target}.scale", np.array(by.scale, np.float32)),
        _constant(graph, f"{target}.zero", np.array(by.zero, np.uint8)),
    ]
    middle = f"{target}.bytes"
    return [
        helper.make_node("QuantizeLinear", [source, *pair], [middle]),
        helper.make_node("DequantizeLinear", [middle, *pair], [target]),
    ]


def _exchange(graph: onnx.GraphProto, others: dict[str, list[onnx.NodeProto]]) -> None:
    """Put other nodes in the place of those with these outputs; constants of none are let go."""
    kept = [one for node in graph.node for one in others.get(node.output[0], [node])]
    del graph.node[:]
    graph.node.extend(kept)
    used = {one for node in kept for one in node.input}
    for one in [one for one in graph.initializer if one.name not in used]:
        graph.initializer.remove(one)
