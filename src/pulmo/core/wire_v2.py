"""What crosses the network in the Open Inference Protocol v2 of KServe, Triton and others."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from pulmo.core.wire import MAX_PICTURES, ModelName

INPUT = "image"
Output = Literal["probabilities", "prediction", "decision", "receipt", "embedding"]
Size = Annotated[int, Field(ge=1)]


def _nested(depth: int) -> dict[str, Any]:
    """The JSON schema of bytes in lists of up to `depth` levels."""
    byte: dict[str, Any] = {"type": "integer", "minimum": 0, "maximum": 255}
    return {"anyOf": [byte, {"type": "array", "items": _nested(depth - 1)}]} if depth else byte


_FILE = {"type": "string", "format": "byte"}
_DATA = {"anyOf": [{"type": "array", "items": one} for one in (_nested(3), _FILE)]}


class _Wire(BaseModel):
    model_config = ConfigDict(frozen=True)


class Server(_Wire):
    """What speaks."""

    name: str
    version: str
    extensions: tuple[str, ...] = ()


class Live(_Wire):
    """Whether the process answers."""

    live: bool


class Ready(_Wire):
    """Whether pictures are answered."""

    ready: bool


class ModelReady(_Wire):
    """Whether a model answers pictures."""

    name: str
    ready: bool


class Tensor(_Wire):
    """Name, type and shape of an input or output; -1 is any number."""

    name: str
    datatype: Literal["UINT8", "FP32", "BYTES"]
    shape: tuple[int, ...]


class ModelMetadata(_Wire):
    """What a model takes and gives."""

    name: str
    versions: tuple[str, ...]
    platform: str = "onnx_onnxruntime"
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    parameters: ModelName


class InferInput(_Wire):
    """Pictures: UINT8 [N, C, H, W] as the graph takes them, or BYTES [N], encoded, in base64.

    `data` is flat or nested, in row-major order.
    """

    name: Literal["image"]
    shape: tuple[Size, ...] = Field(min_length=1, max_length=4, fail_fast=True)
    datatype: Literal["UINT8", "BYTES"]
    data: Annotated[list[Any], WithJsonSchema(_DATA)]


class InferOutputAsked(_Wire):
    """An output that is asked for."""

    name: Output


class InferRequest(_Wire):
    """Up to 16 pictures; without `outputs` all but the embedding are given."""

    id: str | None = Field(default=None, max_length=128)
    inputs: tuple[InferInput, ...] = Field(
        min_length=1,
        max_length=1,
        fail_fast=True,
        description=f"One input with up to {MAX_PICTURES} pictures.",
    )
    outputs: tuple[InferOutputAsked, ...] | None = Field(default=None, max_length=8, fail_fast=True)


class InferOutput(_Wire):
    """An output, flat, in row-major order; a prediction is empty out of distribution.

    `receipt` holds the ids by which the answers are found again.
    """

    name: Output
    datatype: Literal["FP32", "BYTES"]
    shape: tuple[int, ...]
    data: list[float] | list[str]


class InferResponse(_Wire):
    """The answers, all by one model, which `parameters` names."""

    model_name: str
    model_version: str | None = None
    id: str | None = None
    parameters: ModelName
    outputs: tuple[InferOutput, ...]
