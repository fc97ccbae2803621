"""A service that fails, at any call and in any way, costs the run nothing and is told of."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pulmo.models.tracking import GIVEN_UP, Tracker

CONFIG = {"seed": 3}


class Book:
    """A service that writes down what it is told; it is shut for the calls in `shut`."""

    name, kind = "Book", "wandb"

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.shut: set[str] = set()
        self.id: str | None = None
        self.where: str | None = None

    def _write(self, what: str, *more: Any) -> None:
        if what in self.shut or "all" in self.shut:
            raise ConnectionError("https://ann:pass-word@host is gone\nfor good")
        self.told.append((what, *more))

    def open(self, folder: Path, known: str | None) -> None:
        self._write("open", folder, known)
        self.id, self.where = known or "new", "https://ann:pass-word@host/run"

    def configure(self, values: Mapping[str, Any]) -> None:
        self._write("configure", dict(values))

    def metrics(self, values: Mapping[str, float], step: int | None) -> None:
        self._write("metrics", dict(values), step)

    def picture(self, name: str, png: bytes) -> None:
        self._write("picture", name)

    def text(self, name: str, text: str) -> None:
        self._write("text", name)

    def close(self, status: str) -> None:
        self._write("close", status)


@pytest.fixture
def book() -> Book:
    return Book()


@pytest.fixture(autouse=True)
def _heard(caplog: pytest.LogCaptureFixture, restored_logging: None) -> None:
    import logging

    logging.getLogger("pulmo").propagate = True


def run(book: Book, tracker: Tracker, *, end: str = "done") -> list[str]:
    tracker.log_metrics({"val_loss": 0.5}, step=4)
    tracker.picture("roc", b"png")
    tracker.text("README.md", "# card")
    tracker.finish(end)
    return [what for what, *_ in book.told]


def test_a_run_is_told_in_order(book: Book, tmp_path: Path) -> None:
    tracker = Tracker(book)
    tracker.begin(tmp_path, None, CONFIG)
    assert run(book, tracker) == ["open", "configure", "metrics", "picture", "text", "close"]
    assert book.told[:3] == [
        ("open", tmp_path, None),
        ("configure", CONFIG),
        ("metrics", {"val_loss": 0.5}, 4),
    ]
    assert (tracker.kind, tracker.name, tracker.version) == ("wandb", "Book", "new")
    assert tracker.where == "https://***@host/run"


def test_a_run_that_goes_on_keeps_its_id_and_its_configuration(book: Book, tmp_path: Path) -> None:
    tracker = Tracker(book)
    tracker.begin(tmp_path, "old", CONFIG)
    tracker.finish("stopped")
    assert book.told == [("open", tmp_path, "old"), ("close", "stopped")]


def test_what_lightning_would_say_of_hyperparameters_is_not_said_twice(book: Book) -> None:
    Tracker(book).log_hyperparams({"a": 1})
    assert book.told == []


def test_what_a_service_missed_it_is_told_in_the_end(
    book: Book, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = Tracker(book)
    book.shut = {"open"}
    tracker.begin(tmp_path, None, CONFIG)
    assert tracker.where is None
    tracker.log_metrics({"val_loss": 1.0}, step=1)
    assert book.told == []
    book.shut = set()
    assert run(book, tracker) == [
        "open", "configure", "metrics", "metrics", "picture", "text", "close"
    ]  # fmt: skip
    assert caplog.messages == ["Book did not take the run (https://***@host is gone for good)"]


def test_one_thing_that_is_never_taken_leaves_the_rest(
    book: Book, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = Tracker(book)
    book.shut = {"picture"}
    tracker.begin(tmp_path, None, CONFIG)
    assert run(book, tracker, end="failed") == ["open", "configure", "metrics", "text", "close"]
    assert caplog.messages[-1] == "not told to Book: plots; the run's folder has all of it"


def test_a_service_that_is_gone_is_given_up(
    book: Book, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = Tracker(book)
    book.shut = {"all"}
    tracker.begin(tmp_path, None, CONFIG)
    assert run(book, tracker) == []
    tried = [line for line in caplog.messages if "did not take" in line]
    assert len(tried) == 1 + GIVEN_UP
    assert caplog.messages[-1] == (
        "not told to Book: the run, its configuration, metrics, plots, README.md, its end; "
        "the run's folder has all of it"
    )
    assert "pass-word" not in caplog.text


def test_one_tracker_serves_one_run_after_the_other(book: Book, tmp_path: Path) -> None:
    tracker = Tracker(book)
    book.shut = {"all"}
    tracker.begin(tmp_path / "a", None, CONFIG)
    tracker.finish("failed")
    book.shut = set()
    tracker.begin(tmp_path / "b", None, CONFIG)
    tracker.finish("done")
    assert [told[0] for told in book.told] == ["open", "configure", "close"]
    assert book.told[0] == ("open", tmp_path / "b", None)
