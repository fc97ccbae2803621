import asyncio
import threading
from collections.abc import Callable

import pytest
from fastapi.testclient import TestClient

from pulmo.config.settings import Settings
from pulmo.core.bundle import Bundle
from pulmo.errors import RegistryError
from pulmo.serving import life
from pulmo.serving.app import create_app
from pulmo.serving.limits import Limits
from pulmo.serving.models import Model, Present
from pulmo.serving.pool import Pool


async def _repeated(call: Callable[[], None], enough: Callable[[], bool]) -> None:
    await life._repeat(Pool(Limits()), call, (0.0, 0.0), "the present model stays", enough)


def test_whatever_fails_is_told_once_and_called_again(caplog: pytest.LogCaptureFixture) -> None:
    faults = [RuntimeError("can't start new thread"), MemoryError(), RegistryError("it is away")]
    left, calm = [*faults, faults[-1]], []

    def call() -> None:
        if left:
            raise left.pop(0)
        calm.append(True)

    asyncio.run(_repeated(call, lambda: bool(calm)))
    assert caplog.messages == [f"the present model stays: {fault}" for fault in faults]
    assert [bool(record.exc_info) for record in caplog.records] == [True, True, False]


class Stuck:
    """A registry that keeps whoever asks a second time until it is released."""

    moves = True

    def __init__(self, model: Model) -> None:
        self.model, self.answered = model, 0
        self.asked, self.released = threading.Event(), threading.Event()

    def newest(self, present: Model | None) -> Model:
        if present is not None:
            self.asked.set()
            self.released.wait(20)
        self.answered += 1
        return self.model


def test_the_end_waits_for_no_registry(toy_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(life, "POLL_SECONDS", 0.001)
    source = Stuck(Model(toy_bundle))
    with TestClient(create_app(Settings(), Present(source))):
        assert source.asked.wait(20)
    assert source.answered == 1
    source.released.set()
