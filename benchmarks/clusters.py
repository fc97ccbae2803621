"""How a recipe holds on pictures unlike those it learned from: `python -m benchmarks.clusters`.

Leave-a-cluster-out validation. Patients of the splits train and val (never gate, never test) are
grouped by what a frozen network sees in their pictures; the configured recipe is trained without
one group and judged on it, group after group. What is told with a name is kept in
`benchmarks/results/experiments.json`; `benchmarks.quality_page` makes `docs/experiments.md` of it.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pytorch_lightning.profilers import Profiler
from torch import nn

from benchmarks.grouping import CLUSTERS, HELD, asked, clusters, size, without
from benchmarks.stored import EXPERIMENTS, changing, origin
from pulmo.config.compose import compose
from pulmo.config.schema import Config
from pulmo.config.settings import load as load_settings
from pulmo.core import calibration, metrics
from pulmo.core.preprocess import Pixels
from pulmo.data.cache import open_pixels
from pulmo.data.datamodule import Samples
from pulmo.data.manifest import TRAIN, VAL, DataSet, load
from pulmo.jobs import fit as fitting
from pulmo.jobs.embedding import Known, embedded
from pulmo.jobs.fit import fit, samples
from pulmo.jobs.train import input_spec

LEAST = 20  # pictures of each class that a cluster must hold for its figures to count
NAMES = ("auroc", "accuracy", "sensitivity", "specificity")

Counts = dict[str, int]
Embedded = NDArray[Any]


@dataclass(frozen=True)
class Fold:
    """One cluster left out: pictures of each class, AUROC of its own validation pictures, what the
    left out ones give (decisions by the threshold that those chose), seconds of training.
    """

    number: int
    train: Counts
    val: Counts
    held: Counts
    val_auroc: float | None
    auroc: float | None
    accuracy: float | None
    sensitivity: float | None
    specificity: float | None
    seconds: float

    @property
    def counts(self) -> bool:
        """Whether enough pictures of each class were left out."""
        return min(self.held.values()) >= LEAST


class Once:
    """What a frozen part makes of the pictures of all folds, made once: it is the same in each.

    A picture's views depend on the seed and its row alone. `owed` are the seconds that a fold
    would have spent on its own pictures, but did not.
    """

    def __init__(self, rows: NDArray[np.int64]) -> None:
        self.rows, self.owed = rows, 0.0
        self._made: tuple[int, Embedded, float] | None = None

    def __call__(
        self,
        lower: nn.Module,
        part: Samples,
        config: Config,
        views: int,
        profiler: Profiler,
        known: Known,
        data: str,
    ) -> Embedded:
        """As `jobs.embedding.embedded`."""
        begun = time.perf_counter()
        if self._made is None or self._made[0] < views:
            whole = Samples(part.inputs, self.rows, np.zeros_like(self.rows))
            made = embedded(lower, whole, config, views, profiler, {}, data)
            self._made = views, made, time.perf_counter() - begun
        most, made, took = self._made
        places = np.searchsorted(self.rows, part.rows)
        chosen: Embedded = made[
            np.concatenate([view * len(self.rows) + places for view in range(views)])
        ]
        own = len(part.rows) * views / (len(self.rows) * most)
        self.owed += own * took - (time.perf_counter() - begun)
        return chosen

    @contextmanager
    def instead(self) -> Iterator[None]:
        """Stand in for `embedded` in the product's training."""
        fitting.embedded = self  # type: ignore[attr-defined]
        try:
            yield
        finally:
            fitting.embedded = embedded  # type: ignore[attr-defined]


def judged(config: Config, dataset: DataSet, pixels: Pixels, number: int, once: Once) -> Fold:
    """The recipe trained by the product's own `fit` without the held out rows, and judged."""
    with tempfile.TemporaryDirectory() as folder, once.instead():
        once.owed, begun = 0.0, time.perf_counter()
        network = fit(config, dataset, pixels, Path(folder))
        seconds = time.perf_counter() - begun + once.owed
    parts = {split: samples(dataset, pixels, split) for split in (TRAIN, VAL, HELD)}
    val, held = (
        (asked(network, pixels, part.rows).astype(np.float64), part.labels)
        for part in (parts[VAL], parts[HELD])
    )
    told = figures(config, val, held, dataset)
    return Fold(
        number=number,
        train=_counts(parts[TRAIN].labels, dataset),
        val=_counts(parts[VAL].labels, dataset),
        held=_counts(parts[HELD].labels, dataset),
        val_auroc=told["val_auroc"],
        auroc=told["auroc"],
        accuracy=told["accuracy"],
        sensitivity=told["sensitivity"],
        specificity=told["specificity"],
        seconds=round(seconds, 1),
    )


def figures(
    config: Config,
    val: tuple[NDArray[np.float64], NDArray[np.int64]],
    held: tuple[NDArray[np.float64], NDArray[np.int64]],
    dataset: DataSet,
) -> dict[str, float | None]:
    """AUROC of both, logits [n, 2] and labels [n], and the decisions on what was held out as
    validation data alone would have them: temperature, then threshold.
    """
    (logits, labels), (others, truth) = val, held
    positive = dataset.manifest.classes.index(str(config.data.positive))
    heat = calibration.temperature(logits, labels)
    known, probabilities = (calibration.softmax(one / heat) for one in (logits, others))
    hits = labels == positive
    limit = calibration.threshold(known[:, positive], hits, config.decision.objective)
    answers = np.where(probabilities[:, positive] >= limit, positive, 1 - positive)
    found = metrics.values(truth, probabilities, answers, positive)
    return {
        "val_auroc": metrics.auroc(labels, known, positive),
        **{name: found[name] for name in NAMES},
    }


