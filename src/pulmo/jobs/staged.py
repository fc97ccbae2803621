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
from pulmo.core.bundle import WEIGHTS, Bundle, verify
from pulmo.core.decision import Outputs, labels_of, positive_index
from pulmo.core.gate import GateSplit, Limits, Scored, confidence_of_try, judge
from pulmo.core.metrics import auroc
from pulmo.core.ports import Check, ModelRef, Registry
from pulmo.core.preprocess import Pixels
from pulmo.data.cache import open_pixels
from pulmo.data.manifest import GATE, DataSet, Row, load
from pulmo.errors import ConfigError, DataError
from pulmo.inference.engine import Engine
from pulmo.inference.engine import load as load_engine

REF_VARIABLE = "MODEL_REF"
TERMS_VARIABLE = "PULMO_TERMS"


class Terms(BaseModel):
    """What a candidate is judged by: the limits and the data set whose gate split is used.

    `mirror` says whether a mirrored picture is as good; the candidate is the `number`-th that is
    compared on this gate split with a champion, whose model digest is `champion`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    limits: GateConfig
    data: str
    mirror: bool
    number: int = 1
    champion: str | None = None

    @classmethod
    def of(cls, config: Config) -> "Terms":
        """The terms that a configuration sets."""
        return cls(limits=config.gate, data=config.data.name, mirror=config.data.mirror)


@dataclass(frozen=True)
class Known:
    """m validation pictures that a bundle remembers: their places in its reference, int64 [m], and
    their rows in the data set, int64 [m].
    """

    places: NDArray[np.int64]
    rows: NDArray[np.int64]


def find_known(bundle: Bundle, dataset: DataSet) -> Known:
    """Which pictures of a bundle's reference a data set holds, by the digest of their pixels."""
    where = {row.pixels: i for i, row in enumerate(dataset.manifest.rows)}
    digests = bundle.reference().get("digests", np.zeros((0, 32), dtype=np.uint8))
    pairs = [(i, where.get(one.tobytes().hex(), -1)) for i, one in enumerate(digests)]
    found = np.array([pair for pair in pairs if pair[1] >= 0], dtype=np.int64).reshape(-1, 2)
    return Known(places=found[:, 0], rows=found[:, 1])


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
        return self.pixels_of(self.rows)

    @property
    def gate_rows(self) -> list[Row]:
        """The gate pictures' lines in the manifest."""
        return [self.dataset.manifest.rows[i] for i in self.rows]

    @cached_property
    def known(self) -> Known:
        """The validation pictures of the bundle's reference that lie on this machine."""
        return find_known(self.bundle, self.dataset)

    def pixels_of(self, rows: NDArray[np.int64]) -> Pixels:
        """Any pictures of the data set, by this bundle's own preprocessing."""
        cached = open_pixels(self.dataset, self.bundle.info.specification.input)
        return np.ascontiguousarray(cached[rows])

    @cached_property
    def outputs(self) -> Outputs:
        """Outputs of the graph on all gate pictures."""
        return self.engine(self.pixels)

    def by_weights(self, pixels: Pixels) -> Outputs:
        """What the weights say, which the graph was made of."""
        from pulmo.models.export import ask

        weights = (self.bundle.path / WEIGHTS).read_bytes()
        return ask(weights, self.bundle.info.specification, pixels)

    def in_floats(self, pixels: Pixels) -> Outputs:
        """What the graph says; where it is in whole numbers, the weights."""
        whole = self.bundle.info.specification.precision is not None
        return self.by_weights(pixels) if whole else self.engine(pixels)

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

    def some(self, count: int) -> NDArray[np.int64]:
        """Places of about `count` gate pictures, as many of every class, spread over the split."""
        classes = np.unique(self.split.labels)
        each = max(1, count // len(classes))
        chosen = []
        for k in classes:
            places = np.flatnonzero(self.split.labels == k)
            steps = np.linspace(0, len(places) - 1, min(each, len(places)))
            chosen.append(places[steps.astype(int)])
        return np.sort(np.concatenate(chosen)).astype(np.int64)

    def auroc(self, places: NDArray[np.int64], pixels: Pixels) -> float:
        """The candidate's AUROC on changed `pixels` of the gate pictures at `places`."""
        said = self.candidate.engine(pixels).probabilities
        found = auroc(self.split.labels[places], said, self.split.positive)
        if found is None:
            raise DataError("the gate split lacks a class: make it larger (data.splits.gate)")
        return found

    @cached_property
    def checks(self) -> dict[str, Check]:
        """What the gate says, by the name of each check."""
        chosen = self.limits
        limits = Limits(
            floors=chosen.floors,
            margin=chosen.margin,
            confidence=confidence_of_try(chosen.confidence, self.terms.number, chosen.spending),
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
    gate = [(i, row) for i, row in enumerate(dataset.manifest.rows) if row.split == GATE]
    rows = np.array([i for i, _ in gate], dtype=np.int64)
    number = {name: i for i, name in enumerate(specification.classes)}
    champion = None
    if terms.champion is not None:  # the one that the verdict will name, whatever serves by now
        champion = verify(registry.fetch(ModelRef(ref.name, digest=terms.champion)))
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


def read_environment(environment: Mapping[str, str] = os.environ) -> tuple[ModelRef, Terms]:
    """The reference under test and its terms, as `test-staged` hands them over."""
    missing = [name for name in (REF_VARIABLE, TERMS_VARIABLE) if not environment.get(name)]
    if missing:
        raise ConfigError(
            f"{' and '.join(missing)} not set: run `pulmo test-staged NAME:ALIAS`, which does"
        )
    terms = Terms.model_validate_json(Path(environment[TERMS_VARIABLE]).read_bytes())
    return ModelRef.parse(environment[REF_VARIABLE]), terms
