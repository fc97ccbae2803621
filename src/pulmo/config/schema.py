"""The typed configuration of an experiment: `configs/` holds its values, this file the meaning."""

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from pulmo.config.gating import GateConfig as GateConfig
from pulmo.config.sweeping import SweepConfig as SweepConfig
from pulmo.config.tracking import TrackingConfig as TrackingConfig
from pulmo.core.bundle import NetworkSpec
from pulmo.core.dicom_spec import DicomSpec

Fraction = Annotated[float, Field(ge=0, le=1)]


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RunConfig(_Group):
    """Where a run writes. `dir` null means a new folder `root/<time>-<model name>`."""

    root: str = "runs"
    dir: str | None = None


Role = Literal["pool", "train", "val", "gate", "test"]


class SplitConfig(_Group):
    """How pictures are dealt out. `official` maps a split folder (or a word of a table's split
    column) to `pool`, which is dealt out by patient, or to the split it is; without a `test`, the
    pool gives its fraction. `one_numbering` says that a patient's id means the same person in all
    parts of the source; otherwise each part is taken to number its patients anew.
    """

    val: Fraction = 0.1
    gate: Fraction = 0.1
    test: Fraction = 0.1
    official: dict[str, Role] = Field(default_factory=dict)
    one_numbering: bool = False


class ColumnsConfig(_Group):
    """Which columns of `data.table` say what. Without `label` the folder that a picture lies in is
    its class; `labels` translates what stands there. Every column of `slices` (null: every further
    one) is kept for evaluation; `bins` cuts numbers into ranges at the given points.
    """

    path: str = "path"
    label: str | None = "label"
    split: str = "split"
    patient: str = "patient"
    labels: dict[str, str] = Field(default_factory=dict)
    slices: list[str] | None = None
    bins: dict[str, list[float]] = Field(default_factory=dict)


class PhantomConfig(_Group):
    """The built-in phantom: how many pictures, how large, how hard (noise 0 to 1)."""

    images: int = Field(default=1200, ge=40, le=100_000)
    size: int = Field(default=128, ge=32, le=1024)
    noise: Fraction = 0.35


class DataConfig(_Group):
    """A data set: where its pictures come from, what they show, how they are split.

    `source` is a `folder` with one folder for each class, a table (`csv`) that lists pictures
    below `root`, an archive of arrays (`npz`) or the built-in phantom. Where `root` is null, an
    archive is downloaded from `url` or one of its `mirrors` and held against `sha256` or `md5`.
    `patient` is a regular expression on the file name whose first non-empty group (or whole
    match) is the patient; null means that every picture stands alone. `slices` names attributes
    that expressions find in file names in the same way. `positive` names the class that a
    two-class task looks for. `mirror` says whether a mirrored picture is as good. `preprocess` is
    the version of the rule by which files become pixels.
    """

    name: str
    source: Literal["folder", "csv", "npz", "phantom"]
    root: str | None = None
    table: str | None = None
    columns: ColumnsConfig = ColumnsConfig()
    url: str | None = None
    mirrors: list[str] = Field(default_factory=list)
    md5: str | None = Field(default=None, pattern=r"^[0-9a-f]{32}$")
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    size: Literal["28", "64", "128", "224"] | None = None
    sizes: dict[str, list[str]] = Field(default_factory=dict)
    classes: list[str] | None = None
    positive: str | None = None
    channels: Literal[1, 3] = 1
    resize: Literal["squash", "crop"] = "squash"
    preprocess: Literal[1, 2, 3] = 1
    patient: str | None = None
    slices: dict[str, str] = Field(default_factory=dict)
    dicom: DicomSpec | None = None
    mirror: bool = False
    intended_use: str
    phantom: PhantomConfig | None = None
    splits: SplitConfig = SplitConfig()


Check = Literal[
    "unreadable",
    "blank",
    "placeholder",
    "label_conflict",
    "patient_leak",
    "no_training",
    "small_split",
    "duplicates",
    "near_duplicates",
    "excluded",
    "skipped",
    "unknown_patient",
    "drift",
    "counts",
]
Severity = Literal["error", "warning", "ignore"]
_ERRORS: tuple[Check, ...] = (
    "unreadable",
    "blank",
    "placeholder",
    "label_conflict",
    "patient_leak",
    "no_training",
)


class DoctorConfig(_Group):
    """What the split doctor minds. `severity` says what each check is worth; errors forbid training
    unless `allow_errors`, which is then recorded with the model.

    Two pictures are near duplicates where at most `near` of the 64 bits of their perceptual hashes
    differ and the details of their 64-pixel copies correlate by `likeness` or more. Grey levels
    of a `blank` picture spread by less than that; `placeholder` equal pictures are no chance.
    `drift` is the largest distance of distributions (Kolmogorov and Smirnov), and of shares of
    classes and kinds, from the saved reference or another data set that is borne in silence.
    """

    severity: dict[Check, Severity] = Field(default_factory=dict, validate_default=True)
    allow_errors: bool = False
    near: int = Field(default=6, ge=0, le=16)
    likeness: Fraction = 0.75
    blank: float = Field(default=3.0, ge=0, le=128)
    placeholder: int = Field(default=8, ge=2)
    min_per_class: int = Field(default=10, ge=1)
    drift: Fraction = 0.1

    @field_validator("severity", mode="after")
    @classmethod
    def _every_check(cls, given: dict[Check, Severity]) -> dict[Check, Severity]:
        usual: dict[Check, Severity] = {
            check: "error" if check in _ERRORS else "warning" for check in get_args(Check)
        }
        return usual | given


