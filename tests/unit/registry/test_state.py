import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pulmo.core.bundle import Bundle, verify
from pulmo.core.ports import Check, Verdict, Version
from pulmo.errors import ConflictError, NotFoundError, PulmoError, RefusedError
from pulmo.registry.files import FolderFiles
from pulmo.registry.local import LocalRegistry
from pulmo.store.database import open_database

# The acceptance suite asks for many more.
EXAMPLES = int(os.environ.get("PULMO_STATE_EXAMPLES", "25"))
STEPS = int(os.environ.get("PULMO_STATE_STEPS", "40"))

NAME = "toy"
SCORES = (0.7, 0.9, None, 0.9)
BY = {"actor": "ada", "reason": "because"}
GOOD, BAD = Check("floor", True, ""), Check("parity", False, "")
FINDINGS = {
    "pass": (True, (GOOD,)),
    "fail": (False, (GOOD, BAD)),
    "nothing ran": (True, ()),
    "a lie": (True, (GOOD, BAD)),
}

numbers = st.integers(0, 5)
models = st.integers(0, len(SCORES) - 1)
suites = st.sampled_from(["old", "new"])
words = st.sampled_from(["staging", "team"])
findings = st.sampled_from(["pass", "pass", "pass", *FINDINGS])
chance = st.integers(0, 5)  # 0 is right; 1 and, for verdicts, 2 is wrong, each in its own way


@dataclass
class Expected:
    """What a registry ought to hold, in the plainest terms; models are told by their index."""

    versions: dict[int, int] = field(default_factory=dict)  # number → model
    next_number: int = 0
    aliases: dict[str, int] = field(default_factory=dict)
    verdicts: list[tuple[int, str, int | None, bool]] = field(default_factory=list)
    past: list[int] = field(default_factory=list)  # what rollback goes back through
    held: set[int] = field(default_factory=set)  # numbers that were ever in production

    def champion(self) -> int | None:
        number = self.aliases.get("production")
        return None if number is None else self.versions[number]

    def follow(self) -> None:
        for alias in ("latest", "best"):
            self.aliases.pop(alias, None)
        scored = [n for n in self.versions if SCORES[self.versions[n]] is not None]
        if self.versions:
            self.aliases["latest"] = max(self.versions)
        if scored:
            self.aliases["best"] = min(scored, key=lambda n: (-SCORES[self.versions[n]], n))

    def may_promote(self, number: int, suite: str) -> bool:
        asked = (self.versions[number], suite, self.champion())
        told = [passes for *about, passes in self.verdicts if tuple(about) == asked]
        return bool(told) and told[-1] and self.aliases.get("production") != number

    def below(self) -> int | None:
        left = [n for n in self.past[:-1] if n in self.versions and n != self.past[-1]]
        return left[-1] if left else None


