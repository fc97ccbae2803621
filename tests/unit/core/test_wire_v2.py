import json
from typing import Any

import pytest
from pydantic import ValidationError

from pulmo.core.wire_v2 import InferRequest

INPUT = {"name": "image", "datatype": "UINT8", "shape": [1], "data": []}


@pytest.mark.parametrize(
    "document",
    [
        {"inputs": [0] * 1000},
        {"inputs": [{**INPUT, "shape": [0] * 1000}]},
        {"inputs": [INPUT], "outputs": [0] * 1000},
    ],
    ids=["inputs", "shape", "outputs"],
)
def test_the_first_wrong_item_of_many_ends_the_look(document: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        InferRequest.model_validate_json(json.dumps(document))
    assert caught.value.error_count() <= 3  # too short for it are the lists around it then
