from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pulmo.config.compose import compose
from pulmo.config.schema import Config
from pulmo.config.settings import Settings
from pulmo.core.bundle import Bundle
from pulmo.core.events import asked_by_pulmo
from pulmo.core.ports import PRODUCTION, STAGING, Check, ModelRef, Verdict, Version
from pulmo.errors import ConflictError, DataError, RefusedError, RegistryError
from pulmo.jobs import hooks, release
from pulmo.jobs.hooks import Workplace, reconcile, work
from pulmo.registry.delivery import Sender
from pulmo.registry.local import LocalRegistry, open_registry
from pulmo.registry.outbox import Outbox
from pulmo.registry.queue import SqlJobs
from pulmo.registry.targets import Local
from pulmo.store.database import Database, open_database


@pytest.fixture(scope="module")
def config() -> Config:
    return compose(["data=phantom", "registry.name=toy"])


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = open_database(f"sqlite:///{tmp_path}/registry.db")
    yield opened
    opened.close()


@pytest.fixture
def registry(tmp_path: Path, database: Database) -> Iterator[LocalRegistry]:
    opened = open_registry(f"sqlite:///{tmp_path}/registry.db", str(tmp_path / "bundles"))
    yield opened
    opened.close()


@pytest.fixture
def place(registry: LocalRegistry, database: Database, config: Config) -> Workplace:
    return Workplace(registry, SqlJobs(database), Settings(), lambda name: config, "worker")


@pytest.fixture
def sender(database: Database) -> Sender:
    return Sender(Outbox(database), [Local(SqlJobs(database))])


@pytest.fixture
def put(
    registry: LocalRegistry, tmp_path: Path, make_bundle: Callable[..., Bundle]
) -> Callable[[int], Version]:
    def register(number: int) -> Version:
        made = make_bundle(tmp_path / f"made-{number}", weights=b"weights %d" % number)
        return registry.register(made.path, actor="ada")

    return register


class Judge:
    """In place of the staged tests, which take a process of their own: says what it is told."""

    def __init__(self) -> None:
        self.passed = True
        self.asked: list[int] = []
        self.error: BaseException | None = None

    def __call__(
        self, registry: Any, version: Version, config: Config, settings: Settings
    ) -> Verdict:
        self.asked.append(version.number)
        if self.error:
            raise self.error
        champion = hooks._pointed(registry, version.name, PRODUCTION)
        stored: Verdict = registry.record_verdict(
            Verdict(
                name=version.name,
                model_digest=version.model_digest,
                suite_digest=release.suite_digest(config),
                champion_digest=champion.model_digest if champion else None,
                passed=self.passed,
                checks=[Check("quality", self.passed, "0.9")],
                data_digest="0" * 64,
            )
        )
        return stored


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Judge:
    made = Judge()
    monkeypatch.setattr(release, "judge", made)
    return made


def point(place: Workplace, version: Version) -> None:
    release.point(place.registry, version, actor="ada", reason="a try")


def promotions(place: Workplace) -> list[tuple[int | None, str]]:
    moves = place.registry.history("toy")
    return [(move.after, move.reason) for move in moves if move.action == "promote"]


def stage(place: Workplace, sender: Sender, version: Version, here: bool = True) -> Verdict | None:
    return hooks.stage(place, sender, version, here=here, reason="a try")


def test_a_staged_version_is_tested_and_promoted_for_the_reason_that_was_given(
    place: Workplace, sender: Sender, put: Callable[[int], Version], judge: Judge
) -> None:
    point(place, put(0))
    sender.deliver()
    (job,) = work(place)
    assert (job.state, job.detail) == ("done", "toy:v0 passed and is in production")
    assert promotions(place) == [(0, "a try")]
    sender.deliver()  # production has moved: nobody is asked for anything
    assert list(work(place)) == []


def test_a_version_that_fails_is_refused_and_production_stays(
    place: Workplace, sender: Sender, put: Callable[[int], Version], judge: Judge
) -> None:
    judge.passed = False
    point(place, put(0))
    sender.deliver()
    (job,) = work(place)
    assert job.state == "refused"
    assert "quality: 0.9" in (job.detail or "")
    assert promotions(place) == []


def test_in_the_foreground_the_verdict_comes_back_or_the_refusal(
    place: Workplace, sender: Sender, put: Callable[[int], Version], judge: Judge
) -> None:
    verdict = stage(place, sender, put(0))
    assert verdict is not None
    assert verdict.passed
    judge.passed = False
    with pytest.raises(RefusedError, match="toy:v1 was refused and production is unchanged"):
        stage(place, sender, put(1))
    assert promotions(place) == [(0, "a try")]


def test_what_is_staged_again_is_tested_again(
    place: Workplace, sender: Sender, put: Callable[[int], Version], judge: Judge
) -> None:
    version = put(0)
    judge.passed = False
    with pytest.raises(RefusedError):
        stage(place, sender, version)
    judge.passed = True
    assert stage(place, sender, version) is not None
    assert stage(place, sender, place.registry.get(ModelRef("toy", version=0))) is not None
    assert judge.asked == [0, 0, 0]
    assert promotions(place) == [(0, "a try")]


def test_where_it_is_tested_elsewhere_nothing_is_waited_for(
    place: Workplace, sender: Sender, put: Callable[[int], Version], judge: Judge
) -> None:
    assert stage(place, sender, put(0), here=False) is None
    assert judge.asked == []


