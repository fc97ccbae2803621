"""How a model bears pictures that noise, blur, exposure or compression have changed."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pulmo.config.schema import EvaluateConfig
from pulmo.core import metrics
from pulmo.core.bundle import Estimate
from pulmo.core.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from pulmo.core.decision import labels_of, positive_index
from pulmo.core.preprocess import Pixels
from pulmo.core.randomness import permutation
from pulmo.jobs.measurement import Measured, Subject, accepted, statistics
from pulmo.progress import track

SHOWN = ("auroc", "balanced_accuracy", "accepted")
STRIP = 3  # the severity that the page shows a picture at

Cell = dict[str, Estimate]


@dataclass(frozen=True)
class Robustness:
    """Metrics of the sampled pictures as they are and, for each corruption, at severities 1 to 5;
    `strip` holds one of them under every corruption, uint8 [C, H, W].
    """

    split: str
    pictures: int
    clean: Cell
    cells: dict[str, tuple[Cell, ...]]
    strip: dict[str, Pixels]

    def grid(self, metric: str) -> NDArray[np.float64]:
        """The values [corruptions, 1 + severities], first those of the unchanged pictures; NaN
        where the metric is undefined.
        """
        rows = [[self.clean, *cells] for cells in self.cells.values()]
        found = [[cell[metric].value for cell in row] for row in rows]
        return np.array(found, dtype=np.float64)


def sample(labels: NDArray[np.int64], size: int, seed: int) -> NDArray[np.int64]:
    """Places of at most `size` of n pictures, as many of each class as there are, in order."""
    classes = np.unique(labels)
    chosen: list[int] = []
    for i, k in enumerate(classes):
        places = np.flatnonzero(labels == k)
        share = (size + len(classes) - 1 - i) // len(classes)
        chosen += places[permutation(seed, 0, len(places))][:share].tolist()
    return np.array(sorted(chosen), dtype=np.int64)


def measure_robustness(subject: Subject, part: Measured, config: EvaluateConfig) -> Robustness:
    """Corrupt `config.robustness` pictures of a measured split and measure them again."""
    seed = subject.bundle.info.lineage.seed
    chosen = sample(part.labels, config.robustness, seed)
    pixels = np.ascontiguousarray(subject.pixels[part.places[chosen]])
    keys = [int(part.rows[i].pixels[:15], 16) for i in chosen]  # noise belongs to the picture
    steps = [(name, severity) for name in CORRUPTIONS for severity in SEVERITIES]
    cells: dict[str, list[Cell]] = {name: [] for name in CORRUPTIONS}
    for name, severity in track(steps, "corrupting", total=len(steps)):
        changed = [corrupt(one, name, severity, key) for one, key in zip(pixels, keys, strict=True)]
        cells[name].append(_judge(subject, part, chosen, np.stack(changed), config))
    shown = _showpiece(part, chosen)
    return Robustness(
        split=part.split,
        pictures=len(chosen),
        clean=_judge(subject, part, chosen, pixels, config),
        cells={name: tuple(found) for name, found in cells.items()},
        strip={
            "unchanged": pixels[shown],
            **{name: corrupt(pixels[shown], name, STRIP, keys[shown]) for name in CORRUPTIONS},
        },
    )


def _judge(
    subject: Subject, part: Measured, chosen: NDArray[np.int64], pixels: Pixels,
    config: EvaluateConfig,
) -> Cell:  # fmt: skip
    outputs = subject.engine(pixels)
    given = accepted(subject.decider.answers(outputs))
    decided = labels_of(outputs.probabilities, subject.spec)
    positive = positive_index(subject.spec)
    named = statistics(part.labels[chosen], outputs.probabilities, decided, given, positive)
    return metrics.bootstrap(
        {name: named[name] for name in SHOWN},
        [part.rows[i].patient for i in chosen],
        resamples=config.resamples,
        confidence=config.confidence,
        seed=subject.bundle.info.lineage.seed,
    )


def _showpiece(part: Measured, chosen: NDArray[np.int64]) -> int:
    """The place in the sample of the picture that the model is surest of, and right."""
    truth = part.probabilities[chosen, part.labels[chosen]]
    return int(np.argmax(truth))