class RegistryMachine(RuleBasedStateMachine):
    """Every verb in any order, with right and wrong arguments, beside `Expected`."""

    def __init__(self, bundles: list[Bundle], folder: Path, emptied: Callable[[], str]) -> None:
        super().__init__()
        self.bundles = bundles
        self.database = open_database(emptied())
        self.registry = LocalRegistry(self.database, FolderFiles(folder / "bundles"))
        self.expected = Expected()

    def teardown(self) -> None:
        self.registry.close()

    def digest(self, model: int | None) -> str | None:
        return None if model is None else self.bundles[model].info.model_digest

    @initialize(order=st.permutations(range(len(SCORES))), served=st.permutations([0, 1, 2, 0, 1]))
    def begin(self, order: list[int], served: list[int]) -> None:
        """Not from nothing: rollback is only of interest where much has been in production."""
        for model in order[:3]:
            self.register(model)
        for pick in served:
            self.test_and_promote(pick, ["pass"], wrong=0)

    @rule(model=models)
    def register(self, model: int) -> None:
        known = [n for n, other in self.expected.versions.items() if other == model]
        version = self.registry.register(self.bundles[model].path, actor="ada")
        assert version.number == (known or [self.expected.next_number])[0]
        if not known:
            self.expected.versions[version.number] = model
            self.expected.next_number += 1
            self.expected.follow()

    @rule(alias=words, number=numbers, wrong=chance)
    def set_alias(self, alias: str, number: int, wrong: int) -> None:
        present = self.expected.aliases.get(alias)
        expected = present if wrong != 1 else (None if present is not None else 0)
        refusal = None
        if number not in self.expected.versions:
            refusal = NotFoundError
        elif expected != present:
            refusal = ConflictError
        self.attempt(
            refusal,
            lambda: self.registry.set_alias(NAME, alias, number, expected=expected, **BY),
            lambda: self.expected.aliases.update({alias: number}),
        )

    @rule(alias=st.sampled_from(["production", "latest", "best"]), number=numbers)
    def meddle(self, alias: str, number: int) -> None:
        present = self.expected.aliases.get(alias)
        for verb in (
            lambda: self.registry.set_alias(NAME, alias, number, expected=present, **BY),
            lambda: self.registry.remove_alias(NAME, alias, expected=present or 0, **BY),
        ):
            self.attempt(RefusedError, verb)

    @rule(alias=words, wrong=chance)
    def remove_alias(self, alias: str, wrong: int) -> None:
        present = self.expected.aliases.get(alias)
        refusal = NotFoundError if present is None else None if wrong != 1 else ConflictError
        expected = present if present is not None and wrong != 1 else 99
        self.attempt(
            refusal,
            lambda: self.registry.remove_alias(NAME, alias, expected=expected, **BY),
            lambda: self.expected.aliases.pop(alias),
        )

    @precondition(lambda self: self.expected.versions)
    @rule(
        model=models,
        suite=suites,
        beside=st.one_of(st.just("the champion"), st.none(), models),
        finding=findings,
    )
    def record_verdict(self, model: int, suite: str, beside: object, finding: str) -> None:
        champion = self.expected.champion() if beside == "the champion" else beside
        passed, checks = FINDINGS[finding]
        verdict = Verdict(
            NAME, self.digest(model), suite, self.digest(champion), passed, checks, "0" * 64
        )
        about = (model, suite, champion, finding == "pass")
        self.attempt(
            None if model in self.expected.versions.values() else PulmoError,
            lambda: self.registry.record_verdict(verdict),
            lambda: self.expected.verdicts.append(about),
        )

    @rule(number=numbers, suite=suites)
    def promote(self, number: int, suite: str) -> None:
        refusal = None
        if number not in self.expected.versions:
            refusal = NotFoundError
        elif not self.expected.may_promote(number, suite):
            refusal = RefusedError

        def done() -> None:
            self.expected.aliases["production"] = number
            self.expected.past.append(number)
            self.expected.held.add(number)

        self.attempt(
            refusal,
            lambda: self.registry.promote(NAME, number, suite_digest=suite, **BY),
            done,
        )

    @precondition(lambda self: self.expected.versions)
    @rule(pick=st.integers(0, 3), findings=st.lists(findings, min_size=1, max_size=2), wrong=chance)
    def test_and_promote(self, pick: int, findings: list[str], wrong: int) -> None:
        """The straight way, mostly, so that deep histories come about."""
        number = sorted(self.expected.versions)[pick % len(self.expected.versions)]
        model = self.expected.versions[number]
        others = [None, *range(len(SCORES))]
        beside = others[(pick + wrong) % len(others)] if wrong == 1 else "the champion"
        for finding in findings:
            self.record_verdict(model, "new", beside, finding)
        self.promote(number, "old" if wrong == 2 else "new")

    @rule(steps=st.lists(st.none() | numbers, min_size=1, max_size=3))
    def roll_back(self, steps: list[int | None]) -> None:
        for to in steps:
            self.roll_back_once(to)

    def roll_back_once(self, to: int | None) -> None:
        past = self.expected.past
        target = self.expected.below() if past and to is None else to
        refusal: type[PulmoError] | None = None
        if not past:
            refusal = NotFoundError
        elif target is None or target == self.expected.aliases["production"]:
            refusal = RefusedError
        elif target not in self.expected.held:
            refusal = RefusedError if target in self.expected.versions else NotFoundError
        elif target not in self.expected.versions:
            refusal = RefusedError

        def done() -> None:
            self.expected.aliases["production"] = target
            if target in past:
                while past[-1] != target:
                    past.pop()
            else:
                past.append(target)

        self.attempt(refusal, lambda: self.registry.rollback(NAME, to=to, **BY), done)

    @rule(number=numbers)
    def delete(self, number: int) -> None:
        pointing = {alias for alias, n in self.expected.aliases.items() if n == number}
        refusal = None
        if number not in self.expected.versions:
            refusal = NotFoundError
        elif pointing - {"latest", "best"}:
            refusal = RefusedError

        def done() -> None:
            del self.expected.versions[number]
            self.expected.follow()

        self.attempt(refusal, lambda: self.registry.delete(NAME, number, **BY), done)

    def attempt(
        self,
        refusal: type[PulmoError] | None,
        verb: Callable[[], object],
        done: Callable[[], object] = lambda: None,
    ) -> None:
        if refusal is not None:
            with pytest.raises(refusal):
                verb()
        else:
            verb()
            done()

    @invariant()
    def production_has_passed(self) -> None:
        """Seen from outside, whatever `Expected` believes."""
        versions = {v.number: v for v in self.stored()}
        for move in self.moves():
            if move.alias == "production" and move.action == "promote":
                (told,) = [v for v in self.verdicts() if v.id == move.evidence["verdict"]]
                assert told.passed
                assert told.checks
                assert all(check.passed for check in told.checks)
                assert told.model_digest == move.evidence["model_digest"]
                if move.after in versions:
                    assert versions[move.after].model_digest == told.model_digest
        serving = [v for v in versions.values() if "production" in v.aliases]
        promoted = {m.after for m in self.moves() if m.action == "promote"}
        assert len(serving) <= 1
        assert all(v.number in promoted for v in serving)

    @invariant()
    def versions_and_aliases_are_as_expected(self) -> None:
        stored = self.stored()
        digests = {v.number: v.model_digest for v in stored}
        assert digests == {n: self.digest(m) for n, m in self.expected.versions.items()}
        assert {a: v.number for v in stored for a in v.aliases} == self.expected.aliases
        assert all(
            v.score == (SCORES[self.expected.versions[v.number]] or -math.inf) for v in stored
        )

    @invariant()
    def the_history_is_an_unbroken_chain_that_ends_where_the_aliases_are(self) -> None:
        ends: dict[str, int | None] = {}
        for move in self.moves():
            assert move.before == ends.get(move.alias)
            ends[move.alias] = move.after
        assert {alias: n for alias, n in ends.items() if n is not None} == self.expected.aliases

    def stored(self) -> list[Version]:
        return self.registry.versions(NAME) if self.registry.names() else []

    def moves(self) -> list:
        return self.registry.history(NAME) if self.registry.names() else []

    def verdicts(self) -> list[Verdict]:
        return self.registry.verdicts(NAME)


@pytest.mark.parametrize(("database", "examples"), [("sqlite", EXAMPLES), ("postgres", 3)])
def test_no_sequence_of_verbs_breaks_the_registry(
    a_bundle: Callable[..., Bundle],
    tmp_path: Path,
    request: pytest.FixtureRequest,
    database: str,
    examples: int,
) -> None:
    def emptied() -> str:
        if database == "postgres":
            return str(request.getfixturevalue("postgres").emptied())
        for path in tmp_path.glob("registry.db*"):
            path.unlink()
        return f"sqlite:///{tmp_path}/registry.db"

    bundles = [verify(a_bundle(n, score=score).path) for n, score in enumerate(SCORES)]
    run_state_machine_as_test(
        lambda: RegistryMachine(bundles, tmp_path, emptied),
        settings=settings(
            max_examples=examples,
            stateful_step_count=STEPS,
            deadline=None,
            derandomize=True,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
