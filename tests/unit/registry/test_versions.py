import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from pulmo.core.bundle import Bundle
from pulmo.core.ports import ModelRef, Version
from pulmo.errors import NotFoundError
from pulmo.registry.local import LocalRegistry

Put = Callable[..., Version]


def aliases(registry: LocalRegistry, name: str = "toy") -> dict[str, int]:
    return {alias: one.number for one in registry.versions(name) for alias in one.aliases}


def test_versions_count_from_zero_and_remember_their_bundle(
    registry: LocalRegistry, a_bundle: Callable[..., Bundle]
) -> None:
    bundle = a_bundle(1, score=0.8)
    version = registry.register(bundle.path, actor="ada")
    assert version.label == "toy:v0"
    assert (version.model_digest, version.bundle_digest) == (
        bundle.info.model_digest,
        bundle.digest,
    )
    assert (version.score, version.metric, version.created_by) == (0.8, "auroc", "ada")
    assert version.aliases == ("best", "latest")
    assert version.created_at.utcoffset() is not None


def test_a_known_digest_returns_its_version_with_one_more_origin(
    registry: LocalRegistry, put: Put
) -> None:
    first = put(1, seed=1)
    again = put(1, seed=2, score=0.99)
    assert again == first
    assert [lineage["seed"] for lineage in registry.lineages(first)] == [1, 2]
    assert len(registry.history("toy")) == 2


def test_the_same_bundle_twice_is_one_origin(registry: LocalRegistry, put: Put) -> None:
    assert put(1) == put(1)
    assert len(registry.lineages(put(1))) == 1


def test_models_are_counted_apart(registry: LocalRegistry, put: Put) -> None:
    assert [put(1).label, put(1, name="other").label] == ["toy:v0", "other:v0"]
    assert registry.names() == ["other", "toy"]


def test_latest_is_the_newest_and_best_the_highest_score(registry: LocalRegistry, put: Put) -> None:
    for number, score in enumerate((0.7, 0.9, 0.8)):
        put(number, score=score)
    assert aliases(registry) == {"latest": 2, "best": 1}


def test_of_equal_scores_the_earlier_stays_best(registry: LocalRegistry, put: Put) -> None:
    put(1), put(2)
    assert aliases(registry) == {"latest": 1, "best": 0}


def test_a_version_without_a_score_is_never_best(registry: LocalRegistry, put: Put) -> None:
    assert put(1, score=None).score == -math.inf
    assert aliases(registry) == {"latest": 0}
    put(2, score=0.1), put(3, score=None)
    assert aliases(registry) == {"latest": 2, "best": 1}


def test_registering_tells_the_automatic_moves_to_the_history_alone(
    registry: LocalRegistry, put: Put
) -> None:
    put(1)
    told = [(m.alias, m.action, m.before, m.after, m.actor) for m in registry.history("toy")]
    assert told == [
        ("latest", "register", None, 0, "ada"),
        ("best", "register", None, 0, "ada"),
    ]


@pytest.mark.parametrize("text", ["toy", "toy:latest", "toy:v1"])
def test_a_version_is_found_by_alias_and_number(
    registry: LocalRegistry, put: Put, text: str
) -> None:
    put(1), put(2)
    assert registry.get(ModelRef.parse(text)).number == 1


@pytest.mark.parametrize("length", [12, 64])
def test_a_version_is_found_by_either_digest(
    registry: LocalRegistry, put: Put, length: int
) -> None:
    put(1), put(2)
    wanted = put(3)
    for digest in (wanted.model_digest, wanted.bundle_digest):
        assert registry.get(ModelRef("toy", digest=digest[:length])).number == 2


def test_a_digest_that_fits_two_versions_is_ambiguous(registry: LocalRegistry, put: Put) -> None:
    put(1), put(2)
    with pytest.raises(NotFoundError, match="fits 2 versions, it is ambiguous"):
        registry.get(ModelRef("toy", digest=""))


@pytest.mark.parametrize("text", ["toy:v7", "toy:staging", "toy@000000000000"])
def test_what_is_not_there_is_said_with_where_to_look(
    registry: LocalRegistry, put: Put, text: str
) -> None:
    put(1)
    with pytest.raises(NotFoundError, match="pulmo registry show toy"):
        registry.get(ModelRef.parse(text))


@pytest.mark.parametrize("text", ["toi:latest", "toi:v0", "toi@000000000000"])
def test_an_unknown_model_names_the_known_ones(
    registry: LocalRegistry, put: Put, text: str
) -> None:
    with pytest.raises(NotFoundError, match="it is empty"):
        registry.get(ModelRef.parse(text))
    put(1)
    with pytest.raises(NotFoundError, match=r"no model 'toi' \(toy\)"):
        registry.get(ModelRef.parse(text))


def test_registrations_at_once_get_different_numbers(
    registry: LocalRegistry, a_bundle: Callable[..., Bundle]
) -> None:
    folders = [a_bundle(number % 6).path for number in range(12)]
    with ThreadPoolExecutor(6) as pool:
        made = list(pool.map(lambda folder: registry.register(folder, actor="ada"), folders))
    assert {one.model_digest: one.number for one in made}.keys() == {v.model_digest for v in made}
    assert sorted({one.number for one in made}) == list(range(6))
    assert len({(one.model_digest, one.number) for one in made}) == 6
