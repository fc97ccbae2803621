"""A look into an ONNX file before ONNX Runtime reads it: what no bundle's graph may hold.

Only the few fields that matter are read, as protobuf lays them out:
https://protobuf.dev/programming-guides/encoding/, https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from collections.abc import Iterator

from pulmo.errors import ModelError

# Operators that may run without end; a classifier has no use for them.
ENDLESS = frozenset({b"Loop", b"Scan", b"SequenceMap"})
MAX_DEPTH = 16

# Message → {field: message inside}. Numbers are those of onnx.proto.
_INSIDE = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_OPERATOR, _EXTERNAL_DATA, _DATA_LOCATION = 4, 13, 14


def inspect(graph: bytes) -> None:
    """Raise ModelError for data outside the file, operators without end, or no such file."""
    try:
        _walk(memoryview(graph), "model", 0)
    except (IndexError, ValueError) as error:
        raise ModelError(f"the graph is no ONNX file: {error}") from error


def _walk(data: memoryview, message: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ModelError("the graph holds graphs in graphs, deeper than any classifier's")
    inside = _INSIDE[message]
    for number, value in _fields(data):
        if message == "tensor" and number in (_EXTERNAL_DATA, _DATA_LOCATION) and value:
            raise ModelError("the graph keeps data outside its file")
        if isinstance(value, int):
            continue
        if message == "node" and number == _OPERATOR and bytes(value) in ENDLESS:
            raise ModelError(
                f"the graph has the operator {bytes(value).decode()}, it may never end"
            )
        if number in inside:
            _walk(value, inside[number], depth + (inside[number] == "graph"))


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """The fields of a message: numbers as they are, everything else as its bytes."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        if key >> 32:
            raise ValueError("a field's number is too large")  # other readers would cut it short
        kind = key & 7
        if kind == 0:
            value, position = _varint(data, position)
            yield key >> 3, value
            continue
        if kind == 2:
            size, position = _varint(data, position)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"a field of kind {kind}")
        if position + size > len(data):
            raise ValueError("a field is longer than the file")
        yield key >> 3, data[position : position + size]
        position += size


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a number without an end")
