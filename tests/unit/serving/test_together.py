from collections.abc import Callable
from pathlib import Path

import pytest

from pulmo.core.bundle import Bundle
from pulmo.errors import DataError, ModelError
from pulmo.serving.models import Answered, Model, Seen
from pulmo.serving.together import Question, Steps, answer

Encode = Callable[[int], bytes]
Work = Callable[[], Steps[list[str | None]]]


@pytest.fixture
def model(toy_bundle: Bundle) -> Model:
    return Model(toy_bundle)


def asking(model: Model, *encoded: bytes) -> Work:
    def work() -> Steps[list[str | None]]:
        answered = yield Question(model, model.read(encoded, explain=False))
        return [one.answer.prediction for one in answered]

    return work


def test_each_request_gets_the_answers_to_its_own_pictures(model: Model, grey_png: Encode) -> None:
    dark, bright = grey_png(5), grey_png(250)
    works = [asking(model, dark), asking(model, bright, dark), asking(model, bright)]
    assert answer(works) == [(["DARK"], None), (["BRIGHT", "DARK"], None), (["BRIGHT"], None)]


def test_what_is_asked_of_one_model_is_asked_at_once(
    model: Model, grey_png: Encode, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    judged = model.judged

    def noted(pictures: list[Seen]) -> tuple[Answered, ...]:
        asked.append(len(pictures))
        return judged(pictures)

    monkeypatch.setattr(model, "judged", noted)
    answer([asking(model, grey_png(5)), asking(model, grey_png(5), grey_png(9))])
    assert asked == [3]


def test_models_are_never_mixed(
    model: Model, grey_png: Encode, make_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    other = Model(make_bundle(tmp_path / "other", weights=b"other"))

    def naming(one: Model) -> Callable[[], Steps[str]]:
        def work() -> Steps[str]:
            answered = yield Question(one, one.read([grey_png(5)], explain=False))
            return answered[0].answer.model.digest

        return work

    asked = [model, other, model, other]
    told = [digest for digest, _ in answer([naming(one) for one in asked])]
    assert told == [one.name.digest for one in asked]
    assert len(set(told)) == 2


def test_a_picture_that_cannot_be_read_fails_its_own_request_alone(
    model: Model, grey_png: Encode
) -> None:
    (first, none), (nothing, error) = answer([asking(model, grey_png(5)), asking(model, b"torn")])
    assert (first, none, nothing) == (["DARK"], None, None)
    assert isinstance(error, DataError)


def test_a_picture_that_the_graph_fails_on_fails_its_own_request_alone(
    model: Model, grey_png: Encode, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = model.judged

    def strict(pictures: list[Seen]) -> tuple[Answered, ...]:
        if any(one.pixels.max() > 200 for one in pictures):
            raise ModelError("values that are not finite")
        return judged(pictures)

    monkeypatch.setattr(model, "judged", strict)
    told = answer([asking(model, grey_png(5)), asking(model, grey_png(250))])
    assert [(result, type(error)) for result, error in told] == [
        (["DARK"], type(None)),
        (None, ModelError),
    ]


def test_what_goes_wrong_after_the_answer_is_told_to_its_request_alone(
    model: Model, grey_png: Encode
) -> None:
    def fails() -> Steps[list[str | None]]:
        yield Question(model, model.read([grey_png(5)], explain=False))
        raise KeyError("of ours")

    (nothing, error), (told, none) = answer([fails, asking(model, grey_png(5))])
    assert (nothing, type(error), told, none) == (None, KeyError, ["DARK"], None)
