import base64
import difflib
import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from pulmo import errors
from pulmo.config.settings import Settings
from pulmo.core.bundle import Bundle
from pulmo.core.wire import Answer, Answers
from pulmo.serving.app import create_app
from pulmo.serving.limits import Limits
from pulmo.serving.models import Model, Pinned, Present
from pulmo.serving.problems import STATUSES, status_of

OPENAPI = Path(__file__).parents[3] / "docs/openapi.json"
PNG = {"Content-Type": "image/png"}

Encode = Callable[[int], bytes]

OWN = ("127.0.0.1", 50000)


def ask(client: TestClient, picture: bytes, query: str = "") -> Answer:
    answer = client.post(f"/predict{query}", content=picture, headers=PNG)
    assert answer.status_code == 200, answer.text
    return Answer.model_validate_json(answer.content)


def test_an_answer_names_what_was_asked_and_who_answered(
    client: TestClient, toy_bundle: Bundle, grey_png: Encode
) -> None:
    answer = ask(client, grey_png(200))
    assert (answer.prediction, answer.class_index, answer.decision) == ("BRIGHT", 1, "accept")
    assert answer.probabilities.keys() == {"DARK", "BRIGHT"}
    assert answer.probability == answer.probabilities["BRIGHT"]
    assert answer.input_sha256 == hashlib.sha256(grey_png(200)).hexdigest()
    assert answer.model.digest == toy_bundle.info.model_digest
    assert answer.image_png is None
    assert ask(client, grey_png(200)).id != answer.id


def test_a_doubtful_picture_is_referred_with_a_reason(client: TestClient, grey_png: Encode) -> None:
    answer = ask(client, grey_png(128))
    assert (answer.prediction, answer.decision) == ("BRIGHT", "refer")
    assert "where a human decides" in answer.reasons[0]


def test_an_unlike_picture_gets_no_diagnosis(client: TestClient) -> None:
    buffer = io.BytesIO()
    Image.linear_gradient("L").save(buffer, "PNG")
    answer = client.post("/predict", content=buffer.getvalue(), headers=PNG).json()
    assert (answer["prediction"], answer["class_index"]) == (None, None)
    assert answer["decision"] == "refer"
    assert "unlike" in answer["reasons"][0]


def test_many_pictures_are_answered_in_their_order(client: TestClient, grey_png: Encode) -> None:
    levels = (5, 200, 128)
    files = [("file", (f"{level}.png", grey_png(level))) for level in levels]
    form = client.post("/predict", files=[*files, ("note", (None, b"ignored"))])
    images = [base64.b64encode(grey_png(level)).decode() for level in levels]
    document = client.post("/predict", json={"images": images})
    for answer in (form, document):
        told = Answers.model_validate_json(answer.content).answers
        assert [one.prediction for one in told] == ["DARK", "BRIGHT", "BRIGHT"]
        assert len({one.id for one in told}) == 3
    one = client.post("/predict", json={"images": images[:1]}).json()
    assert len(one["answers"]) == 1


def test_one_bad_picture_of_many_is_named(client: TestClient, grey_png: Encode) -> None:
    files = [("file", ("a", grey_png(5))), ("file", ("b", b"no picture"))]
    answer = client.post("/predict", files=files)
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith("picture 2 of 2: not a picture")


def test_an_explanation_is_a_picture_and_a_layer(client: TestClient, grey_png: Encode) -> None:
    answer = ask(client, grey_png(200), "?explain=true")
    assert answer.image_png is not None
    assert answer.heatmap_png is not None
    blended, layer = (
        Image.open(io.BytesIO(base64.b64decode(text)))
        for text in (answer.image_png, answer.heatmap_png)
    )
    assert (blended.mode, layer.mode, blended.size, layer.size) == (
        "RGB",
        "RGBA",
        (512, 512),
        (512, 512),
    )
    # All of an evenly bright picture speaks for BRIGHT: the hottest colour at full strength.
    np.testing.assert_array_equal(np.asarray(layer)[7, 7], (252, 255, 164, 255))
    expected = np.rint(0.4 * 200 + 0.6 * np.array((252, 255, 164)))
    np.testing.assert_array_equal(np.asarray(blended)[7, 7], expected)


def test_a_model_without_heat_maps_says_so(
    make_bundle: Callable[..., Bundle], tmp_path: Path, grey_png: Encode
) -> None:
    bundle = make_bundle(tmp_path / "plain", outputs=("probabilities", "logits", "embedding"))
    with TestClient(create_app(Settings(), Present(Pinned(bundle))), client=OWN) as client:
        answer = client.post("/predict?explain=1", content=grey_png(5), headers=PNG)
        assert answer.status_code == 422
        assert "draws no heat maps" in answer.json()["detail"]


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


