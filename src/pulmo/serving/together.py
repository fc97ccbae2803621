"""Requests that wait together are answered together: what they ask of one model is asked at once.

The graph gains nothing by that on a processor; all that is done around it does, as code and
reference are fetched into the caches once for several requests.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pulmo.serving.models import Answered, Model, Seen
from pulmo.serving.pool import Outcome, bare

T = TypeVar("T")


@dataclass(frozen=True)
class Question:
    """Pictures that a model is asked to judge."""

    model: Model
    pictures: Sequence[Seen]


Steps = Generator[Question, Sequence[Answered], T]  # asks one question, and makes of its answers T


def answer(works: Sequence[Callable[[], Steps[Any]]]) -> list[Outcome[Any]]:
    """The outcome of each work; one that fails does not touch the others."""
    outcomes: dict[int, Outcome[Any]] = {}
    asked: dict[int, tuple[Steps[Any], Question]] = {}
    for index, work in enumerate(works):
        steps = work()
        try:
            asked[index] = steps, next(steps)
        except Exception as error:  # noqa: BLE001 - whoever waits is told
            outcomes[index] = None, bare(error)
    for model in {id(question.model): question.model for _, question in asked.values()}.values():
        group = {i: one for i, one in asked.items() if one[1].model is model}
        outcomes |= _judged(model, group)
    return [outcomes[index] for index in range(len(works))]


def _judged(model: Model, group: dict[int, tuple[Steps[Any], Question]]) -> dict[int, Outcome[Any]]:
    """The outcomes of questions to one model; where they fail together each is asked alone."""
    pictures = [one for _, question in group.values() for one in question.pictures]
    try:
        answered = model.judged(pictures)
    except Exception as error:  # noqa: BLE001 - whoever waits is told
        if len(group) == 1:
            return dict.fromkeys(group, (None, bare(error)))
        alone: dict[int, Outcome[Any]] = {}
        for index, one in group.items():
            alone |= _judged(model, {index: one})
        return alone
    outcomes: dict[int, Outcome[Any]] = {}
    start = 0
    for index, (steps, question) in group.items():
        end = start + len(question.pictures)
        outcomes[index] = _ended(steps, answered[start:end])
        start = end
    return outcomes


def _ended(steps: Steps[Any], answered: Sequence[Answered]) -> Outcome[Any]:
    try:
        steps.send(answered)
    except StopIteration as end:
        return end.value, None
    except Exception as error:  # noqa: BLE001 - whoever waits is told
        return None, bare(error)
    raise AssertionError("a work asks one question")
