"""The receipt of a prediction: what was asked, and which model answered what.

A receipt holds digests of the picture, never the picture itself, its name or who sent it.
"""

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from pulmo.core.preprocess import Pixels
from pulmo.core.wire import ModelName

Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


def _unpack(value: object) -> object:
    return base64.b64decode(value, validate=True) if isinstance(value, str) else value


def _pack(value: bytes | None) -> str | None:
    return None if value is None else base64.b64encode(value).decode("ascii")


class Receipt(BaseModel):
    """One answered picture.

    `pixels_sha256` is that of the uint8 pixels [C, H, W] which the graph took: it says that
    decoding and resizing were the same. `prediction` is None out of distribution, `distance` where
    the model has no outlier limit. `embedding` is float32, little-endian; it and `statistics` are
    there only where the server was told to keep them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    id: str = Field(min_length=1, max_length=64)
    at: datetime
    model: ModelName
    input_sha256: Digest
    pixels_sha256: Digest
    prediction: str | None = None
    probability: float
    probabilities: dict[str, float]
    decision: Literal["accept", "refer"]
    reasons: tuple[str, ...] = ()
    distance: float | None = None
    statistics: dict[str, float] | None = None
    embedding: Annotated[
        bytes | None,
        BeforeValidator(_unpack),
        PlainSerializer(_pack, return_type=str | None, when_used="json"),
    ] = None


@dataclass(frozen=True)
class DriftWindow:
    """Consecutive answers of one model that were held against its reference.

    `first` and `last` are the ids of their receipts, `p` and `bound` those of the report, which
    `document` holds as JSON does.
    """

    model: str
    model_digest: str
    first: str
    last: str
    begins: datetime
    ends: datetime
    pictures: int
    p: float
    bound: float
    document: Mapping[str, Any]


class ReceiptLog(Protocol):
    """Where receipts are kept."""

    def write(self, receipts: Sequence[Receipt]) -> None:
        """Keep receipts, all or none; one that is there already is left as it is.

        Raises whatever the place raises that cannot keep them.
        """


class DriftLog(Protocol):
    """Receipts that are looked back at, and what was found in them."""

    def receipts(self, model_digest: str, since: datetime | None) -> Iterator[Receipt]:
        """The receipts of one model, oldest first, from `since` on."""

    def judged(self, model_digest: str, bound: float) -> Mapping[tuple[str, str], DriftWindow]:
        """The kept windows of one model under one bound, by first and last receipt."""

    def keep(self, windows: Sequence[DriftWindow]) -> None:
        """Keep windows; one that is there already is left as it is."""


def pixels_digest(pixels: Pixels) -> str:
    """SHA-256 over the shape and the values of uint8 pixels [C, H, W]."""
    digest = hashlib.sha256("x".join(map(str, pixels.shape)).encode() + b" ")
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def packed(embedding: NDArray[np.float32]) -> bytes:
    """An embedding as the bytes that a receipt holds."""
    return embedding.astype("<f4").tobytes()


def unpacked(data: bytes) -> NDArray[np.float32]:
    """The embedding float32 [D] that `packed` made."""
    return np.frombuffer(data, "<f4").astype(np.float32)