def _counts(labels: NDArray[np.int64], dataset: DataSet) -> Counts:
    classes = dataset.manifest.classes
    return dict(zip(classes, np.bincount(labels, minlength=len(classes)).tolist(), strict=True))


def summary(folds: Sequence[Fold]) -> dict[str, Any]:
    """Means over the folds that count; the worst AUROC; the seconds of one training."""
    counted = [fold for fold in folds if fold.counts]
    told: dict[str, Any] = {name: _mean([getattr(f, name) for f in counted]) for name in NAMES}
    told["worst"] = min((fold.auroc or 0.0 for fold in counted), default=None)
    told["seconds"] = _mean([fold.seconds for fold in folds])
    told["folds"] = [{**asdict(fold), "counts": fold.counts} for fold in folds]
    return told


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def keep(row: dict[str, Any], path: Path) -> None:
    """Put an experiment in the place of the one of its name; what was said of that one stays."""
    with changing(path) as known:
        rows: list[dict[str, Any]] = known.setdefault("experiments", [])
        places = [i for i, one in enumerate(rows) if one["name"] == row["name"]]
        if not places:
            rows.append({"why": "", "kept": None, **row})
        else:
            before = rows[places[0]]
            rows[places[0]] = {"why": before["why"], "kept": before["kept"], **row}


def say(name: str | None, said: dict[str, Any], path: Path) -> None:
    """Say of a kept experiment why it was made or what became of it."""
    with changing(path) as known:
        found = [one for one in known.get("experiments", []) if one["name"] == name]
        if not found:
            raise SystemExit(f"{path} keeps no experiment '{name}'")
        found[0].update(said)


def table(folds: Sequence[Fold]) -> str:
    """The folds as lines of text."""
    head = ("fold", "train", "val", "held", *NAMES, "val AUROC", "seconds", "")
    lines = ["".join(f"{word:>13}" for word in head)]
    for fold in folds:
        sizes = ["/".join(map(str, part.values())) for part in (fold.train, fold.val, fold.held)]
        shown = [getattr(fold, name) for name in (*NAMES, "val_auroc")]
        cells = [f"{fold.number}", *sizes, *("-" if v is None else f"{v:.4f}" for v in shown)]
        cells += [f"{fold.seconds:.0f}", "" if fold.counts else "not counted"]
        lines.append("".join(f"{cell:>13}" for cell in cells))
    return "\n".join(lines)


def run(config: Config, numbers: Sequence[int] | None) -> tuple[DataSet, list[Counts], list[Fold]]:
    """Judge the configured recipe on the folds with these numbers, or on all that count; the
    pictures of every cluster are told too.
    """
    dataset = load(load_settings().data_dir, config.data.name)
    if config.data.positive is None:
        raise SystemExit(f"{config.data.name} has no positive class: nothing can be judged")
    cluster_of = clusters(config, dataset)
    sizes = [size(dataset, cluster_of, number) for number in range(CLUSTERS)]
    print(f"pictures of each cluster: {sizes}", file=sys.stderr)
    if numbers is None:
        numbers = [number for number, one in enumerate(sizes) if min(one.values()) >= LEAST]
    pixels = open_pixels(dataset, input_spec(config))
    rows = [i for i, row in enumerate(dataset.manifest.rows) if row.split in (TRAIN, VAL)]
    once, folds = Once(np.array(rows)), []
    for number in numbers:
        fold = judged(config, without(dataset, cluster_of, number), pixels, number, once)
        print(f"fold {number}: AUROC {fold.auroc}, {fold.seconds:.0f} s", file=sys.stderr)
        folds.append(fold)
    return dataset, sizes, folds


def main() -> None:
    """Judge one recipe, tell, and keep what has a name."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("overrides", nargs="*", help="of the recipe, such as recipe=finetune")
    parser.add_argument("--name", help="keep it under this name")
    parser.add_argument("--why", help="what was expected of it")
    parser.add_argument("--kept", choices=("yes", "no"), help="what became of it")
    parser.add_argument("--only-say", action="store_true", help="of a kept one; train nothing")
    parser.add_argument("--folds", help="some of 0,1,2,3,4; else those that count")
    parser.add_argument("--results", type=Path, default=EXPERIMENTS)
    asked = parser.parse_args()
    said: dict[str, Any] = {} if asked.why is None else {"why": asked.why}
    if asked.kept is not None:
        said["kept"] = asked.kept == "yes"
    if asked.only_say:
        say(asked.name, said, asked.results)
        return
    config = compose(asked.overrides)
    numbers = [int(n) for n in asked.folds.split(",")] if asked.folds else None
    dataset, sizes, folds = run(config, numbers)
    print(table(folds))
    row = {
        "name": asked.name,
        "what": " ".join(asked.overrides),
        **said,
        "data": {"name": dataset.manifest.name, "digest": dataset.manifest.digest},
        "clusters": sizes,
        **summary(folds),
        **origin(),
    }
    if asked.name:
        keep(row, asked.results)
    print(json.dumps(row, ensure_ascii=False))


if __name__ == "__main__":
    main()
