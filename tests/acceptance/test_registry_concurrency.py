"""Sixteen processes move one alias and register models in one new registry; nothing is lost.

Run as a script this file is one of the writers: `FOLDER DATABASE SEAT MOVES`.
"""

import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pulmo.core import bundle as bundles
from pulmo.core.bundle import (
    BundleInfo,
    DecisionSpec,
    Estimate,
    Lineage,
    NetworkSpec,
    Specification,
)
from pulmo.core.ports import ModelRef
from pulmo.core.preprocess import InputSpec
from pulmo.errors import ConflictError, NotFoundError
from pulmo.registry.local import LocalRegistry, open_registry

WRITERS = 16
MOVES = {"sqlite": 200, "postgres": 60}
SHARED = 8  # models that every writer registers
OWN = 2  # models that only one writer registers
ALIAS = ModelRef.parse("toy:team")

SPECIFICATION = Specification(
    classes=("DARK", "BRIGHT"),
    input=InputSpec(height=16, width=16, channels=1),
    network=NetworkSpec(architecture="toy"),
    outputs=("probabilities", "logits"),
    temperature=1.0,
    decision=DecisionSpec(rule="argmax", refer_low=0, refer_high=0),
)


def write_bundle(folder: Path, model: str, machine: str) -> Path:
    """A valid bundle whose graph is never run."""
    graph, weights = b"graph", model.encode()
    lineage = Lineage(
        data_name="toy",
        data_digest="0" * 64,
        configuration={},
        seed=0,
        machine=machine,
        created_at="2026-01-01T00:00:00+00:00",
    )
    info = BundleInfo(
        name="toy",
        model_digest=bundles.model_digest(graph, weights, SPECIFICATION),
        specification=SPECIFICATION,
        metrics={"val": {"auroc": Estimate(value=len(model) / 20)}},
        curves={},
        score_metric="auroc",
        lineage=lineage,
    )
    members = {"digests": np.zeros((1, 32), np.uint8), "splits": np.zeros(1, np.uint8)}
    reference = {"labels": np.zeros(1, np.int64)}
    bundles.write(
        folder,
        graph=graph,
        weights=weights,
        reference=reference,
        members=members,
        info=info,
        card="",
    )
    return folder


def open_shared(folder: Path, database: str) -> LocalRegistry:
    return open_registry(database, str(folder / "bundles"))


def move_once(registry: LocalRegistry, seat: str, draw: random.Random) -> tuple[int, int]:
    """One move, tried until nobody came between; its id and the number of conflicts."""
    conflicts = 0
    while True:
        number = draw.choice(registry.versions("toy")).number
        try:
            present = registry.get(ALIAS).number
        except NotFoundError:
            present = None
        try:
            move = registry.set_alias(
                "toy", "team", number, expected=present, actor=seat, reason="turn"
            )
        except ConflictError:
            conflicts += 1
        else:
            return move.id, conflicts


def write(folder: Path, database: str, seat: str, moves: int) -> None:
    registry, draw = open_shared(folder, database), random.Random(seat)
    models = [f"shared {n}" for n in range(SHARED)] + [f"own {seat} {n}" for n in range(OWN)]
    draw.shuffle(models)
    every = moves // len(models)
    registered, moved, conflicts = {}, [], 0
    for turn in range(moves):
        if turn % every == 0:
            model = models[turn // every]
            made = write_bundle(folder / f"made-{seat}-{turn}", model, machine=seat)
            registered[model] = registry.register(made, actor=seat).number
        move, lost = move_once(registry, seat, draw)
        moved.append(move)
        conflicts += lost
    json.dump({"moved": moved, "registered": registered, "conflicts": conflicts}, sys.stdout)


@pytest.mark.parametrize("kind", MOVES)
def test_sixteen_writers_lose_nothing(
    tmp_path: Path, request: pytest.FixtureRequest, kind: str
) -> None:
    moves, database = MOVES[kind], f"sqlite:///{tmp_path}/models/registry.db"
    if kind == "postgres":  # empty: sixteen processes make the tables at once
        database = request.getfixturevalue("postgres").empty()
    writers = [
        subprocess.Popen(
            [sys.executable, __file__, str(tmp_path), database, str(seat), str(moves)],
            stdout=subprocess.PIPE,
        )
        for seat in range(WRITERS)
    ]
    told = [json.loads(writer.communicate()[0]) for writer in writers]
    assert [writer.returncode for writer in writers] == [0] * WRITERS
    registry = open_shared(tmp_path, database)
    history, versions = registry.history("toy"), registry.versions("toy")

    # The history is complete: exactly the moves that the writers were told of, each once.
    turns = [move for move in history if move.alias == "team"]
    assert Counter(move.actor for move in turns) == {str(s): moves for s in range(WRITERS)}
    assert {m.id for m in turns} == {move for one in told for move in one["moved"]}

    # No update is lost: every move begins where the one before it ended, up to the alias now.
    ends: dict[str, int | None] = {}
    for move in history:
        assert move.before == ends.get(move.alias)
        ends[move.alias] = move.after
    assert {alias: v.number for v in versions for alias in v.aliases} == ends

    # No number twice, none left out, and everybody was told the same number for one model.
    numbers: dict[str, set[int]] = {}
    for one in told:
        for model, number in one["registered"].items():
            numbers.setdefault(model, set()).add(number)
    assert all(len(given) == 1 for given in numbers.values())
    assert len(numbers) == len(versions) == SHARED + WRITERS * OWN
    assert [v.number for v in versions] == list(range(len(versions)))
    assert len({v.model_digest for v in versions}) == len(versions)

    # Every origin of the shared models is kept, and every file is whole.
    origins = Counter(len(registry.lineages(version)) for version in versions)
    assert origins == {WRITERS: SHARED, 1: WRITERS * OWN}
    for version in versions:
        registry.fetch(ModelRef("toy", version=version.number))
    assert sum(one["conflicts"] for one in told) > 0, "the writers never met: nothing was shown"


if __name__ == "__main__":
    write(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]))
