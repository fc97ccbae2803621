"""What events ask for, done: a staged version is tested and, if it passes, promoted.

An event may be told twice, and a worker may die at any point: what was done before is found in the
ledger and not done again.
"""

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from pulmo.config.schema import Config
from pulmo.config.settings import Settings
from pulmo.core.elsewhere import Elsewhere
from pulmo.core.events import Asked
from pulmo.core.ports import (
    PRODUCTION,
    STAGING,
    Job,
    JobQueue,
    ModelRef,
    Move,
    Registry,
    Verdict,
    Version,
)
from pulmo.errors import ConflictError, NotFoundError, PulmoError, RefusedError, RegistryError
from pulmo.jobs import release
from pulmo.jobs.elsewhere import compare, take_staged
from pulmo.logs import get_logger

HOLD_S = 8.0  # how often a worker says that it lives
LOOK_S = 0.2  # how often a job that another worker has is looked at
ON_COMMAND = "command"  # the source of what a person asks for again

log = get_logger(__name__)


class Sender(Protocol):
    """Delivers the events of moves."""

    def deliver(self) -> object:
        """Send all that is due."""


@dataclass(frozen=True)
class Workplace:
    """What a worker needs; `configure` gives the configuration that judges models of a name."""

    registry: Registry
    queue: JobQueue
    settings: Settings
    configure: Callable[[str], Config]
    actor: str
    elsewhere: Elsewhere | None = None


@dataclass(frozen=True)
class Finding:
    """What `reconcile` has seen of an alias."""

    model: str
    alias: str
    told: str
    job: str | None = None


def work(place: Workplace) -> Iterator[Job]:
    """Do every job that is due, oldest first; each is given as it stands afterwards.

    What fails is tried again later: a worker may lack data that another one has.
    """
    while (job := place.queue.claim()) is not None:
        try:
            _perform(job, place)
        except (PulmoError, OSError) as error:
            log.warning("%s could not be tested: %s", job.payload["ref"], error)
            place.queue.retry(job, str(error))
        yield place.queue.get(job.key)


def stage(
    place: Workplace, sender: Sender, version: Version, *, here: bool, reason: str
) -> Verdict | None:
    """Point `staging` at a candidate and tell it; wait for its tests and give their verdict.

    `here` is whether this machine's worker is told: then the tests run now, in a process of their
    own, unless another worker is at them. None where they run elsewhere. Raises RefusedError with
    the failed checks where the answer is no; production is then as it was.
    """
    release.point(place.registry, version, actor=place.actor, reason=reason)
    sender.deliver()
    if not here:
        return None
    job = _open_job(place.queue, version) or _ask_again(place.queue, version, reason)
    state, detail = _finished(job, place)
    sender.deliver()
    if state == "refused":
        raise RefusedError(detail)
    if state == "superseded":
        raise ConflictError(detail)
    if state == "failed":
        raise RegistryError(f"{version.label} could not be tested: {detail}")
    return place.registry.verdicts(version.name, version.model_digest)[-1]


def reconcile(place: Workplace) -> Iterator[Finding]:
    """Look at every alias, since senders may skip: staged versions that nobody tested are queued.

    Aliases that were moved by other means than Pulmo are told and never followed; `staging` of
    another place that shows the registry asks for tests, as that place's event would.
    """
    for name in place.registry.names():
        staged = _pointed(place.registry, name, STAGING)
        for alias in (PRODUCTION, STAGING):
            present = staged if alias == STAGING else _pointed(place.registry, name, alias)
            last = _last(place.registry, name, alias)
            known, number = last.after if last else None, present.number if present else None
            if known != number:
                told = f"the ledger says {_written(known)}, it points at {_written(number)}"
                yield Finding(name, alias, f"moved by other means: {told}")
        if staged is not None:
            yield from _untested(place, staged)
        yield from _moved_elsewhere(place, name)


def _moved_elsewhere(place: Workplace, name: str) -> Iterator[Finding]:
    if place.elsewhere is None:
        return
    for moved in compare(place.registry, place.elsewhere, name):
        yield Finding(name, moved.alias, moved.told)
        if moved.asked is None:
            continue
        last, artifact = _last(place.registry, name, STAGING), moved.asked.artifact
        key = f"reconcile:{artifact}:{last.id if last else 0}"
        asked = Asked(key, ModelRef(name, alias=STAGING), "reconcile", artifact)
        job, new = place.queue.enqueue(key, name, asked.payload)
        told = "queued" if new else f"its job is {job.state}"
        yield Finding(name, STAGING, f"{artifact} is not tested: {told}", key)


def _untested(place: Workplace, staged: Version) -> Iterator[Finding]:
    last = _last(place.registry, staged.name, STAGING, staged.number)
    since = last.at if last else staged.created_at
    tested = any(
        verdict.at is not None and verdict.at >= since
        for verdict in place.registry.verdicts(staged.name, staged.model_digest)
    )
    if tested or _open_job(place.queue, staged) is not None:
        return
    key = f"reconcile:{staged.name}:{last.id if last else staged.model_digest}"
    job, new = place.queue.enqueue(key, staged.name, _asked(key, staged, "reconcile").payload)
    told = "is not tested: queued" if new else f"is not tested: its job is {job.state}"
    yield Finding(staged.name, STAGING, f"{staged.label} {told}", key)


