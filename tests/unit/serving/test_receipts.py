import io
import logging
import threading
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from pulmo.config.settings import Settings
from pulmo.core.bundle import Bundle
from pulmo.core.preprocess import read
from pulmo.core.receipt import Receipt, pixels_digest, unpacked
from pulmo.core.wire import ModelName
from pulmo.serving import receipts as module
from pulmo.serving.app import create_app
from pulmo.serving.models import Model, Present
from pulmo.serving.receipts import Lines, Receipts
from pulmo.store.log import SqlReceipts, find_receipt

PNG = {"Content-Type": "image/png"}
OWN = ("127.0.0.1", 50000)


class Kept:
    """A log in memory that can be made to wait or to fail."""

    def __init__(self) -> None:
        self.batches: list[list[Receipt]] = []
        self.open = threading.Event()
        self.open.set()
        self.begun = threading.Event()
        self.failures = 0

    def write(self, receipts: Sequence[Receipt]) -> None:
        self.begun.set()
        assert self.open.wait(20)
        if self.failures:
            self.failures -= 1
            raise OSError("the disk is full")
        self.batches.append(list(receipts))

    @property
    def ids(self) -> list[str]:
        return [one.id for batch in self.batches for one in batch]


def some(count: int) -> list[Receipt]:
    return [
        Receipt(
            id=uuid.uuid4().hex,
            at=datetime.now(UTC),
            model=ModelName(name="toy", digest="0" * 64),
            input_sha256="1" * 64,
            pixels_sha256="2" * 64,
            probability=0.5,
            probabilities={"A": 0.5, "B": 0.5},
            decision="refer",
        )
        for _ in range(count)
    ]


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GATHER_SECONDS", 0.01)
    monkeypatch.setattr(module, "PAUSE_SECONDS", 0.01)


