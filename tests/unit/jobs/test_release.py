"""How many candidates a gate split has seen, and when it is worn out."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pulmo.config.compose import compose
from pulmo.config.settings import Settings
from pulmo.core.bundle import Bundle
from pulmo.core.ports import Check, Registry, Verdict, Version
from pulmo.data.manifest import Manifest, Row
from pulmo.jobs import release
from pulmo.wiring import open_registry

ROWS = tuple(
    Row(f"{i}.png", "AB"[i % 2], split, f"p{i}", "0" * 64, f"{i:064x}")
    for i, split in enumerate(["train", "gate", "gate", "val", "test"])
)
MANIFEST = Manifest("toy", ("A", "B"), 1, ROWS)


@pytest.fixture
def registry(tmp_path: Path, make_bundle: Callable[..., Bundle]) -> Registry:
    settings = Settings(
        data_dir=tmp_path / "data",
        registry_url=f"sqlite:///{tmp_path / 'registry.db'}",
        files_url=str(tmp_path / "bundles"),
    )
    opened = open_registry(settings)
    for number in range(3):
        made = make_bundle(tmp_path / str(number), weights=bytes([number]))
        opened.register(made.path, actor="me")
    return opened


def judged(registry: Registry, version: Version, champion: str | None, split: str) -> None:
    registry.record_verdict(
        Verdict(
            name=version.name,
            model_digest=version.model_digest,
            suite_digest="5" * 64,
            champion_digest=champion,
            passed=False,
            checks=[Check("test_it", False, "no")],
            data_digest="d" * 64,
            details={"gate_digest": split},
        )
    )


def test_each_other_model_that_was_compared_on_this_split_counts_once(registry: Registry) -> None:
    first, second, third = registry.versions("toy")
    judged(registry, first, None, "g")  # without a champion nothing was compared
    judged(registry, second, first.model_digest, "g")
    judged(registry, second, first.model_digest, "g")
    judged(registry, third, first.model_digest, "another split")
    assert release.tries(registry, third, "g") == 1
    assert release.tries(registry, second, "g") == 0
    assert release.tries(registry, first, "another split") == 1


def test_the_gate_digest_follows_gate_pictures_and_labels_alone() -> None:
    digest = release.gate_digest(MANIFEST)
    grown = (*ROWS, replace(ROWS[0], path="new.png", pixels="f" * 64))
    assert release.gate_digest(replace(MANIFEST, rows=grown[::-1])) == digest
    relabelled = (*ROWS[:1], replace(ROWS[1], label="A"), *ROWS[2:])
    assert release.gate_digest(replace(MANIFEST, rows=relabelled)) != digest


def test_a_split_that_has_seen_too_many_is_called_worn_out() -> None:
    config = compose(["data=phantom", "gate.worn_out=3"])
    assert release.worn_out(3, config) == []
    (told,) = release.worn_out(4, config)
    assert "the 4th candidate" in told
    assert "gate.worn_out is 3" in told
    assert release.worn_out(99, compose(["data=phantom"])) == []