GREY = Image.new("L", (40, 40), 200)
TURNS = [Image.Exif() for _ in range(8)]
for _turn, _exif in enumerate(TURNS, 1):
    _exif[0x0112] = _turn
ODDITIES = {
    "1-bit": encoded(Image.new("1", (40, 40), 1), "PNG"),
    "16-bit": encoded(Image.fromarray(np.full((40, 40), 51400, np.uint16)), "PNG"),
    "LA": encoded(GREY.convert("LA"), "PNG"),
    "RGBA": encoded(GREY.convert("RGBA"), "PNG"),
    "palette": encoded(GREY.convert("P"), "PNG", transparency=0),
    "CMYK": encoded(GREY.convert("CMYK"), "JPEG"),
    "progressive": encoded(GREY, "JPEG", progressive=True),
    "RGB JPEG": encoded(GREY.convert("RGB"), "JPEG"),
    "WebP": encoded(GREY, "WEBP", lossless=True),
    "BMP": encoded(GREY, "BMP"),
    "TIFF": encoded(GREY, "TIFF"),
    "TIFF LZW": encoded(GREY, "TIFF", compression="tiff_lzw"),
    "TIFF 16-bit": encoded(Image.fromarray(np.full((40, 40), 51400, np.uint16)), "TIFF"),
    "animated WebP": encoded(
        GREY, "WEBP", save_all=True, append_images=[Image.new("L", (40, 40), 0)]
    ),
    **{f"turn {i}": encoded(GREY, "JPEG", exif=exif) for i, exif in enumerate(TURNS, 1)},
}


@pytest.mark.parametrize("name", ODDITIES)
def test_odd_but_legal_pictures_are_answered_as_their_plain_twin(
    client: TestClient, name: str
) -> None:
    assert ask(client, ODDITIES[name]).prediction == "BRIGHT"


def test_a_media_type_may_have_parameters_and_any_case(
    client: TestClient, grey_png: Encode
) -> None:
    for kind in ("IMAGE/PNG", "image/x-anything; q=1", "application/dicom"):
        head = {"Content-Type": kind}
        assert client.post("/predict", content=grey_png(5), headers=head).status_code == 200


def test_health_names_the_model(client: TestClient, toy_bundle: Bundle) -> None:
    assert client.get("/livez").json()["status"] == "ok"
    for path in ("/health", "/readyz"):
        told = client.get(path).json()
        assert (told["status"], told["model"]["digest"]) == ("ok", toy_bundle.info.model_digest)


def test_a_server_about_to_end_is_not_ready_and_closes_connections(
    present: Present, grey_png: Encode
) -> None:
    app = create_app(Settings(), present)
    with TestClient(app, client=OWN) as client:
        app.state.lane.watch.draining.begun = True
        answer = client.get("/readyz")
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
        assert answer.json()["reason"] == "the server is about to end"
        accepted = client.post("/predict", content=grey_png(5), headers=PNG)
        assert (accepted.status_code, accepted.headers["Connection"]) == (200, "close")


def test_without_a_model_nothing_is_answered_but_life(present: Present, grey_png: Encode) -> None:
    client = TestClient(create_app(Settings(), present), client=OWN)  # not entered, nothing loaded
    assert client.get("/livez").status_code == 200
    assert client.get("/readyz").json()["reason"] == "no model is loaded yet"
    told = [client.head(path) for path in ("/livez", "/readyz", "/health")]
    assert [(one.status_code, one.content) for one in told] == [(200, b""), (503, b""), (503, b"")]
    for answer in (
        client.post("/predict", content=grey_png(5), headers=PNG),
        client.get("/model/info"),
    ):
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
        assert "no model is loaded yet" in answer.json()["detail"]


def test_the_model_tells_of_itself(client: TestClient, toy_bundle: Bundle) -> None:
    told = client.get("/model/info").json()
    assert told["specification"]["classes"] == ["DARK", "BRIGHT"]
    assert told["metrics"]["val"]["auroc"]["value"] == 0.9
    assert told["bundle_digest"] == toy_bundle.digest
    assert not {"configuration", "machine"} & told["lineage"].keys()
    card = client.get("/model/card")
    assert (card.text, card.headers["Content-Type"]) == ("# toy\n", "text/markdown; charset=utf-8")
    assert client.get("/model/curves").json() == {}


def test_figures_count_what_was_answered(client: TestClient, grey_png: Encode) -> None:
    ask(client, grey_png(5))
    ask(client, grey_png(128))
    client.post("/predict", content=b"", headers=PNG)
    client.get("/nowhere")
    lines = client.get("/metrics").text.splitlines()
    assert 'pulmo_answers_total{decision="accept"} 1.0' in lines
    assert 'pulmo_answers_total{decision="refer"} 1.0' in lines
    assert 'http_requests_total{route="/predict",status="200"} 2.0' in lines
    assert 'http_requests_total{route="/predict",status="400"} 1.0' in lines
    assert 'http_requests_total{route="none",status="404"} 1.0' in lines
    assert "pulmo_queue_length 0.0" in lines
    assert any(line.startswith("pulmo_model_info{") and 'name="toy"' in line for line in lines)