def _finished(job: Job, place: Workplace) -> tuple[str, str]:
    """How a job ends, which is done here unless another worker has it."""
    while True:
        claimed = place.queue.claim(job.key)
        if claimed is not None:
            try:
                return _perform(claimed, place)
            except BaseException as error:  # also Ctrl-C: whoever asked knows that it is not done
                place.queue.finish(claimed, "failed", str(error) or "interrupted")
                raise
        job = place.queue.get(job.key)
        if job.ended:
            return job.state, job.detail or ""
        time.sleep(LOOK_S)


def _perform(job: Job, place: Workplace) -> tuple[str, str]:
    with _held(place.queue, job):
        try:
            state, detail = _outcome(job, place)
        except RefusedError as error:
            state, detail = "refused", str(error)
    place.queue.finish(job, state, detail)
    log.info("%s", detail)
    return state, detail


def _outcome(job: Job, place: Workplace) -> tuple[str, str]:
    version = _subject(job, place)
    if version is None:
        return "superseded", f"{job.payload['artifact']} is not tested: it is not staged any more"
    staged = _pointed(place.registry, version.name, STAGING)
    if staged is None or staged.number != version.number:
        where = staged.label if staged else "nothing"
        return "superseded", f"{version.label} is not tested: staging points at {where} now"
    since, reason = _cause(job, version, place.registry)
    if _promoted(place.registry, version, since):
        return "done", f"{version.label} was tested and promoted already"
    config = place.configure(version.name)
    verdict = _found(place.registry, version, release.suite_digest(config), since)
    verdict = verdict or release.judge(place.registry, version, config, place.settings)
    if not verdict.passed:
        return "refused", release.refusal(version, verdict)
    if PRODUCTION in version.aliases:
        return "done", f"{version.label} passed and was in production already"
    release.promote(place.registry, version, config, actor=place.actor, reason=reason)
    return "done", f"{version.label} passed and is in production"


def _subject(job: Job, place: Workplace) -> Version | None:
    if place.elsewhere is None or "artifact" not in job.payload:
        return place.registry.get(ModelRef.parse(job.payload["ref"]))
    return take_staged(place.registry, place.elsewhere, job, place.actor)


def _cause(job: Job, version: Version, registry: Registry) -> tuple[datetime, str]:
    """Since when and why tests are asked for; a verdict from before answers an older event."""
    move = _last(registry, version.name, STAGING, version.number)
    if move is None or job.payload["source"] == ON_COMMAND:
        return job.created_at, job.payload.get("reason", f"asked by {job.payload['source']}")
    return move.at, move.reason


def _promoted(registry: Registry, version: Version, since: datetime) -> bool:
    return any(
        move.action == "promote" and move.after == version.number and move.at >= since
        for move in registry.history(version.name)
    )


def _found(registry: Registry, version: Version, suite: str, since: datetime) -> Verdict | None:
    """A verdict that a worker stored before it died, beside the present champion."""
    champion = _pointed(registry, version.name, PRODUCTION)
    digest = champion.model_digest if champion else None
    fitting = (
        verdict
        for verdict in reversed(registry.verdicts(version.name, version.model_digest))
        if verdict.at is not None
        and verdict.at >= since
        and (verdict.suite_digest, verdict.champion_digest) == (suite, digest)
    )
    return next(fitting, None)


def _ask_again(queue: JobQueue, version: Version, reason: str) -> Job:
    """A job for a version that was staged before: whoever asks wants it tested now."""
    asked = _asked(f"command:{uuid.uuid4()}", version, ON_COMMAND)
    return queue.enqueue(asked.key, version.name, {**asked.payload, "reason": reason})[0]


def _asked(key: str, version: Version, source: str) -> Asked:
    return Asked(key, ModelRef(version.name, digest=version.model_digest), source)


def _open_job(queue: JobQueue, version: Version) -> Job | None:
    ref = str(ModelRef(version.name, digest=version.model_digest))
    fitting = (job for job in queue.jobs() if job.payload["ref"] == ref and not job.ended)
    return next(fitting, None)


def _last(registry: Registry, name: str, alias: str, after: int | None = None) -> Move | None:
    """The last move of an alias, or the last one to a version."""
    moves = (
        move
        for move in reversed(registry.history(name))
        if move.alias == alias and after in (None, move.after)
    )
    return next(moves, None)


def _pointed(registry: Registry, name: str, alias: str) -> Version | None:
    try:
        return registry.get(ModelRef(name, alias=alias))
    except NotFoundError:
        return None


def _written(number: int | None) -> str:
    return "nothing" if number is None else f"v{number}"


@contextmanager
def _held(queue: JobQueue, job: Job) -> Iterator[None]:
    """Keep a job while the block runs."""
    over = threading.Event()

    def keep() -> None:
        while not over.wait(HOLD_S):
            try:
                queue.hold(job)
            except RegistryError as error:  # out of reach for a moment: the next turn may come
                log.warning("%s", error)

    thread = threading.Thread(target=keep, name="hold", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
