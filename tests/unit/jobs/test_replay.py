from collections.abc import Callable
from pathlib import Path

import pytest

from pulmo.core.bundle import Bundle
from pulmo.core.receipt import Receipt
from pulmo.errors import DataError, ModelError, NotFoundError
from pulmo.jobs.replay import among, replay
from pulmo.serving.models import Model
from pulmo.serving.receipts import make_receipt


@pytest.fixture
def kept(toy_bundle: Bundle, grey_png: Callable[[int], bytes]) -> Receipt:
    answered = Model(toy_bundle).answered([grey_png(200)], explain=False)
    return make_receipt(answered[0], details=False)


def test_a_receipt_stands_with_its_picture_and_its_model(
    kept: Receipt, toy_bundle: Bundle, grey_png: Callable[[int], bytes]
) -> None:
    told = replay(toy_bundle, kept, grey_png(200))
    assert told.same
    assert told.gap <= 1e-6
    assert [line.name for line in told.lines] == [
        "picture", "pixels", "prediction", "decision", "probabilities"
    ]  # fmt: skip


def test_another_picture_is_told(
    kept: Receipt, toy_bundle: Bundle, grey_png: Callable[[int], bytes]
) -> None:
    told = replay(toy_bundle, kept, grey_png(5))
    assert not told.same
    assert {line.name for line in told.lines if not line.same} == {
        "picture", "pixels", "prediction", "probabilities"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "differs"),
    [
        ({"prediction": None}, "prediction"),
        ({"decision": "refer"}, "decision"),
        ({"probabilities": {"DARK": 0.5, "BRIGHT": 0.5}}, "probabilities"),
        ({"probabilities": {"other": 0.5}}, "probabilities"),
        ({"pixels_sha256": "0" * 64}, "pixels"),
    ],
)
def test_a_receipt_that_says_something_else_does_not_stand(
    kept: Receipt,
    toy_bundle: Bundle,
    grey_png: Callable[[int], bytes],
    changes: dict[str, object],
    differs: str,
) -> None:
    told = replay(toy_bundle, kept.model_copy(update=changes), grey_png(200))
    assert [line.name for line in told.lines if not line.same] == [differs]


def test_another_model_is_refused(
    kept: Receipt,
    make_bundle: Callable[..., Bundle],
    grey_png: Callable[[int], bytes],
    tmp_path: Path,
) -> None:
    with pytest.raises(ModelError, match="the receipt is of toy@"):
        replay(make_bundle(tmp_path / "other", weights=b"other"), kept, grey_png(200))


def test_a_receipt_is_found_among_other_lines(kept: Receipt) -> None:
    lines = ["listening", f'{{"note": "{kept.id}"}}'[:9], "", kept.model_dump_json()]
    assert among(lines, kept.id) == kept
    with pytest.raises(NotFoundError, match="no receipt nothing"):
        among(lines, "nothing")
    with pytest.raises(DataError, match="is damaged"):
        among([f'"{kept.id}" torn'], kept.id)