def test_an_older_candidate_gives_way(
    place: Workplace, sender: Sender, put: Callable[[int], Version], judge: Judge
) -> None:
    point(place, put(0))
    sender.deliver()
    point(place, put(1))
    sender.deliver()
    first, second = work(place)
    assert (first.state, second.state) == ("superseded", "done")
    assert judge.asked == [1]


def test_told_twice_it_is_tested_once(
    place: Workplace, sender: Sender, put: Callable[[int], Version], judge: Judge
) -> None:
    version = put(0)
    point(place, version)
    sender.deliver()
    body = b'{"id":"other","name":"toy","alias":"staging","after":0,"model_digest":"%s"}'
    asked = asked_by_pulmo(body % version.model_digest.encode())
    assert asked is not None
    place.queue.enqueue(asked.key, "toy", asked.payload)
    first, second = work(place)
    assert (first.state, second.detail) == ("done", "toy:v0 was tested and promoted already")
    assert judge.asked == [0]


def test_a_worker_goes_on_where_a_dead_one_had_stored_its_verdict(
    place: Workplace, sender: Sender, put: Callable[[int], Version], judge: Judge, config: Config
) -> None:
    version = put(0)
    point(place, version)
    sender.deliver()
    judge(place.registry, version, config, place.settings)  # and then it was killed
    (job,) = work(place)
    assert job.state == "done"
    assert judge.asked == [0]
    assert promotions(place) == [(0, "a try")]


def test_a_late_event_does_not_undo_a_rollback(
    place: Workplace, sender: Sender, put: Callable[[int], Version], judge: Judge
) -> None:
    stage(place, sender, put(0))
    release.stage(place.registry, put(1).label, place.configure("toy"), place.settings,
                  actor="ada", reason="a try")  # fmt: skip
    place.registry.rollback("toy", to=None, actor="ada", reason="no")
    sender.deliver()  # only now the event of v1 arrives
    (job,) = work(place)
    assert job.detail == "toy:v1 was tested and promoted already"
    assert place.registry.get(ModelRef("toy", alias=PRODUCTION)).number == 0


def test_what_cannot_be_tested_is_tried_again_later(
    place: Workplace, sender: Sender, put: Callable[[int], Version], judge: Judge
) -> None:
    judge.error = DataError("the pictures are not here")
    point(place, put(0))
    sender.deliver()
    (job,) = work(place)
    assert (job.state, job.detail) == ("waiting", "the pictures are not here")


@pytest.mark.parametrize("error", [DataError("no pictures"), KeyboardInterrupt()])
def test_in_the_foreground_a_failure_is_told_at_once(
    place: Workplace,
    sender: Sender,
    put: Callable[[int], Version],
    judge: Judge,
    error: BaseException,
) -> None:
    judge.error = error
    with pytest.raises(type(error)):
        stage(place, sender, put(0))
    (job,) = place.queue.jobs()
    assert (job.state, job.detail) == ("failed", str(error) or "interrupted")


@pytest.mark.parametrize(
    ("state", "raised"), [("failed", RegistryError), ("superseded", ConflictError)]
)
def test_what_another_worker_says_is_told(
    place: Workplace,
    sender: Sender,
    put: Callable[[int], Version],
    monkeypatch: pytest.MonkeyPatch,
    state: str,
    raised: type[Exception],
) -> None:
    class Other:
        def deliver(self) -> None:
            sender.deliver()
            if (job := place.queue.claim()) is not None:
                told.append(job)

    told: list[Any] = []
    monkeypatch.setattr(
        hooks.time, "sleep", lambda _: place.queue.finish(told[0], state, "what it saw")
    )
    with pytest.raises(raised, match="what it saw"):
        hooks.stage(place, Other(), put(0), here=True, reason="r")


def test_a_job_is_held_while_it_runs(
    place: Workplace,
    sender: Sender,
    put: Callable[[int], Version],
    judge: Judge,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import threading

    held = threading.Event()
    monkeypatch.setattr(hooks, "HOLD_S", 0.001)
    monkeypatch.setattr(place.queue, "hold", lambda job: held.set())
    monkeypatch.setattr(release, "judge", lambda *asked: (held.wait(30), judge(*asked))[1])
    point(place, put(0))
    sender.deliver()
    assert [job.state for job in work(place)] == ["done"]
    assert held.is_set()


def test_reconcile_queues_what_nobody_tested_and_only_once(
    place: Workplace, put: Callable[[int], Version], judge: Judge
) -> None:
    assert list(reconcile(place)) == []
    put(5)
    assert list(reconcile(place)) == []
    point(place, put(6))  # its event is lost
    (found,) = reconcile(place)
    assert (found.alias, found.told) == (STAGING, "toy:v1 is not tested: queued")
    assert list(reconcile(place)) == []
    (job,) = work(place)
    assert (job.state, job.payload["source"]) == ("done", "reconcile")
    assert list(reconcile(place)) == []


def test_reconcile_tells_what_was_moved_by_other_means_and_follows_nothing(
    place: Workplace,
    sender: Sender,
    put: Callable[[int], Version],
    judge: Judge,
    database: Database,
) -> None:
    from pulmo.store.tables import AliasRow

    stage(place, sender, put(0))
    put(1)
    with database.write() as session:
        session.get_one(AliasRow, ("toy", PRODUCTION)).number = 1
    before = place.registry.history("toy")
    (found,) = reconcile(place)
    assert found.alias == PRODUCTION
    assert found.told == "moved by other means: the ledger says v0, it points at v1"
    assert place.registry.history("toy") == before
    assert len(place.queue.jobs()) == 1
