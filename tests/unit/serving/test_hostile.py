import base64
import json
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hostile_pictures import KINDS, bombs, hostile

pytestmark = pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")

PNG = {"Content-Type": "image/png"}
JSON = {"Content-Type": "application/json"}
BOUNDARY = "multipart/form-data; boundary=b"
PART = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'


def refused(answer: Any, *statuses: int) -> dict[str, Any]:
    assert answer.status_code in (statuses or range(400, 500)), answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    told: dict[str, Any] = answer.json()
    assert set(told) == {"type", "title", "status", "detail", "instance", "error"}
    assert told["status"] == answer.status_code
    assert told["instance"] == f"urn:uuid:{answer.headers['X-Request-ID']}"
    assert told["detail"]
    return told


@pytest.mark.parametrize(("kind", "data"), list(hostile(1, len(KINDS))), ids=sorted(KINDS))
def test_what_is_no_picture_is_refused_by_every_transport(
    client: TestClient, kind: str, data: bytes
) -> None:
    refused(client.post("/predict", content=data, headers=PNG), 400)
    refused(client.post("/predict", files={"file": ("x.png", data)}), 400)
    text = base64.b64encode(data).decode()
    refused(client.post("/predict", json={"image": text}), 400)
    refused(client.post("/predict", content=data, headers={"Content-Type": "application/dicom"}))


def test_bombs_are_refused_by_what_they_claim(client: TestClient) -> None:
    for data in bombs(2, 12):
        assert len(data) < 100_000
        told = refused(client.post("/predict", content=data, headers=PNG), 400)
        assert "pixels" in told["detail"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"\xff\xfe", 400),
        (b"[" * 100_000, 422),
        (b"null", 422),
        (b"[]", 422),
        (b"{}", 422),
        (b'{"image": 3}', 422),
        (b'{"image": "A"}', 422),
        (b'{"image": "\\ud800"}', 400),
        (b'{"image": "AAAA", "more": 1}', 422),
        (b'{"images": []}', 422),
        (b'{"images": ["AAAA", 3]}', 422),
        (json.dumps({"images": ["AAAA"] * 17}).encode(), 422),
        (b'{"image": "http://localhost/picture.png"}', 422),
        (b'{"image": "", "image": ""}', 400),
    ],
)
def test_documents_that_hold_no_picture_are_refused(
    client: TestClient, body: bytes, status: int
) -> None:
    refused(client.post("/predict", content=body, headers=JSON), status)


@pytest.mark.parametrize(
    "body",
    [
        b'{"images": [' + b"0," * 200_000 + b"0]}",
        b"{" + b'"0": 0,' * 200_000 + b'"1": 0}',
    ],
    ids=["items", "keys"],
)
def test_wrong_items_without_end_are_not_looked_at_one_by_one(
    client: TestClient, body: bytes
) -> None:
    told = refused(client.post("/predict", content=body, headers=JSON), 422)
    assert told["detail"].endswith("with at most 16 pictures")  # no item is named


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        (BOUNDARY, b"", 400),
        (BOUNDARY, b"--c\r\n", 400),
        (BOUNDARY, PART + b"cut", 400),
        (BOUNDARY, b"--b--\r\n", 422),
        (BOUNDARY, PART.replace(b"file", b"other") + b"x\r\n--b--\r\n", 422),
        (BOUNDARY, b"--b\r\n\r\nnameless\r\n--b--\r\n", 422),
        (BOUNDARY, (PART + b"x\r\n") * 17 + b"--b--\r\n", 413),
        (BOUNDARY, (PART.replace(b"file", b"other") + b"x\r\n") * 40 + b"--b--\r\n", 413),
        (BOUNDARY, b"--b\r\n" + b"a: b\r\n" * 1000 + b"\r\n", 400),
        (BOUNDARY, b"--b\r\n" + b"a" * 100_000, 400),
        ("multipart/form-data", PART, 400),
        ("multipart/form-data; boundary=", PART, 400),
        ("multipart/form-data; boundary=" + "b" * 1000, PART, 400),
        ("multipart/form-data; boundary*=UTF-8''b", PART, 400),
        ('multipart/form-data; boundary="', PART, 400),
    ],
)
def test_broken_forms_are_refused(client: TestClient, kind: str, body: bytes, status: int) -> None:
    refused(client.post("/predict", content=body, headers={"Content-Type": kind}), status)


@pytest.mark.parametrize(
    "head",
    [
        {},
        {"Content-Type": ""},
        {"Content-Type": "text/html"},
        {"Content-Type": "image"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "application/octet-stream"},
        {"Content-Type": "image/png", "Content-Encoding": "gzip"},
    ],
)
def test_other_kinds_of_bodies_are_not_read(client: TestClient, head: dict[str, str]) -> None:
    refused(client.post("/predict", content=b"picture", headers=head), 415)