def test_every_answer_has_an_id_and_is_never_guessed_to_be_a_page(client: TestClient) -> None:
    for path in ("/livez", "/model/card", "/nowhere"):
        head = client.get(path).headers
        assert len(head["X-Request-ID"]) == 36
        assert head["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:8000", 200),
        ("[::1]:8000", 200),
        ("evil.example", 400),
        ("localhost.evil.example:80", 400),
        ("evil.example:80@localhost", 400),
        ("", 400),
    ],
)
def test_a_name_that_somebody_else_chose_is_refused(
    present: Present, grey_png: Encode, host: str, status: int
) -> None:
    app = create_app(Settings(), present, hosts=frozenset({"localhost", "[::1]"}))
    with TestClient(app, client=OWN) as client:
        answer = client.post("/predict", content=grey_png(5), headers={**PNG, "Host": host})
        assert answer.status_code == status
        if status == 400:
            assert answer.headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/x", 404), ("PUT", "/livez", 405)])
def test_what_is_not_there_is_a_problem(
    client: TestClient, method: str, path: str, status: int
) -> None:
    answer = client.request(method, path, content=b"body")
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["instance"] == f"urn:uuid:{answer.headers['X-Request-ID']}"


def test_a_wrong_parameter_is_a_problem(client: TestClient, grey_png: Encode) -> None:
    answer = client.post("/predict?explain=perhaps", content=grey_png(5), headers=PNG)
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("query.explain")


def test_a_body_is_refused_by_its_told_and_by_its_real_length(
    serve: Callable[..., TestClient], grey_png: Encode
) -> None:
    client = serve(body_bytes=1000)
    assert client.post("/predict", content=grey_png(5), headers=PNG).status_code == 200
    told = client.post("/predict", content=bytes(1001), headers=PNG)
    real = client.post("/predict", content=iter([bytes(600)] * 3), headers=PNG)
    for answer in (told, real):
        assert answer.status_code == 413
        assert answer.json()["detail"] == "a body may have 1,000 bytes at most"
        assert answer.headers["Connection"] == "close"


def test_bodies_together_have_a_bound(serve: Callable[..., TestClient]) -> None:
    answer = serve(memory_bytes=1000).post("/predict", content=bytes(1001), headers=PNG)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")


def test_a_full_queue_sheds(serve: Callable[..., TestClient], grey_png: Encode) -> None:
    client = serve(workers=1, waiting=-1)
    answer = client.post("/predict", content=grey_png(5), headers=PNG)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert "too many requests" in answer.json()["detail"]
    assert client.get("/readyz").json()["reason"] == "too many requests are waiting"


def test_a_fault_of_ours_is_told_without_its_inside(
    client: TestClient,
    grey_png: Encode,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr(Model, "judged", fails)
    answer = client.post("/predict", content=grey_png(5), headers=PNG)
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert answer.headers["X-Request-ID"] in caplog.text
    monkeypatch.setattr(Model, "judged", broken)
    answer = client.post("/predict", content=grey_png(5), headers=PNG)
    assert (answer.status_code, answer.json()["title"]) == (500, "Internal Server Error")


def broken(*_: object, **__: object) -> None:
    raise errors.ModelError("the graph failed")


def test_every_error_has_a_status() -> None:
    kinds = [one for one in vars(errors).values() if isinstance(one, type)]
    assert {kind for kind in kinds if status_of(kind("")) < 500} == {
        errors.DataError,
        errors.UnauthorizedError,
        errors.ForbiddenError,
        errors.ForgedError,
        errors.NotFoundError,
        errors.ConflictError,
        errors.RefusedError,
        errors.TooManyError,
        errors.TooSlowError,
        errors.TooLargeError,
        errors.MediaTypeError,
        errors.InvalidError,
    }
    assert STATUSES[errors.BusyError] == 503


def test_the_interface_is_the_one_that_was_agreed(client: TestClient) -> None:
    found = json.dumps(client.get("/openapi.json").json(), indent=2, ensure_ascii=False) + "\n"
    agreed = OPENAPI.read_text(encoding="utf-8") if OPENAPI.is_file() else ""
    changes = "\n".join(difflib.unified_diff(agreed.splitlines(), found.splitlines(), "agreed"))
    assert found == agreed, f"if this is meant, change docs/{OPENAPI.name}:\n{changes}"


def test_limits_leave_the_application_its_defaults(present: Present) -> None:
    assert create_app(Settings(), present, None).title == "Pulmo"
    assert Limits().allowed(64 * 1024) == Limits().receive_s + 1
