"""A log is watched picture by picture; its windows are judged once and kept."""

import uuid
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from drifting import draw, with_reference

from pulmo.core.bundle import Bundle
from pulmo.core.preprocess import Pixels
from pulmo.core.receipt import Receipt, packed
from pulmo.core.statistics import picture_statistics
from pulmo.core.wire import ModelName
from pulmo.errors import DataError
from pulmo.inference.engine import load
from pulmo.jobs import drift_log
from pulmo.jobs.drift_log import judge_log
from pulmo.store.log import SqlReceipts
from pulmo.store.windows import SqlWindows

START = datetime(2026, 11, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def bundle(toy_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return with_reference(toy_bundle, tmp_path_factory.mktemp("drift") / "bundle")


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/log.db"


def keep(url: str, bundle: Bundle, pixels: Pixels, minute: int, *, details: bool = True) -> None:
    """Receipts of pictures that were answered one a minute."""
    outputs, classes = load(bundle)(pixels), bundle.info.specification.classes
    statistics = picture_statistics(pixels)
    assert outputs.embedding is not None
    receipts = [
        Receipt(
            id=uuid.uuid4().hex,
            at=START + timedelta(minutes=minute + i),
            model=ModelName(name="toy", digest=bundle.info.model_digest),
            input_sha256="1" * 64,
            pixels_sha256="2" * 64,
            prediction=classes[int(outputs.probabilities[i].argmax())],
            probability=float(outputs.probabilities[i].max()),
            probabilities=dict(zip(classes, map(float, outputs.probabilities[i]), strict=True)),
            decision="accept",
            embedding=packed(outputs.embedding[i]) if details else None,
            statistics={n: float(v[i]) for n, v in statistics.items()} if details else None,
        )
        for i in range(len(pixels))
    ]
    with closing(SqlReceipts(url)) as log:
        log.write(receipts)


def test_a_quiet_log_does_not_alarm(bundle: Bundle, url: str, tmp_path: Path) -> None:
    keep(url, bundle, draw(110, 1), 0)
    found = judge_log(bundle, SqlWindows(url), None, 50, tmp_path / "out", 0.01)
    assert not found.alarm
    assert found.watch is not None
    assert (len(found.watch.evidence), found.watch.spacing) == (110, 100_000)
    assert [one.report.pictures for one in found.watch.windows] == [50, 50]
    assert found.watch.windows[0].begins == START
    assert found.watch.windows[1].ends == START + timedelta(minutes=99)
    assert (tmp_path / "out/drift-timeline.png").stat().st_size > 1000


def test_a_change_is_found_soon_and_dated(bundle: Bundle, url: str, tmp_path: Path) -> None:
    keep(url, bundle, draw(100, 1), 0)
    keep(url, bundle, draw(60, 2, lift=70), 100)
    found = judge_log(bundle, SqlWindows(url), None, 50, tmp_path / "out", 0.01)
    watch = found.watch
    assert watch is not None
    assert watch.alarm is not None
    assert found.alarm
    assert 100 < watch.alarm.picture <= 140
    assert watch.alarm_at == START + timedelta(minutes=watch.alarm.picture - 1)
    assert set(found.moved) & {"brightness", "score"}
    assert [one.report.alarm for one in watch.windows] == [False, False, True]
    page = (tmp_path / "out/drift.html").read_text(encoding="utf-8")
    assert f"enough evidence at picture {watch.alarm.picture}" in page


def test_whole_windows_are_judged_once(
    bundle: Bundle, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(url, bundle, draw(75, 1), 0)
    log = SqlWindows(url)
    first = judge_log(bundle, log, None, 50, tmp_path / "out", 0.01)
    assert len(log.judged(bundle.info.model_digest, 0.01)) == 1
    judged = []
    plain = drift_log.look_at

    def counted(*arguments: object) -> object:
        judged.append(1)
        return plain(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(drift_log, "look_at", counted)
    again = judge_log(bundle, log, None, 50, tmp_path / "out", 0.01)
    assert again.document() == first.document()
    assert len(judged) == 1  # the last window, which is not whole yet


def test_it_begins_where_it_is_told(bundle: Bundle, url: str, tmp_path: Path) -> None:
    keep(url, bundle, draw(60, 1, lift=70), 0)
    keep(url, bundle, draw(60, 2), 60)
    since = START + timedelta(minutes=60)
    found = judge_log(bundle, SqlWindows(url), since, 50, tmp_path / "out", 0.01)
    assert not found.alarm
    assert found.source == "60 receipts"


def test_what_the_log_does_not_keep_is_told(bundle: Bundle, url: str, tmp_path: Path) -> None:
    keep(url, bundle, draw(60, 1), 0, details=False)
    found = judge_log(bundle, SqlWindows(url), None, 50, tmp_path / "out", 0.01)
    assert "embedding" in found.look.report.unknown
    assert "unseen" in str(found.look.expected.doubt)
    assert "PULMO_LOG_EMBEDDINGS=1" in (tmp_path / "out/drift.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("n", [0, 19])
def test_too_few_receipts_are_told_how_many_are_needed(
    bundle: Bundle, url: str, tmp_path: Path, n: int
) -> None:
    keep(url, bundle, draw(30, 1), 0)
    since = START + timedelta(minutes=30 - n)
    with pytest.raises(DataError, match=f"holds {n} receipts of toy .* at least 20 are needed"):
        judge_log(bundle, SqlWindows(url), since, 50, tmp_path / "out", 0.01)
