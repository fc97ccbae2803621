from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pulmo.core.receipt import Receipt, packed, pixels_digest, unpacked
from pulmo.core.wire import ModelName


def made(**changes: object) -> Receipt:
    values = {
        "id": "one",
        "at": datetime.now(UTC),
        "model": ModelName(name="toy", digest="0" * 64),
        "input_sha256": "1" * 64,
        "pixels_sha256": "2" * 64,
        "prediction": None,
        "probability": 0.5,
        "probabilities": {"A": 0.5, "B": 0.5},
        "decision": "refer",
        **changes,
    }
    return Receipt.model_validate(values)


@given(embedding=st.none() | st.binary(max_size=64), distance=st.none() | st.floats(0, 2))
def test_a_receipt_survives_json(embedding: bytes | None, distance: float | None) -> None:
    receipt = made(embedding=embedding, distance=distance, reasons=("a", "b"))
    for left_out in (True, False):
        text = receipt.model_dump_json(exclude_none=left_out)
        assert Receipt.model_validate_json(text).embedding == embedding
    assert Receipt.model_validate_json(receipt.model_dump_json()) == receipt


@pytest.mark.parametrize(
    "changes", [{"input_sha256": "x"}, {"probability": float("nan")}, {"name": "picture.png"}]
)
def test_what_is_no_receipt_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        made(**changes)


def test_the_digest_of_pixels_covers_their_shape_and_not_their_layout() -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(1, 4, 6)
    assert pixels_digest(pixels) == pixels_digest(np.asfortranarray(pixels))
    assert pixels_digest(pixels) != pixels_digest(pixels.reshape(1, 6, 4))
    assert pixels_digest(pixels) != pixels_digest(pixels + 1)


def test_an_embedding_comes_back_from_its_bytes() -> None:
    embedding = np.array([0.0, -1.5, 3e-38], np.float32)
    np.testing.assert_array_equal(unpacked(packed(embedding)), embedding)
