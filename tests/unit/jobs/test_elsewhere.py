from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pulmo.config.compose import compose
from pulmo.config.settings import Settings
from pulmo.core.bundle import Bundle, verify
from pulmo.core.elsewhere import Seen
from pulmo.core.ports import STAGING, Job, ModelRef, Registry, Version
from pulmo.errors import RefusedError
from pulmo.jobs import release
from pulmo.jobs.elsewhere import Moved, compare, take_staged
from pulmo.jobs.hooks import Workplace, reconcile, work
from pulmo.registry.local import LocalRegistry, open_registry
from pulmo.registry.queue import SqlJobs
from pulmo.store.database import open_database


@dataclass
class Shelf:
    """Another place: bundles by number, and aliases at them."""

    registry: Registry
    bundles: list[Bundle] = field(default_factory=list)
    at: dict[str, int] = field(default_factory=dict)
    waiting: set[str] = field(default_factory=set)
    claims: bool = True
    name: str = "the shelf"

    def shown(self, name: str) -> Mapping[str, Seen]:
        return {alias: self._seen(alias, number) for alias, number in self.at.items()}

    def untold(self, name: str) -> frozenset[str]:
        return frozenset(self.waiting)

    def take(self, seen: Seen, name: str, *, actor: str) -> Version:
        number = int(seen.artifact.rpartition(":v")[2])
        return self.registry.register(verify(self.bundles[number].path).path, actor=actor)

    def _seen(self, alias: str, number: int) -> Seen:
        digest = self.bundles[number].info.model_digest if self.claims else None
        return Seen(alias, f"clinic/lungs/toy:v{number}", digest)


@pytest.fixture
def place(tmp_path: Path, make_bundle: Callable[..., Bundle]) -> Iterator[Workplace]:
    """A ledger that knows the first two of three bundles that lie elsewhere."""
    url = f"sqlite:///{tmp_path}/registry.db"
    registry, database = open_registry(url, str(tmp_path / "bundles")), open_database(url)
    shelf = Shelf(registry)
    for number in range(3):
        made = make_bundle(tmp_path / f"made-{number}", weights=b"weights %d" % number)
        shelf.bundles.append(made)
        if number < 2:
            registry.register(made.path, actor="ada")
    shelf.at = {"best": 0, "latest": 2}
    config = compose(["data=phantom", "registry.name=toy"])
    yield Workplace(registry, SqlJobs(database), Settings(), lambda name: config, "worker", shelf)
    registry.close()
    database.close()


def shelf(place: Workplace) -> Shelf:
    assert isinstance(place.elsewhere, Shelf)
    return place.elsewhere


def ledger(place: Workplace) -> LocalRegistry:
    assert isinstance(place.registry, LocalRegistry)
    return place.registry


def asked(place: Workplace, ref: str, artifact: str) -> Job:
    told = {"ref": ref, "alias": STAGING, "source": "wandb", "artifact": artifact}
    return place.queue.enqueue(f"wandb:{ref}", "toy", told)[0]


def taken(place: Workplace, ref: str, artifact: str) -> Version | None:
    job = asked(place, ref, artifact)
    return take_staged(place.registry, shelf(place), job, "worker")


def test_what_is_staged_elsewhere_is_registered_and_staged_here(place: Workplace) -> None:
    shelf(place).at[STAGING] = 2
    digest = shelf(place).bundles[2].info.model_digest
    version = taken(place, f"toy@{digest}", "clinic/lungs/toy:v2")
    assert version is not None
    assert (version.number, version.model_digest) == (2, digest)
    assert ledger(place).get(ModelRef("toy", alias=STAGING)).number == 2
    move = ledger(place).history("toy")[-1]
    assert (move.actor, move.reason) == ("worker", "staged in the shelf: clinic/lungs/toy:v2")


@pytest.mark.parametrize(
    ("ref", "artifact"), [("toy:v9", "clinic/lungs/toy:v1"), ("toy:staging", "x/y/toy:staging")]
)
def test_an_event_without_a_digest_names_the_artifact(
    place: Workplace, ref: str, artifact: str
) -> None:
    shelf(place).at[STAGING] = 1
    shelf(place).claims = False
    found = taken(place, ref, artifact.replace("x/y", "clinic/lungs"))
    assert found is not None
    assert found.number == 1


def test_an_event_that_is_overtaken_moves_nothing(place: Workplace) -> None:
    digest = shelf(place).bundles[2].info.model_digest
    assert taken(place, f"toy@{digest}", "clinic/lungs/toy:v2") is None
    shelf(place).at[STAGING] = 1
    assert taken(place, f"toy@{digest}", "clinic/lungs/toy:v2") is None
    shelf(place).at[STAGING] = 2
    shelf(place).waiting = {STAGING}  # a later move of ours is on its way there
    assert taken(place, f"toy@{digest}", "clinic/lungs/toy:v2") is None
    (job,) = work(place)
    assert (job.state, job.detail) == (
        "superseded",
        "clinic/lungs/toy:v2 is not tested: it is not staged any more",
    )
    assert all(move.alias != STAGING for move in ledger(place).history("toy"))


def test_other_bytes_than_the_event_names_are_refused(place: Workplace) -> None:
    shelf(place).at[STAGING] = 1
    with pytest.raises(RefusedError, match="clinic/lungs/toy:v1 is not tested: it holds model"):
        taken(place, f"toy@{'0' * 64}", "clinic/lungs/toy:v1")
    assert all(move.alias != STAGING for move in ledger(place).history("toy"))


def test_what_is_as_here_is_not_told(place: Workplace) -> None:
    assert list(compare(place.registry, shelf(place), "toy")) == []


def test_foreign_moves_are_told_and_only_staging_asks(place: Workplace) -> None:
    shelf(place).at |= {"best": 1, "production": 1, STAGING: 2}
    best, production, staging = compare(place.registry, shelf(place), "toy")
    assert best == Moved(
        "best", "moved in the shelf to clinic/lungs/toy:v1, the ledger says toy:v0", None
    )
    assert production.told.endswith("the ledger says nothing")
    assert production.asked is None
    assert staging.asked is not None
    assert staging.asked.artifact == "clinic/lungs/toy:v2"


def test_a_move_on_its_way_is_no_foreign_move(place: Workplace) -> None:
    version = ledger(place).get(ModelRef("toy", version=0))
    release.point(place.registry, version, actor="ada", reason="a try")
    shelf(place).waiting = {STAGING}
    (moved,) = compare(place.registry, shelf(place), "toy")
    assert moved == Moved(STAGING, "the shelf is not told yet: `pulmo hooks deliver`", None)
    shelf(place).waiting = set()
    (moved,) = compare(place.registry, shelf(place), "toy")
    assert moved.told == "moved in the shelf to nothing, the ledger says toy:v0"


def test_polling_queues_what_was_staged_there_once(place: Workplace) -> None:
    shelf(place).at[STAGING] = 2
    found = [(one.alias, one.told) for one in reconcile(place)]
    assert found == [
        (STAGING, "moved in the shelf to clinic/lungs/toy:v2, the ledger says nothing"),
        (STAGING, "clinic/lungs/toy:v2 is not tested: queued"),
    ]
    assert [one.told for one in reconcile(place)][1].endswith("its job is waiting")
    (job,) = place.queue.jobs()
    assert job.payload["artifact"] == "clinic/lungs/toy:v2"
