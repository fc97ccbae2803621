"""A receipt replayed: the same picture through the same model, and whether the same comes out."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from pulmo.core.bundle import Bundle, sha256
from pulmo.core.decision import Decider
from pulmo.core.preprocess import InputSpec, Pixels, read
from pulmo.core.receipt import Receipt, pixels_digest
from pulmo.errors import DataError, ModelError, NotFoundError
from pulmo.inference.engine import load

GAP = 1e-4  # of a probability: another processor, or a picture answered among others


@dataclass(frozen=True)
class Line:
    """One fact as the receipt has it and as it is now."""

    name: str
    recorded: str
    replayed: str
    same: bool


@dataclass(frozen=True)
class Replay:
    """What a replay found. `gap` is the largest difference of a probability."""

    receipt: Receipt
    lines: tuple[Line, ...]
    gap: float

    @property
    def same(self) -> bool:
        """Whether the receipt stands."""
        return all(line.same for line in self.lines)


def replay(bundle: Bundle, receipt: Receipt, encoded: bytes) -> Replay:
    """Answer a picture once more with the receipt's model and hold it against the receipt.

    `encoded` is what was sent: a picture's file, or of a tensor the C·H·W bytes of one picture.
    Raises ModelError for the bundle of another model, DataError for a picture that is not read.
    """
    if bundle.info.model_digest != receipt.model.digest:
        raise ModelError(
            f"the receipt is of {receipt.model}, not of the model {bundle.info.model_digest[:12]}"
        )
    spec = bundle.info.specification
    pixels = _tensor(encoded, receipt, spec.input)
    if pixels is None:
        pixels = read(encoded, spec.input)
    outputs = load(bundle, threads=1)(pixels[np.newaxis])
    answer = Decider(spec, bundle.reference().get("embeddings")).answers(outputs)[0]
    found = dict(zip(spec.classes, answer.probabilities, strict=True))
    same_classes = found.keys() == receipt.probabilities.keys()
    gaps = [abs(p - receipt.probabilities.get(name, 2.0)) for name, p in found.items()]
    gap = max(gaps)
    lines = (
        _line("picture", receipt.input_sha256, sha256(encoded)),
        _line("pixels", receipt.pixels_sha256, pixels_digest(pixels)),
        _line("prediction", receipt.prediction or "none", answer.label or "none"),
        _line("decision", receipt.decision, answer.decision),
        Line(
            "probabilities",
            _probabilities(receipt.probabilities),
            _probabilities(found),
            same_classes and gap <= GAP,
        ),
    )
    return Replay(receipt, lines, gap)


def among(lines: Iterable[str], receipt_id: str) -> Receipt:
    """The receipt with this id among lines of JSON; other lines may be anything.

    Raises NotFoundError where there is none, DataError where its line is damaged.
    """
    for line in lines:
        if f'"{receipt_id}"' in line:
            try:
                receipt = Receipt.model_validate_json(line)
            except ValueError as error:
                raise DataError(f"the line of receipt {receipt_id} is damaged") from error
            if receipt.id == receipt_id:
                return receipt
    raise NotFoundError(f"the lines hold no receipt {receipt_id}")


def _tensor(data: bytes, receipt: Receipt, spec: InputSpec) -> Pixels | None:
    """The pixels uint8 [C, H, W] that `data` are, None unless the receipt is of just these."""
    shape = (spec.channels, spec.height, spec.width)
    if len(data) != math.prod(shape):
        return None
    pixels = np.frombuffer(data, np.uint8).reshape(shape)
    return pixels if pixels_digest(pixels) == receipt.pixels_sha256 else None


def _line(name: str, recorded: str, replayed: str) -> Line:
    return Line(name, recorded, replayed, recorded == replayed)


def _probabilities(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.6f}" for name, value in values.items())
