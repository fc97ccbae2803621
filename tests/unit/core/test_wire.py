import base64
import json

import pytest
from pydantic import ValidationError

from pulmo.core.wire import Answer, ManyPictures, ModelName, OnePicture, Problem

MODEL = ModelName(name="toy", version="v3", digest="ab" * 32)


def test_an_answer_survives_the_wire() -> None:
    answer = Answer(
        id="1",
        prediction=None,
        class_index=None,
        probability=0.75,
        probabilities={"A": 0.75, "B": 0.25},
        decision="refer",
        reasons=("unlike",),
        model=MODEL,
        input_sha256="0" * 64,
    )
    told = json.loads(answer.model_dump_json(exclude_unset=True))
    assert (told["prediction"], told["class_index"]) == (None, None)
    assert "image_png" not in told
    assert Answer.model_validate(told) == answer


def test_a_model_is_named_with_and_without_a_version() -> None:
    assert str(MODEL) == "toy:v3@abababababab"
    assert str(MODEL.model_copy(update={"version": None})) == "toy@abababababab"


def test_pictures_come_out_of_base64() -> None:
    text = base64.b64encode(b"picture").decode()
    assert OnePicture.model_validate({"image": text}).image == b"picture"
    assert OnePicture(image=b"picture").model_dump(mode="json") == {"image": text}
    assert ManyPictures.model_validate({"images": [text]}).images == (b"picture",)


@pytest.mark.parametrize("document", [{"images": []}, {"images": ["AA=="] * 17}, {"images": "A"}])
def test_no_picture_and_too_many_are_refused(document: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ManyPictures.model_validate(document)


@pytest.mark.parametrize("text", ["A", "====", "ä", 3, None, "A$A="])
def test_what_is_no_base64_is_refused(text: object) -> None:
    with pytest.raises(ValidationError):
        OnePicture.model_validate({"image": text})


def test_a_problem_is_an_error_by_its_status() -> None:
    with pytest.raises(ValidationError):
        Problem(title="fine", status=200, detail="", instance="")