def test_an_answer_leaves_a_receipt_in_the_database(
    present: Present, toy_bundle: Bundle, grey_png: Callable[[int], bytes], tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/log.db"
    app = create_app(Settings(), present, receipts=Receipts(lambda: SqlReceipts(url), details=True))
    with TestClient(app, client=OWN, base_url="http://127.0.0.1") as client:
        told = client.post("/predict", content=grey_png(200), headers=PNG).json()
        assert client.post("/predict", content=b"x", headers=PNG).status_code == 400
    receipt = find_receipt(url, told["id"])
    assert receipt.model.model_dump() == told["model"]
    assert (receipt.prediction, receipt.decision) == ("BRIGHT", "accept")
    assert receipt.probabilities == told["probabilities"]
    assert receipt.input_sha256 == told["input_sha256"]
    pixels = read(grey_png(200), toy_bundle.info.specification.input)
    assert receipt.pixels_sha256 == pixels_digest(pixels)
    assert receipt.distance is not None
    assert receipt.statistics is not None
    assert receipt.statistics["brightness"] == pytest.approx(200 / 255)
    assert receipt.embedding is not None
    assert unpacked(receipt.embedding) == pytest.approx([200 / 255] * 16)


def test_without_a_database_receipts_are_lines(
    present: Present, grey_png: Callable[[int], bytes]
) -> None:
    stream = io.StringIO()
    app = create_app(Settings(), present, receipts=Receipts(lambda: Lines(stream)))
    with TestClient(app, client=OWN, base_url="http://127.0.0.1") as client:
        files = [("file", ("a name", grey_png(level))) for level in (5, 200)]
        told = client.post("/predict", files=files).json()["answers"]
    found = [Receipt.model_validate_json(line) for line in stream.getvalue().splitlines()]
    assert [one.id for one in found] == [one["id"] for one in told]
    assert found[0].embedding is None
    assert "a name" not in stream.getvalue()


def test_receipts_are_written_in_their_order_and_together() -> None:
    log, taken = Kept(), some(3 * module.BATCH)
    with Receipts(lambda: log) as receipts:
        receipts.add(taken)
    assert log.ids == [one.id for one in taken]
    assert max(map(len, log.batches)) == module.BATCH
    assert (receipts.written, receipts.lost, receipts.waiting) == (1500, 0, 0)


def test_a_database_that_comes_back_gets_what_waited(caplog: pytest.LogCaptureFixture) -> None:
    log, taken = Kept(), some(5)
    log.failures = 3
    with Receipts(lambda: log) as receipts:
        receipts.add(taken)
        while receipts.waiting:
            pass
    assert log.ids == [one.id for one in taken]
    assert receipts.lost == 0
    assert caplog.text.count("they cannot be written: the disk is full") == 1


def test_what_finds_no_room_is_counted_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    log = Kept()
    log.open.clear()
    with Receipts(lambda: log, capacity=4) as receipts:
        first, later = some(1), some(3)
        receipts.add(first)
        assert log.begun.wait(20)
        receipts.add(later)
        receipts.add(some(2))
        receipts.add(some(1))
        assert (receipts.waiting, receipts.lost) == (4, 3)
        log.open.set()
    assert log.ids == [one.id for one in first + later]
    assert (receipts.written, receipts.lost) == (4, 3)
    assert caplog.text.count("2 receipts are lost: they come faster") == 1
    assert "3 receipts" not in caplog.text


def test_the_end_waits_for_a_stuck_database_within_its_bound(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log = Kept()
    log.open.clear()
    with Receipts(lambda: log) as receipts:
        receipts.add(some(7))
        monkeypatch.setattr(module, "FLUSH_SECONDS", 0.05)
    assert receipts.lost == 7
    assert "7 receipts are lost" in caplog.text
    receipts.add(some(1))
    assert receipts.lost == 8
    log.open.set()


def test_the_end_gives_a_failing_database_up_within_its_bound(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log = Kept()
    log.failures = 10**9
    monkeypatch.setattr(module, "FLUSH_SECONDS", 0.1)
    with Receipts(lambda: log) as receipts:
        receipts.add(some(2))
    assert (receipts.written, receipts.lost) == (0, 2)
    assert "2 receipts are lost: the disk is full" in caplog.text


def test_what_a_driver_says_is_told_only_where_it_is_ours(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Odd:
        def write(self, receipts: Sequence[Receipt]) -> None:
            raise RuntimeError("password=hunter2")

    monkeypatch.setattr(module, "FLUSH_SECONDS", 0.1)
    with Receipts(Odd) as receipts:
        receipts.add(some(1))
    assert "RuntimeError" in caplog.text
    assert "hunter2" not in caplog.text


def test_an_answer_that_fits_no_receipt_stands_without_one(
    toy_bundle: Bundle, grey_png: Callable[[int], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    answered = Model(toy_bundle).answered([grey_png(5)], explain=False)[0]
    receipts = Receipts(Kept)
    receipts.take([replace(answered, distance=float("nan"))])
    assert (receipts.waiting, receipts.lost) == (0, 1)
    assert "ValidationError in an answer" in caplog.text


def test_no_database_at_all_fails_no_prediction(
    present: Present,
    grey_png: Callable[[int], bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.ERROR)
    monkeypatch.setattr(module, "FLUSH_SECONDS", 0.1)
    (tmp_path / "logs").write_text("in the way", encoding="utf-8")
    log = SqlReceipts(f"sqlite:///{tmp_path}/logs/log.db")
    app = create_app(Settings(), present, receipts=Receipts(lambda: log, capacity=2))
    with TestClient(app, client=OWN, base_url="http://127.0.0.1") as client:
        for _ in range(5):
            answer = client.post("/predict", content=grey_png(5), headers=PNG)
            assert answer.status_code == 200
        lines = client.get("/metrics").text.splitlines()
    assert "pulmo_receipts_written_total 0.0" in lines
    assert "pulmo_receipts_lost_total 3.0" in lines
    assert "pulmo_receipts_waiting 2.0" in lines
    assert "5 receipts are lost: the folder of" in caplog.text
