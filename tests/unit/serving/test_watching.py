import io
import json
import logging
from collections.abc import Callable, Iterator

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from pulmo import logs
from pulmo.serving.watching import _age

PNG = {"Content-Type": "image/png"}


@pytest.fixture
def lines() -> Iterator[Callable[[], list[dict[str, object]]]]:
    """What was logged so far, as the documents that the lines are."""
    handler, logger = logging.StreamHandler(io.StringIO()), logging.getLogger(logs.ACCESS)
    handler.setFormatter(logs.Json())
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.INFO)
    yield lambda: [json.loads(line) for line in handler.stream.getvalue().splitlines()]
    logger.setLevel(level)
    logger.removeHandler(handler)


def test_a_request_is_one_line_without_anything_that_was_sent(
    client: TestClient,
    grey_png: Callable[[int], bytes],
    lines: Callable[[], list[dict[str, object]]],
) -> None:
    files = {"file": ("Jane Doe.png", grey_png(5))}
    answer = client.post("/predict?note=Jane", files=files, headers={"Cookie": "hunter2"})
    client.post("/predict", files=files, headers={"Authorization": "Bearer hunter2"})
    client.post("/predict", content=b"Jane Doe", headers=PNG)
    client.get("/Jane/Doe")
    told = [line for line in lines() if line["message"] == "request"]
    assert [(x["method"], x["route"], x["status"]) for x in told] == [
        ("POST", "/predict", 200),
        ("POST", "/predict", 401),
        ("POST", "/predict", 400),
        ("GET", "none", 404),
    ]
    assert told[0]["id"] == answer.headers["X-Request-ID"]
    assert told[0].keys() == {
        "time", "level", "logger", "message", "id", "method", "route", "status", "seconds"
    }  # fmt: skip
    assert "Jane" not in str(told)
    assert "hunter2" not in str(told)


def test_figures_tell_the_mix_of_answers(
    client: TestClient, grey_png: Callable[[int], bytes]
) -> None:
    unlike = io.BytesIO()
    Image.linear_gradient("L").save(unlike, "PNG")
    for picture in (grey_png(5), grey_png(200), grey_png(201), unlike.getvalue(), b"", b"x" * 10):
        client.post("/predict", content=picture, headers=PNG)
    client.post("/predict", content=b"x", headers={"Content-Type": "text/html"})
    told = client.get("/metrics").text.splitlines()
    for line in (
        'pulmo_predictions_total{prediction="DARK"} 1.0',
        'pulmo_predictions_total{prediction="BRIGHT"} 2.0',
        'pulmo_predictions_total{prediction="none"} 1.0',
        'pulmo_answers_total{decision="refer"} 1.0',
        "pulmo_prediction_probability_count 4.0",
        'pulmo_rejected_total{reason="broken"} 2.0',
        'pulmo_rejected_total{reason="kind"} 1.0',
    ):
        assert line in told
    age = next(x for x in told if x.startswith("pulmo_model_age_seconds "))
    assert float(age.split()[1]) > 0
    assert not any(line.startswith("pulmo_receipts") for line in told)


@pytest.mark.parametrize("told", ["yesterday", "2026-01-01T00:00:00"])
def test_a_model_of_unknown_age_has_none(told: str) -> None:
    assert list(_age(told)) == []
