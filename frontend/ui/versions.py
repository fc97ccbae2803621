"""Versions, moves and verdicts of the registry in the words and tables of its page."""

from collections.abc import Mapping, Sequence
from typing import Any

from ui.tables import written
from ui.words import moment

Told = Mapping[str, Any]


def number(version: str | None) -> str:
    """A version, or that there is none."""
    return version or "nowhere"


def what(move: Told) -> str:
    """What a move did: production: v0 → v2."""
    if move["before"] is None:
        return f"{move['alias']} → {number(move['after'])}"
    return f"{move['alias']}: {move['before']} → {number(move['after'])}"


def evidence(move: Told) -> str:
    """On what a move rests, in short."""
    told = [f"{name.replace('_', ' ')} {written(one)}" for name, one in move["evidence"].items()]
    return ", ".join(told) or "–"


def newest_verdict(record: Told) -> Told | None:
    """The last word of the staged tests on a version, None where it was never tested."""
    verdicts: Sequence[Told] = record["verdicts"]
    return verdicts[-1] if verdicts else None


def beside(one: Told, other: Told) -> list[tuple[str, str, str]]:
    """Two records line by line: the versions, their newest verdicts and origins."""
    return _paired(_facts(one), _facts(other))


def checks_beside(one: Told, other: Told) -> list[tuple[str, str, str]]:
    """What the staged tests said of two versions, line by line."""
    return _paired(_checks(one), _checks(other))


def _paired(one: Mapping[str, str], other: Mapping[str, str]) -> list[tuple[str, str, str]]:
    names = dict.fromkeys([*one, *other])
    return [(name, one.get(name, "–"), other.get(name, "–")) for name in names]


def _facts(record: Told) -> dict[str, str]:
    version, verdict = record["version"], newest_verdict(record)
    facts = {
        version["metric"]: written(version["score"]),
        "aliases": written(sorted(version["aliases"])),
        "registered": f"{moment(version['created_at'])} by {version['created_by']}",
        "model digest": written(version["model_digest"]),
        "staged tests": _word(verdict),
    }
    origin = record["lineages"][-1] if record["lineages"] else {}
    for name in ("data_name", "data_digest", "commit", "clean", "seed", "created_at"):
        if name in origin:
            value = moment(origin[name]) if name.endswith("_at") else written(origin[name])
            facts["trained" if name == "created_at" else name.replace("_", " ")] = value
    return facts


def _checks(record: Told) -> dict[str, str]:
    verdict = newest_verdict(record)
    return {
        check["name"].removeprefix("test_").replace("_", " "): " ".join(
            (("passed." if check["passed"] else "FAILED."), check["detail"])
        ).strip()
        for check in (verdict["checks"] if verdict else [])
    }


def _word(verdict: Told | None) -> str:
    if verdict is None:
        return "not run yet"
    passed = sum(check["passed"] for check in verdict["checks"])
    word = "passed" if verdict["passed"] else "REFUSED"
    return f"{word}, {passed} of {len(verdict['checks'])}, {moment(verdict['at'])}"
