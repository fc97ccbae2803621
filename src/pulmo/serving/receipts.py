"""Receipts off the request path: taken at once, written in batches, counted where they are lost."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Self, TextIO

import numpy as np

from pulmo.core.receipt import Receipt, ReceiptLog, packed, pixels_digest
from pulmo.core.statistics import picture_statistics
from pulmo.errors import PulmoError
from pulmo.logs import get_logger
from pulmo.serving.models import Answered

CAPACITY = 8192  # receipts that wait; a few kilobytes each
BATCH = 500
GATHER_SECONDS = 1.0  # how long a batch waits for more: a commit costs as much as 30 receipts
PAUSE_SECONDS = 0.5  # after a failure, doubled by each further one
PAUSE_SECONDS_AT_MOST = 10.0
FLUSH_SECONDS = 5.0  # for what waits when the server ends
TELL_SECONDS = 60.0  # losses are told this often at most
TOO_FAST = "they come faster than they are written"

logger = get_logger(__name__)


class Receipts:
    """A bounded queue before one writing thread.

    The log that `open_log` gives may be slow, full or broken: taking a receipt never waits and
    never fails. What cannot be written is tried again while newer ones wait; when `capacity` wait,
    the newest are lost. With `details` embeddings and statistics of the pixels are kept too.
    """

    def __init__(
        self,
        open_log: Callable[[], ReceiptLog],
        *,
        details: bool = False,
        capacity: int = CAPACITY,
    ) -> None:
        self.written = self.lost = 0
        self._open_log, self._details, self._capacity = open_log, details, capacity
        self._log: ReceiptLog | None = None
        self._queue: deque[Receipt] = deque()
        self._batch: list[Receipt] = []  # what the thread has taken out and not yet written
        self._changed = threading.Condition()
        self._ending = self._over = False
        self._reason = TOO_FAST
        self._told_at = float("-inf")
        self._thread: threading.Thread | None = None

    @property
    def waiting(self) -> int:
        """Receipts taken and not yet written."""
        return len(self._queue) + len(self._batch)

    def __enter__(self) -> Self:
        """Begin to write."""
        self._thread = threading.Thread(target=self._write_all, name="receipts", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Write what waits, as `close`."""
        self.close()

    def take(self, answered: Sequence[Answered]) -> None:
        """Keep the receipts of answers for writing; the ones that find no room are lost."""
        try:
            self.add([make_receipt(one, details=self._details) for one in answered])
        except ValueError as error:  # values that no receipt may hold; the answer stands
            with self._changed:
                self._reason = f"{type(error).__name__} in an answer"
                self._lose(len(answered))

    def add(self, receipts: Sequence[Receipt]) -> None:
        """As `take`, of receipts that are made already."""
        with self._changed:
            room = 0 if self._ending else max(self._capacity - self.waiting, 0)
            idle = not self._queue
            self._queue.extend(receipts[:room])
            self._lose(len(receipts) - min(room, len(receipts)))
            if idle or len(self._queue) >= BATCH:  # a thread woken for nothing costs requests
                self._changed.notify()

    def close(self) -> None:
        """Write what waits, for a bounded time; what is left is lost, and told."""
        with self._changed:
            self._ending = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(FLUSH_SECONDS)
        with self._changed:
            self._over, self._told_at = True, float("-inf")
            self._lose(self.waiting)
            self._queue.clear()
            self._changed.notify()

    def _write_all(self) -> None:
        """Write batch after batch until the end; one that fails is tried until it is written."""
        self._has_written()  # nothing yet: the log is opened before it is needed
        pause = PAUSE_SECONDS
        while self._gather():
            if self._has_written():
                pause = PAUSE_SECONDS
                continue
            with self._changed:
                if self._ending:
                    self._changed.wait_for(lambda: self._over, timeout=GATHER_SECONDS)
                else:
                    self._changed.wait_for(lambda: self._ending, timeout=pause)
            pause = min(2 * pause, PAUSE_SECONDS_AT_MOST)

    def _gather(self) -> bool:
        """Take out what waits, once something does; False at the end."""
        with self._changed:
            if self._batch or self._over:
                return not self._over
            self._changed.wait_for(lambda: self._queue or self._ending)
            if not self._ending:
                self._changed.wait_for(
                    lambda: len(self._queue) >= BATCH or self._ending, timeout=GATHER_SECONDS
                )
            while self._queue and len(self._batch) < BATCH:
                self._batch.append(self._queue.popleft())
            return bool(self._batch)

    def _has_written(self) -> bool:
        """Write what is taken out, to a log that is opened where it is not."""
        try:
            if self._log is None:
                self._log = self._open_log()
            if self._batch:
                self._log.write(self._batch)
        except Exception as error:  # noqa: BLE001 - whatever a driver raises, predictions go on
            ours = isinstance(error, PulmoError | OSError)
            with self._changed:
                self._reason = str(error) if ours else type(error).__name__
                self._tell("receipts wait, they cannot be written: %s", self._reason)
            return False
        with self._changed:
            self.written += len(self._batch)
            self._batch = []
            self._reason = TOO_FAST
        return True

    def _lose(self, count: int) -> None:
        if count:
            self.lost += count
            self._tell("%d receipts are lost: %s", self.lost, self._reason)

    def _tell(self, message: str, *values: object) -> None:
        now = time.monotonic()
        if now - self._told_at >= TELL_SECONDS:
            self._told_at = now
            logger.error(message, *values)


class Lines:
    """Receipts as lines of JSON on a stream, where there is no database."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, receipts: Sequence[Receipt]) -> None:
        """Print receipts, one a line."""
        self._stream.write(
            "".join(one.model_dump_json(exclude_none=True) + "\n" for one in receipts)
        )
        self._stream.flush()


def make_receipt(one: Answered, *, details: bool) -> Receipt:
    """The receipt of an answer given now; `details` also keeps what drift is judged by."""
    answer, statistics, embedding = one.answer, None, None
    if details:
        found = picture_statistics(one.pixels[np.newaxis])
        statistics = {name: float(value[0]) for name, value in found.items()}
        embedding = None if one.embedding is None else packed(one.embedding)
    return Receipt(
        id=answer.id,
        at=datetime.now(UTC),
        model=answer.model,
        input_sha256=answer.input_sha256,
        pixels_sha256=pixels_digest(one.pixels),
        prediction=answer.prediction,
        probability=answer.probability,
        probabilities=answer.probabilities,
        decision=answer.decision,
        reasons=answer.reasons,
        distance=one.distance,
        statistics=statistics,
        embedding=embedding,
    )
