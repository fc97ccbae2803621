"""The typed configuration of an experiment: `configs/` holds its values, this file the meaning."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pulmo.core.dicom_spec import DicomSpec

Fraction = Annotated[float, Field(ge=0, le=1)]


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RunConfig(_Group):
    """Where a run writes. `dir` null means a new folder `root/<time>-<model name>`."""

    root: str = "runs"
    dir: str | None = None


class SplitConfig(_Group):
    """How pictures are dealt out. `official` maps a split folder of the source to `pool` (dealt
    out by patient) or `test`; without one, `test` gets its fraction of the pool as well.
    """

    val: Fraction = 0.1
    gate: Fraction = 0.1
    test: Fraction = 0.1
    official: dict[str, Literal["pool", "test"]] = Field(default_factory=dict)


class PhantomConfig(_Group):
    """The built-in phantom: how many pictures, how large, how hard (noise 0 to 1)."""

    images: int = Field(default=1200, ge=40, le=100_000)
    size: int = Field(default=128, ge=32, le=1024)
    noise: Fraction = 0.35


class DataConfig(_Group):
    """A data set: where its pictures come from, what they show, how they are split.

    `patient` is a regular expression on the file name whose first non-empty group (or whole
    match) is the patient; null means that every picture stands alone. `positive` names the
    class that a two-class task looks for. `mirror` says whether a mirrored picture is as good.
    """

    name: str
    source: Literal["folder", "pneumoniamnist", "phantom"]
    root: str | None = None
    url: str | None = None
    md5: str | None = None
    classes: list[str] | None = None
    positive: str | None = None
    channels: Literal[1, 3] = 1
    resize: Literal["squash", "crop"] = "squash"
    patient: str | None = None
    dicom: DicomSpec = DicomSpec()
    mirror: bool = False
    intended_use: str
    phantom: PhantomConfig | None = None
    splits: SplitConfig = SplitConfig()


class RegistryConfig(_Group):
    """The name under which models of this data set are registered."""

    name: str


class ModelConfig(_Group):
    """A network of `models/catalog.py`. `weights`: `packaged` (inside a Python package),
    `timm` (timm's own, downloaded) or null (random).
    """

    architecture: str
    weights: Literal["packaged", "timm"] | None = None
    image_size: int = Field(ge=16, le=1024)
    options: dict[str, str | int | float | bool] = Field(default_factory=dict)


class AugmentConfig(_Group):
    """Random changes of training pictures: degrees, fractions of the side, relative contrast."""

    rotate: float = Field(default=10.0, ge=0, le=180)
    shift: Fraction = 0.06
    zoom: Fraction = 0.1
    brightness: Fraction = 0.15
    contrast: Fraction = 0.2
    gamma: Fraction = 0.2


class RecipeConfig(_Group):
    """How weights are found. `probe`: the backbone is frozen, its embeddings are computed once
    (for `views` augmented views of every picture), only the head is trained.
    """

    kind: Literal["probe", "finetune"]
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    label_smoothing: Fraction = 0.0
    warmup: Fraction = 0.1
    views: int = Field(default=1, ge=1, le=32)
    balance: bool = True
    augment: AugmentConfig | None = None


class TrainerConfig(_Group):
    """The loop. `accelerator` auto takes a GPU where there is one; `patience` counts epochs."""

    max_epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    patience: int | None = Field(default=None, ge=1)
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = "32-true"
    threads: int | None = Field(default=None, ge=1)


class DecisionConfig(_Group):
    """What is chosen on validation data. `refer` is the share of answers left to a human,
    `outliers` the share of validation pictures that may count as out of distribution.
    """

    objective: Literal["balanced_accuracy", "accuracy"] = "balanced_accuracy"
    refer: Fraction = 0.1
    outliers: Annotated[float, Field(gt=0, lt=1)] = 0.01
    neighbours: int = Field(default=5, ge=1)


class EvaluateConfig(_Group):
    """Intervals: bootstrap resamples (of patients) and confidence."""

    resamples: int = Field(default=1000, ge=100)
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95


class GateConfig(_Group):
    """The limits of the staged tests and of the comparison with the champion.

    `floors` maps a metric to the least value on the gate split. `margin` is the loss of the
    score metric against the champion that is still called equal, shown with one-sided
    `confidence`. `min_per_class` is the least number of gate pictures a class needs.
    `promotions_per_day` null means no cap.
    """

    floors: dict[str, float]
    margin: float = Field(gt=0, lt=1)
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    resamples: int = Field(default=2000, ge=200)
    min_per_class: int = Field(default=20, ge=2)
    parity_gap: float = Field(default=1e-4, gt=0)
    promotions_per_day: int | None = Field(default=None, ge=1)
    timeout_s: float = Field(default=1800, gt=0)
    required: list[str] = Field(min_length=1)


class Config(_Group):
    """Everything that decides a run."""

    seed: int = Field(default=0, ge=0, lt=2**31)
    run: RunConfig
    data: DataConfig
    registry: RegistryConfig
    model: ModelConfig
    recipe: RecipeConfig
    trainer: TrainerConfig
    decision: DecisionConfig
    evaluate: EvaluateConfig
    gate: GateConfig

    @model_validator(mode="after")
    def _consistent(self) -> "Config":
        classes, positive, splits = self.data.classes, self.data.positive, self.data.splits
        named = classes is not None and positive is not None
        if named and (len(classes or ()) != 2 or positive not in (classes or ())):
            raise ValueError("data.positive must be one of exactly two data.classes")
        if splits.val + splits.gate + splits.test > 0.6:
            raise ValueError("data.splits leaves less than 40 % for training")
        return self

    def document(self) -> dict[str, Any]:
        """The configuration as plain nested values, as it is stored beside a model."""
        return self.model_dump(mode="json")
