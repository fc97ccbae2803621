"""What the staged tests look at: one candidate beside the champion, on the gate split."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pulmo.config.schema import GateConfig
from pulmo.core.bundle import Bundle, verify
from pulmo.core.decision import Outputs, labels_of, positive_index
from pulmo.core.gate import GateSplit, Limits, Scored, judge
from pulmo.core.ports import PRODUCTION, Check, ModelRef, Registry
from pulmo.core.preprocess import Pixels
from pulmo.data.cache import open_pixels
from pulmo.data.manifest import DataSet, load
from pulmo.errors import ConfigError, NotFoundError
from pulmo.inference.engine import Engine
from pulmo.inference.engine import load as load_engine

REF_VARIABLE = "MODEL_REF"
LIMITS_VARIABLE = "PULMO_GATE_LIMITS"


@dataclass(frozen=True)
class Contender:
    """A bundle and what it says of the gate split; computed when first asked for."""

    bundle: Bundle
    dataset: DataSet
    rows: NDArray[np.int64]

    @cached_property
    def engine(self) -> Engine:
        """The engine that would serve it."""
        return load_engine(self.bundle)

    @cached_property
    def pixels(self) -> Pixels:
        """The gate pictures by this bundle's own preprocessing: uint8 [n, C, H, W]."""
        cached = open_pixels(self.dataset, self.bundle.info.specification.input)
        return np.ascontiguousarray(cached[self.rows])

    @cached_property
    def outputs(self) -> Outputs:
        """Outputs of the graph on all gate pictures."""
        return self.engine.infer(self.pixels)

    @cached_property
    def scored(self) -> Scored:
        """What the gate needs to know of it."""
        specification = self.bundle.info.specification
        probabilities = self.outputs.probabilities
        return Scored(
            classes=specification.classes,
            probabilities=probabilities,
            decided=labels_of(probabilities, specification),
            members=self.bundle.members()["digests"],
        )


@dataclass(frozen=True)
class Case:
    """One candidate, the champion it would replace if there is one, the gate split, limits."""

    candidate: Contender
    champion: Contender | None
    limits: GateConfig
    split: GateSplit

    @cached_property
    def checks(self) -> dict[str, Check]:
        """What the gate says, by the name of each check."""
        chosen = self.limits
        limits = Limits(
            floors=chosen.floors,
            margin=chosen.margin,
            confidence=chosen.confidence,
            resamples=chosen.resamples,
            min_per_class=chosen.min_per_class,
        )
        champion = self.champion.scored if self.champion else None
        found = judge(self.split, self.candidate.scored, champion, limits)
        return {check.name: check for check in found}


def open_case(
    registry: Registry, ref: ModelRef, limits: GateConfig, data_dir: Path, data_name: str
) -> Case:
    """Fetch candidate and champion, both verified, and find the gate split of the data set."""
    bundle = verify(registry.fetch(ref))
    specification = bundle.info.specification
    dataset = load(data_dir, data_name)
    gate = [(i, row) for i, row in enumerate(dataset.manifest.rows) if row.split == "gate"]
    rows = np.array([i for i, _ in gate], dtype=np.int64)
    number = {name: i for i, name in enumerate(specification.classes)}
    champion = _champion(registry, ref.name)
    return Case(
        candidate=Contender(bundle, dataset, rows),
        champion=Contender(champion, dataset, rows) if champion else None,
        limits=limits,
        split=GateSplit(
            labels=np.array([number.get(row.label, -1) for _, row in gate], dtype=np.int64),
            patients=[row.patient for _, row in gate],
            digests=[row.pixels for _, row in gate],
            positive=positive_index(specification),
        ),
    )


def _champion(registry: Registry, name: str) -> Bundle | None:
    try:
        return verify(registry.fetch(ModelRef(name, alias=PRODUCTION)))
    except NotFoundError:
        return None


def read_environment(environment: Mapping[str, str] = os.environ) -> tuple[ModelRef, Path]:
    """The reference under test and the file with its limits, as `test-staged` hands them over."""
    missing = [name for name in (REF_VARIABLE, LIMITS_VARIABLE) if not environment.get(name)]
    if missing:
        raise ConfigError(
            f"{' and '.join(missing)} not set: run `pulmo test-staged NAME:ALIAS`, which does"
        )
    return ModelRef.parse(environment[REF_VARIABLE]), Path(environment[LIMITS_VARIABLE])


def write_limits(path: Path, gate: GateConfig, data_name: str) -> None:
    """What `read_limits` reads: the limits and the name of the data set, as JSON."""
    document = {"gate": gate.model_dump(mode="json"), "data": data_name}
    path.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_limits(path: Path) -> tuple[GateConfig, str]:
    """The limits and the name of the data set that `write_limits` wrote."""
    document = json.loads(path.read_text(encoding="utf-8"))
    return GateConfig.model_validate(document["gate"]), document["data"]