class RegistryConfig(_Group):
    """The name under which models of this data set are registered."""

    name: str


class ModelConfig(_Group):
    """A network of `models/catalog.py`. `weights`: `packaged` (inside a Python package),
    `timm` (timm's own, downloaded) or null (random). `standardise` gives every picture the same
    mean and spread inside the graph; `options` are the network's own.
    """

    architecture: str
    weights: Literal["packaged", "timm"] | None = None
    image_size: int = Field(ge=16, le=1024)
    standardise: bool = False
    options: dict[str, str | int | float | bool] = Field(default_factory=dict)

    @property
    def network(self) -> NetworkSpec:
        """What the network is built from."""
        told = {"standardise": True} if self.standardise else {}
        return NetworkSpec(architecture=self.architecture, options={**self.options, **told})


class AugmentConfig(_Group):
    """Random changes of training pictures: degrees, fractions of the side, relative contrast.

    `stretch` widens or narrows; `sharpness` adds or takes away that share of the fine detail.
    """

    rotate: float = Field(default=10.0, ge=0, le=180)
    shift: Fraction = 0.06
    zoom: Fraction = 0.1
    stretch: Fraction = 0.0
    sharpness: Fraction = 0.0
    brightness: Fraction = 0.15
    contrast: Fraction = 0.2
    gamma: Fraction = 0.2


class RecipeConfig(_Group):
    """How weights are found. `probe`: the backbone is frozen, its embeddings are computed once
    (for `views` augmented views of every picture), only the head is trained. `partial`: only the
    last `thaw` stages are, on feature maps of the frozen lower ones. `head_learning_rate` is that
    of the new linear head on top of weights that know something; null: `learning_rate`. `ema` is
    the decay of a running average of the weights, which is then evaluated and exported; null: none.
    With `frozen_norms` batch normalisation keeps its statistics; null: where it came with weights.
    """

    kind: Literal["probe", "partial", "finetune"]
    learning_rate: float = Field(gt=0)
    head_learning_rate: float | None = Field(default=None, gt=0)
    weight_decay: float = Field(ge=0)
    label_smoothing: Fraction = 0.0
    warmup: Fraction = 0.1
    views: int = Field(default=1, ge=1, le=32)
    thaw: int = Field(default=2, ge=1, le=16)
    balance: bool = True
    augment: AugmentConfig | None = None
    ema: float | None = Field(default=None, gt=0, lt=1)
    frozen_norms: bool | None = None


class TrainerConfig(_Group):
    """The loop. `accelerator` auto takes a GPU where there is one, `precision` auto what the device
    is fast in; `patience` counts epochs. `batch_size` is that of all processes together. A
    checkpoint is taken at the end of every epoch and every `checkpoint_every` steps. `profiler`
    writes where the time went into the run folder.
    """

    max_epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    patience: int | None = Field(default=None, ge=1)
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    precision: Literal["auto", "32-true", "16-mixed", "bf16-mixed"] = "auto"
    threads: int | None = Field(default=None, ge=1)
    checkpoint_every: int | None = Field(default=None, ge=1)
    profiler: Literal["simple", "pytorch"] | None = None


class DecisionConfig(_Group):
    """What is chosen on validation data. `refer` is the share of answers left to a human,
    `outliers` the share of validation pictures that may count as out of distribution.
    """

    objective: Literal["balanced_accuracy", "accuracy"] = "balanced_accuracy"
    refer: Fraction = 0.1
    outliers: Annotated[float, Field(gt=0, lt=1)] = 0.01
    neighbours: int = Field(default=5, ge=1)


class EvaluateConfig(_Group):
    """Intervals: bootstrap resamples (of patients) and confidence. `robustness` is the number of
    pictures that are corrupted and measured again; 0 leaves that out.
    """

    resamples: int = Field(default=1000, ge=100)
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    robustness: int = Field(default=120, ge=0)


class Config(_Group):
    """Everything that decides a run."""

    seed: int = Field(default=0, ge=0, lt=2**31)
    run: RunConfig
    data: DataConfig
    doctor: DoctorConfig = DoctorConfig()
    registry: RegistryConfig
    model: ModelConfig
    recipe: RecipeConfig
    trainer: TrainerConfig
    decision: DecisionConfig
    evaluate: EvaluateConfig
    gate: GateConfig
    sweep: SweepConfig | None = None
    tracking: TrackingConfig = TrackingConfig()

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
        return self.model_dump(mode="json", exclude={"sweep"} if self.sweep is None else None)
