"""The limits that decide over a candidate, typed: the group `gate` of the configuration."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, le=1)]


class GateConfig(BaseModel):
    """The limits of the staged tests and of the comparison with the champion.

    `floors` maps a metric to the least value on the gate split. `margin` is the loss of AUROC
    against the champion that is still called equal, shown with one-sided `confidence`; with
    `spending` series every further candidate on one gate split needs more of it, and after
    `worn_out` of them (null: never) the split is called worn out. `min_per_class` is the least
    number of gate pictures a class needs. Shares of pictures: `class_floor` of every class, and
    of every class in every slice with `slice_pictures` of it `slice_floor`, must be found;
    `stability` of the answers must small changes leave alone; `direction` of mixtures with
    another class must lower the own class's probability; `nonsense` of noise and flat pictures
    must get no label, and at most `false_alarms` of real ones; `relabelled` of the known pictures
    may have got another label since. `ece` is the largest calibration error. At
    `robustness_severity` the mean AUROC over all corruptions must reach `robustness_floor`, and
    of heavily damaged pictures `more_referred` more must be left to humans; no
    other scale of grey may be answered better by `grey_gain`; a linear model on thumbnails must
    be worse by `above_baseline`. At least `known_answers` validation pictures must be at hand,
    and give the answers they gave at export. `latency_ratio` and `memory_ratio` bound what a
    picture may cost beside the champion. `promotions_per_day` null: no cap.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    floors: dict[str, float]
    margin: float = Field(gt=0, lt=1)
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    spending: Literal["none", "series"] = "none"
    worn_out: int | None = Field(default=None, ge=1)
    resamples: int = Field(default=2000, ge=200)
    min_per_class: int = Field(default=20, ge=2)
    parity_gap: float = Field(default=1e-4, gt=0)
    class_floor: Fraction = 0.6
    slice_floor: Fraction = 0.5
    slice_pictures: int = Field(default=20, ge=1)
    ece: Fraction = 0.15
    stability: Fraction = 0.95
    direction: Fraction = 0.8
    robustness_severity: int = Field(default=2, ge=1, le=5)
    robustness_floor: Fraction = 0.75
    more_referred: Annotated[float, Field(ge=-1, le=1)] = 0.01
    grey_gain: Fraction = 0.05
    above_baseline: Annotated[float, Field(ge=-1, le=1)] = 0.0
    nonsense: Fraction = 1.0
    false_alarms: Fraction = 0.2
    known_answers: int = Field(default=16, ge=1)
    relabelled: Fraction = 0.05
    latency_ratio: float = Field(default=3.0, gt=0)
    memory_ratio: float = Field(default=1.5, gt=0)
    promotions_per_day: int | None = Field(default=None, ge=1)
    timeout_s: float = Field(default=1800, gt=0)
    required: list[str] = Field(min_length=1)
