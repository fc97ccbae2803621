import asyncio

import pytest

from pulmo.errors import RegistryError
from pulmo.serving import life


def test_whatever_fails_is_told_once_and_called_again(caplog: pytest.LogCaptureFixture) -> None:
    faults = [RuntimeError("can't start new thread"), MemoryError(), RegistryError("it is away")]
    left, calm = [*faults, faults[-1]], []

    def call() -> None:
        if left:
            raise left.pop(0)
        calm.append(True)

    asyncio.run(life._repeat(call, (0.0, 0.0), "the present model stays", lambda: bool(calm)))
    assert caplog.messages == [f"the present model stays: {fault}" for fault in faults]
    assert [bool(record.exc_info) for record in caplog.records] == [True, True, False]
