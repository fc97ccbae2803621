from collections.abc import Callable

import pytest

from pulmo.core.ports import Check, ModelRef, Verdict, Version
from pulmo.errors import NotFoundError, RefusedError, RegistryError
from pulmo.registry.local import LocalRegistry

Put = Callable[..., Version]
Judge = Callable[..., Verdict]

GOOD = Check("floor", True, "0.9 ≥ 0.8")
BAD = Check("parity", False, "gap 0.2")
UNKNOWN = Verdict("toy", "f" * 64, "suite", None, True, (GOOD,), "0" * 64)


def promote(registry: LocalRegistry, version: Version, suite: str = "suite") -> None:
    registry.promote("toy", version.number, suite_digest=suite, actor="ada", reason="better")


def in_production(registry: LocalRegistry) -> int | None:
    return next((v.number for v in registry.versions("toy") if "production" in v.aliases), None)


def test_verdicts_come_back_whole_and_in_order(
    registry: LocalRegistry, put: Put, judge: Judge
) -> None:
    first, second = put(1), put(2)
    one = judge(first, checks=(GOOD, BAD), passed=False, details={"gap": float("nan"), "n": 3})
    two = judge(second, first)
    assert registry.verdicts("toy", first.model_digest) == [registry.verdicts("toy")[0]]
    stored, other = registry.verdicts("toy")
    assert (stored.id, stored.at, stored.checks) == (one.id, one.at, (GOOD, BAD))
    assert stored.details == {"gap": None, "n": 3}
    assert stored.at is not None
    assert stored.at.utcoffset() is not None
    assert other == two
    assert other.champion_digest == first.model_digest


def test_a_verdict_on_an_unknown_digest_is_not_stored(registry: LocalRegistry, put: Put) -> None:
    put(1)
    with pytest.raises(RegistryError, match="register the bundle before"):
        registry.record_verdict(UNKNOWN)
    assert registry.verdicts("toy") == []


def test_a_verdict_on_an_unknown_model_is_not_stored(registry: LocalRegistry) -> None:
    with pytest.raises(NotFoundError, match="no model 'toy'"):
        registry.record_verdict(UNKNOWN)


def test_a_passing_version_is_promoted_on_its_evidence(
    registry: LocalRegistry, put: Put, judge: Judge
) -> None:
    first, second = put(1), put(2)
    judge(first)
    promote(registry, first)
    verdict = judge(second, first)
    promote(registry, second)
    move = registry.history("toy")[-1]
    assert (move.alias, move.action, move.before, move.after) == ("production", "promote", 0, 1)
    assert move.evidence == {
        "verdict": verdict.id,
        "model_digest": second.model_digest,
        "suite_digest": "suite",
        "champion_digest": first.model_digest,
        "data_digest": "0" * 64,
    }
    assert registry.get(ModelRef("toy", alias="production")) == registry.versions("toy")[1]


def test_an_untested_version_is_refused_with_the_command_that_tests_it(
    registry: LocalRegistry, put: Put
) -> None:
    with pytest.raises(RefusedError, match=r"not been tested.*`pulmo registry stage toy:v0`"):
        promote(registry, put(1))
    assert in_production(registry) is None


def test_the_verdict_of_another_suite_does_not_count(
    registry: LocalRegistry, put: Put, judge: Judge
) -> None:
    version = put(1)
    judge(version, suite="old")
    with pytest.raises(RefusedError, match="other tests or limits"):
        promote(registry, version)


def test_the_verdict_beside_another_champion_does_not_count(
    registry: LocalRegistry, put: Put, judge: Judge
) -> None:
    first, second, third = put(1), put(2), put(3)
    judge(first), judge(second), judge(third, first)
    with pytest.raises(RefusedError, match="another champion than nothing"):
        promote(registry, third)
    promote(registry, first)
    with pytest.raises(RefusedError, match="another champion than toy:v0"):
        promote(registry, second)
    assert in_production(registry) == 0


@pytest.mark.parametrize(
    ("passed", "checks", "said"),
    [
        (False, (GOOD, BAD), "failed parity"),
        (True, (BAD, GOOD), "failed parity"),
        (False, (GOOD,), "did not pass"),
        (True, (), "did not pass"),
    ],
)
def test_only_a_verdict_whose_every_check_passed_counts(
    registry: LocalRegistry,
    put: Put,
    judge: Judge,
    passed: bool,
    checks: tuple[Check, ...],
    said: str,
) -> None:
    version = put(1)
    judge(version, passed=passed, checks=checks)
    with pytest.raises(RefusedError, match=said):
        promote(registry, version)
    assert in_production(registry) is None


def test_the_newest_verdict_decides(registry: LocalRegistry, put: Put, judge: Judge) -> None:
    version = put(1)
    judge(version)
    judge(version, passed=False, checks=(BAD,))
    with pytest.raises(RefusedError, match="failed parity"):
        promote(registry, version)
    judge(version)
    promote(registry, version)
    assert in_production(registry) == 0


def test_the_champion_is_not_promoted_again(
    registry: LocalRegistry, put: Put, judge: Judge
) -> None:
    version = put(1)
    judge(version)
    promote(registry, version)
    judge(version, version)
    with pytest.raises(RefusedError, match="toy:v0 is in production already"):
        promote(registry, version)


def test_a_version_that_is_not_there_is_not_promoted(registry: LocalRegistry, put: Put) -> None:
    put(1)
    with pytest.raises(NotFoundError, match="no toy:v5"):
        registry.promote("toy", 5, suite_digest="suite", actor="ada", reason="")
