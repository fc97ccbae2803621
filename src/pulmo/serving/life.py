"""What goes on while the application runs: the model and the keys are looked after."""

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Callable, Sequence

from fastapi import FastAPI

from pulmo.core.preprocess import preload
from pulmo.errors import PulmoError
from pulmo.logs import get_logger
from pulmo.serving.keyring import REFRESH_SECONDS, Keyring
from pulmo.serving.limits import Limits
from pulmo.serving.models import Present
from pulmo.serving.pool import Pool
from pulmo.serving.receipts import Receipts

POLL_SECONDS, POLL_SECONDS_AT_MOST = 0.25, 30.0
WAITING_SECONDS = 2.0  # at most between two looks for a first model

logger = get_logger(__name__)


def life(
    present: Present, keyring: Keyring, receipts: Receipts | None, pools: Sequence[Pool]
) -> Callable[[FastAPI], contextlib.AbstractAsyncContextManager[None]]:
    """The lifespan of an application: it begins with a model, unless `present` waits for one."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if not present.ready and not present.waits:
            await asyncio.to_thread(present.refresh)
        # Threads that the end does not wait for: a registry may keep them long.
        watchers = Pool(Limits(workers=2, waiting=0, deadline_s=math.inf))
        going_on = (
            _follow(present, watchers),
            _reread(keyring, watchers),
            asyncio.to_thread(preload),
        )
        following = [asyncio.create_task(one) for one in going_on]
        with receipts or contextlib.nullcontext():
            yield
            for pool in (*pools, watchers):
                pool.close()
        for task in following:
            task.cancel()
        await asyncio.gather(*following, return_exceptions=True)

    return lifespan


async def _follow(present: Present, pool: Pool) -> None:
    if present.waits:
        pace = POLL_SECONDS, WAITING_SECONDS
        await _repeat(pool, present.refresh, pace, "there is no model yet", lambda: present.ready)
    if present.source.moves:
        pace = POLL_SECONDS, POLL_SECONDS_AT_MOST
        await _repeat(pool, present.refresh, pace, "the present model stays")


async def _reread(keyring: Keyring, pool: Pool) -> None:
    pace = REFRESH_SECONDS, POLL_SECONDS_AT_MOST
    await _repeat(pool, keyring.refresh, pace, "the known keys stay")


async def _repeat(
    pool: Pool,
    call: Callable[[], None],
    pace: tuple[float, float],
    otherwise: str,
    enough: Callable[[], bool] = lambda: False,
) -> None:
    """Call again and again until it is enough, more rarely while that fails, which is told once.

    Nothing that fails ends it; what is no error of ours is told with its traceback.
    `pace`: seconds between two calls, and at most while they fail.
    """
    seconds, most = pace
    pause, told = seconds, ""
    while not enough():
        await asyncio.sleep(pause)
        try:
            await pool.run(call)
            pause, told = seconds, ""
        except Exception as error:
            pause = min(2 * pause, most)
            if repr(error) != told:
                told = repr(error)
                ours = isinstance(error, (PulmoError, OSError))
                logger.error("%s: %s", otherwise, error, exc_info=None if ours else error)
