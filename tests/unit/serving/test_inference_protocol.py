import base64
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from pulmo import __version__
from pulmo.config.settings import Settings
from pulmo.core.bundle import Bundle
from pulmo.core.preprocess import InputSpec
from pulmo.core.receipt import Receipt
from pulmo.errors import DataError, TooLargeError
from pulmo.jobs.replay import replay
from pulmo.serving import inference_protocol
from pulmo.serving.app import create_app
from pulmo.serving.models import Model, Pinned, Present, Seen
from pulmo.serving.receipts import Receipts

INFER = "/v2/models/toy/infer"
SIDE = 16


def grey(*levels: int) -> np.ndarray[Any, Any]:
    return np.stack([np.full((1, SIDE, SIDE), level, np.uint8) for level in levels])


def tensor(pixels: np.ndarray[Any, Any], **more: Any) -> dict[str, Any]:
    given = {"name": "image", "datatype": "UINT8", "shape": list(pixels.shape)}
    return {"inputs": [{**given, "data": pixels.tolist()}], **more}


def outputs(answer: Any) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    return {
        one["name"]: (one["datatype"], one["shape"], one["data"])
        for one in answer.json()["outputs"]
    }


def test_the_server_and_its_model_tell_of_themselves(
    client: TestClient, toy_bundle: Bundle
) -> None:
    assert client.get("/v2").json() == {"name": "pulmo", "version": __version__, "extensions": []}
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    assert client.get("/v2/models/toy/ready").json() == {"name": "toy", "ready": True}
    told = client.get("/v2/models/toy").json()
    assert told["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, 1, 16, 16]}]
    assert told["outputs"][0] == {"name": "probabilities", "datatype": "FP32", "shape": [-1, 2]}
    assert told["versions"] == []
    assert told["parameters"]["digest"] == toy_bundle.info.model_digest


def test_pixels_are_answered_as_the_model_answers_them(
    client: TestClient, toy_bundle: Bundle
) -> None:
    pixels = grey(5, 200)
    seen = [Seen(one, "a" * 64) for one in pixels]
    expected = [one.answer for one in Model(toy_bundle).judged(seen)]
    for data in (pixels.tolist(), pixels.reshape(-1).tolist()):
        document = tensor(pixels, id="mine")
        document["inputs"][0]["data"] = data
        answer = client.post(INFER, json=document)
        told = outputs(answer)
        assert told["prediction"] == ("BYTES", [2], ["DARK", "BRIGHT"])
        assert told["decision"] == ("BYTES", [2], ["accept", "accept"])
        kind, shape, flat = told["probabilities"]
        assert (kind, shape) == ("FP32", [2, 2])
        assert flat == [p for one in expected for p in one.probabilities.values()]
        assert (answer.json()["id"], answer.json()["model_name"]) == ("mine", "toy")


def test_encoded_pictures_are_answered_too(
    client: TestClient, grey_png: Callable[[int], bytes]
) -> None:
    data = [base64.b64encode(grey_png(level)).decode() for level in (5, 200)]
    given = {"name": "image", "datatype": "BYTES", "shape": [2], "data": data}
    told = outputs(client.post(INFER, json={"inputs": [given]}))
    assert told["prediction"][2] == ["DARK", "BRIGHT"]


def test_outputs_can_be_chosen(client: TestClient) -> None:
    asked = [{"name": "embedding"}, {"name": "decision"}]
    told = outputs(client.post(INFER, json=tensor(grey(200), outputs=asked)))
    assert list(told) == ["embedding", "decision"]
    assert told["embedding"][:2] == ("FP32", [1, 16])
    np.testing.assert_allclose(told["embedding"][2], 200 / 255, rtol=1e-6)


def test_an_unlike_picture_gets_no_prediction(client: TestClient) -> None:
    ramp = np.tile(np.arange(0, 256, 16, dtype=np.uint8), (1, 1, SIDE, 1))
    told = outputs(client.post(INFER, json=tensor(ramp)))
    assert told["prediction"][2] == [""]
    assert told["decision"][2] == ["refer"]


def changed(**fields: Any) -> dict[str, Any]:
    """One grey picture whose input says something else."""
    return {"inputs": [{**tensor(grey(5))["inputs"][0], **fields}]}


BAD: dict[str, tuple[Any, int, str]] = {
    "no JSON": (b"{", 400, "no JSON"),
    "no inputs": ({"inputs": []}, 422, "inputs"),
    "another name": (changed(name="x"), 422, "name"),
    "another type": (changed(datatype="FP32"), 422, "datatype"),
    "no picture": (tensor(np.zeros((0, 1, SIDE, SIDE), np.uint8)), 422, "shape"),
    "too many": (tensor(grey(*range(17))), 422, "from 1 to 16"),
    "another shape": (tensor(np.zeros((1, 1, 8, 8), np.uint8)), 422, "[N, 1, 16, 16]"),
    "other numbers": (changed(data=[256] * 256), 422, "0 to 255"),
    "fractions": (changed(data=[0.5] * 256), 422, "0 to 255"),
    "ragged": (changed(data=[[1, 2], 3]), 422, "0 to 255"),
    "too few": (changed(data=[1, 2]), 422, "2 numbers"),
    "no text": (changed(datatype="BYTES", shape=[1], data=[1]), 422, "base64"),
    "no base64": (changed(datatype="BYTES", shape=[1], data=["!"]), 422, "base64"),
    "another count": (changed(datatype="BYTES", shape=[2], data=[""]), 422, "[N]"),
    "an unknown output": (tensor(grey(5), outputs=[{"name": "logits"}]), 422, "outputs"),
    "too many lists": (b"[" * 70_000, 413, "'['"),
    "too many numbers": (b"," * 70_000, 413, "','"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_answered_is_told_as_the_protocol_says(
    client: TestClient, name: str
) -> None:
    body, status, told = BAD[name]
    sent = {"content": body} if isinstance(body, bytes) else {"json": body}
    answer = client.post(INFER, headers={"Content-Type": "application/json"}, **sent)
    assert answer.status_code == status
    assert told in answer.json()["error"]
    assert answer.json()["error"] == answer.json()["detail"]


@pytest.mark.parametrize("nested", [True, False])
def test_so_many_pictures_are_read_as_are_answered_whatever_the_model_takes(nested: bool) -> None:
    spec = InputSpec(height=224, width=224, channels=3)
    row = b"[" + b",".join([b"0"] * 224) + b"]" if nested else b",".join([b"0"] * 224)
    rows = b",".join([row] * (16 * 3 * 224))
    begin = b'{"inputs":[{"name":"image","datatype":"UINT8","shape":[16,3,224,224],"data":['
    asked = inference_protocol._read(begin + rows + b"]}]}", spec)
    assert len(asked.inputs[0].data) == 16 * 3 * 224 * (1 if nested else 224)
    with pytest.raises(TooLargeError, match="','"):
        inference_protocol._read(begin + rows + b",0" * 2**16 + b"]}]}", spec)
    large = InputSpec(height=2048, width=2048, channels=3)
    with pytest.raises(TooLargeError, match="4,259,840 ','"):  # memory is bounded for all
        inference_protocol._read(begin + b"0," * 2**23, large)


def test_another_type_or_name_is_refused(client: TestClient) -> None:
    assert client.post(INFER, content=b"x").status_code == 415
    assert client.post("/v2/models/other/infer", json=tensor(grey(5))).status_code == 404
    assert client.get("/v2/models/other").status_code == 404
    assert client.get("/v2/models/toy/versions/v1").status_code == 404
    assert client.get("/v2/models/toy/versions/v1/ready").status_code == 404
    assert client.post("/v2/models/toy/versions/v1/infer", json=tensor(grey(5))).status_code == 404


def test_a_server_that_is_not_ready_says_so_here_too(client: TestClient) -> None:
    client.app.state.lane.watch.draining.begun = True  # type: ignore[attr-defined]
    for path in ("/v2/health/ready", "/v2/models/toy/ready"):
        answer = client.get(path)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert client.get("/v2/health/live").status_code == 200


def test_a_model_without_an_embedding_says_so(
    make_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    names = ("probabilities", "logits")
    plain = make_bundle(tmp_path / "plain", outputs=names, outliers=None)
    log = Kept()
    app = create_app(Settings(), Present(Pinned(plain)), receipts=Receipts(lambda: log))
    with TestClient(app, client=("127.0.0.1", 1)) as client:
        assert len(client.get("/v2/models/toy").json()["outputs"]) == 4
        asked = tensor(grey(5), outputs=[{"name": "embedding"}])
        answer = client.post(INFER, json=asked)
        assert (answer.status_code, "no output" in answer.json()["error"]) == (422, True)
        assert "pulmo_answers_total{" not in client.get("/metrics").text
    assert log.receipts == []  # what was not answered leaves none


class Kept:
    """A log in memory."""

    def __init__(self) -> None:
        self.receipts: list[Receipt] = []

    def write(self, receipts: Sequence[Receipt]) -> None:
        self.receipts.extend(receipts)


def test_answers_name_receipts_that_can_be_replayed(
    present: Present, toy_bundle: Bundle, grey_png: Callable[[int], bytes]
) -> None:
    log, pixels = Kept(), grey(5, 200)
    data = [base64.b64encode(grey_png(128)).decode()]
    encoded = {"name": "image", "datatype": "BYTES", "shape": [1], "data": data}
    app = create_app(Settings(), present, receipts=Receipts(lambda: log))
    with TestClient(app, client=("127.0.0.1", 1)) as client:
        kind, shape, ids = outputs(client.post(INFER, json=tensor(pixels)))["receipt"]
        more = outputs(client.post(INFER, json={"inputs": [encoded]}))["receipt"][2]
    assert (kind, shape) == ("BYTES", [2])
    files = [*(one.tobytes() for one in pixels), grey_png(128)]
    sent = dict(zip(ids + more, files, strict=True))
    kept = {one.id: one for one in log.receipts}
    assert kept.keys() == sent.keys()
    assert all(replay(toy_bundle, kept[id_], sent[id_]).same for id_ in sent)
    with pytest.raises(DataError):
        replay(toy_bundle, kept[ids[0]], sent[ids[1]])
