from typing import Any

import pytest
from ui import tables, versions

AT = "2026-01-02T03:04:05+00:00"


def record(version: str, *, passed: bool | None, score: float | None = 0.9) -> dict[str, Any]:
    check = {"name": "test_auroc_floor", "passed": passed, "detail": "0.91 ≥ 0.9"}
    verdict = {"passed": passed, "at": AT, "checks": [check]}
    return {
        "version": {
            "version": version,
            "metric": "val auroc",
            "score": score,
            "aliases": ["production", "best"],
            "created_at": AT,
            "created_by": "me",
            "model_digest": "a" * 64,
        },
        "verdicts": [] if passed is None else [{**verdict, "passed": not passed}, verdict],
        "lineages": [] if passed is None else [{"commit": "b" * 40, "seed": 0, "created_at": AT}],
    }


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (None, "v1", "staging → v1"),
        ("v1", "v2", "staging: v1 → v2"),
        ("v2", None, "staging: v2 → nowhere"),
    ],
)
def test_a_move_is_told(before: str | None, after: str | None, told: str) -> None:
    assert versions.what({"alias": "staging", "before": before, "after": after}) == told


def test_evidence_is_told_in_short() -> None:
    evidence = {"verdict": 3, "model_digest": "c" * 64, "champion_digest": None}
    told = versions.evidence({"evidence": evidence})
    assert told == "verdict 3, model digest cccccccccccc, champion digest –"
    assert versions.evidence({"evidence": {}}) == "–"


def test_two_versions_stand_side_by_side() -> None:
    told = versions.beside(record("v0", passed=True), record("v1", passed=None, score=None))
    lines = {name: (one, other) for name, one, other in told}
    assert lines["val auroc"] == ("0.9000", "–")
    assert lines["aliases"] == ("best, production", "best, production")
    assert lines["staged tests"] == ("passed, 1 of 1, 2026-01-02 03:04", "not run yet")
    assert lines["commit"] == ("b" * 12, "–")
    assert lines["trained"] == ("2026-01-02 03:04", "–")
    same = record("v0", passed=False)
    refused = {line[0]: line[2] for line in versions.beside(same, same)}
    assert refused["staged tests"].startswith("REFUSED, 0 of 1")


def test_what_the_tests_said_stands_side_by_side() -> None:
    one, other = record("v0", passed=True), record("v1", passed=False)
    assert versions.checks_beside(one, other) == [
        ("auroc floor", "passed. 0.91 ≥ 0.9", "FAILED. 0.91 ≥ 0.9")
    ]
    assert versions.checks_beside(*[record("v2", passed=None)] * 2) == []


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (None, "–"),
        ("", "–"),
        ([], "–"),
        (True, "yes"),
        (False, "no"),
        (0.5, "0.5000"),
        (3, "3"),
        (["a", None], "a, –"),
        ("d" * 40, "d" * 12),
        ("d" * 41, "d" * 41),
    ],
)
def test_values_are_written_for_people(value: Any, told: str) -> None:
    assert tables.written(value) == told
