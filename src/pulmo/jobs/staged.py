"""What the staged tests look at: one candidate beside the champion, on the gate split."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from pulmo.config.schema import Config, GateConfig
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
TERMS_VARIABLE = "PULMO_TERMS"


class Terms(BaseModel):
    """What a candidate is judged by: the limits and the data set whose gate split is used.

    `mirror` says whether a mirrored picture is as good.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    limits: GateConfig
    data: str
    mirror: bool

    @classmethod
    def of(cls, config: Config) -> "Terms":
        """The terms that a configuration sets."""
        return cls(limits=config.gate, data=config.data.name, mirror=config.data.mirror)


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
    """One candidate, the champion it would replace if there is one, the gate split, the terms."""

    candidate: Contender
    champion: Contender | None
    terms: Terms
    split: GateSplit

    @property
    def limits(self) -> GateConfig:
        """What the candidate must reach."""
        return self.terms.limits

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


def open_case(registry: Registry, ref: ModelRef, terms: Terms, data_dir: Path) -> Case:
    """Fetch candidate and champion, both verified, and find the gate split of the data set."""
    bundle = verify(registry.fetch(ref))
    specification = bundle.info.specification
    dataset = load(data_dir, terms.data)
    gate = [(i, row) for i, row in enumerate(dataset.manifest.rows) if row.split == "gate"]
    rows = np.array([i for i, _ in gate], dtype=np.int64)
    number = {name: i for i, name in enumerate(specification.classes)}
    champion = _champion(registry, ref.name)
    return Case(
        candidate=Contender(bundle, dataset, rows),
        champion=Contender(champion, dataset, rows) if champion else None,
        terms=terms,
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


def read_environment(environment: Mapping[str, str] = os.environ) -> tuple[ModelRef, Terms]:
    """The reference under test and its terms, as `test-staged` hands them over."""
    missing = [name for name in (REF_VARIABLE, TERMS_VARIABLE) if not environment.get(name)]
    if missing:
        raise ConfigError(
            f"{' and '.join(missing)} not set: run `pulmo test-staged NAME:ALIAS`, which does"
        )
    terms = Terms.model_validate_json(Path(environment[TERMS_VARIABLE]).read_bytes())
    return ModelRef.parse(environment[REF_VARIABLE]), terms
