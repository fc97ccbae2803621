"""How much a model's twin in whole numbers differs from it, judged by the same limits."""

from dataclasses import dataclass

import numpy as np

from pulmo.core.decision import Decider, Outputs, positive_index
from pulmo.core.metrics import Labels, auroc

KEPT = 0.995  # share of the answers that a twin must give as the model does
LOST = 0.002  # AUROC that it may lose


@dataclass(frozen=True)
class Likeness:
    """What `likeness` finds.

    `kept` is the share of pictures whose label and decision are the same, `lost` how far the AUROC
    falls (None where it is undefined), `moved` the largest change of a probability.
    """

    pictures: int
    kept: float
    lost: float | None
    moved: float

    @property
    def close(self) -> bool:
        """Whether the twin may stand for the model."""
        return self.kept >= KEPT and (self.lost is None or self.lost <= LOST)

    def __str__(self) -> str:
        lost = "" if self.lost is None else f", AUROC lower by {self.lost:.4f} (at most {LOST})"
        return (
            f"{self.kept:.2%} of {self.pictures} answers are the same (at least {KEPT:.1%}){lost}, "
            f"probabilities moved by {self.moved:.3f} at most"
        )


def likeness(decider: Decider, labels: Labels, model: Outputs, twin: Outputs) -> Likeness:
    """How the answers of a model and of its twin to the same n pictures differ.

    `labels` int64 [n] are the true classes. Raises ModelError for outputs no sound graph returns.
    """
    ours, theirs = decider.answers(model), decider.answers(twin)
    same = [
        (one.label, one.decision) == (other.label, other.decision)
        for one, other in zip(ours, theirs, strict=True)
    ]
    positive = positive_index(decider.spec)
    before = auroc(labels, model.probabilities, positive)
    after = auroc(labels, twin.probabilities, positive)
    return Likeness(
        pictures=len(same),
        kept=float(np.mean(same)),
        lost=None if before is None or after is None else before - after,
        moved=float(np.abs(model.probabilities - twin.probabilities).max()),
    )
