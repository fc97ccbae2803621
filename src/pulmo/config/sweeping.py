"""What a sweep searches and how it judges, typed: the group `sweep` of the configuration."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Range(_Part):
    """Numbers from `low` to `high`: on a logarithmic scale with `log`, only `whole` ones if so."""

    low: float
    high: float
    log: bool = False
    whole: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> "Range":
        if not self.low < self.high:
            raise ValueError("low must be less than high")
        if self.log and self.low <= 0:
            raise ValueError("a logarithmic scale begins above 0")
        if self.whole and not (self.low.is_integer() and self.high.is_integer()):
            raise ValueError("a range of whole numbers begins and ends with one")
        return self


class Choices(_Part):
    """One of some values."""

    choices: list[str | int | float | bool] = Field(min_length=2)


class SweepConfig(_Part):
    """A search for the settings with the best `metric` on validation data.

    `space` maps keys of the configuration to what they may be. `name` (null: the model's name and
    the recipe) is the folder below `run.root`/sweeps, and the study in the database. The first
    `startup` of the `trials` are drawn at random. With `prune` a later one ends early once it is
    worse than the median of those before it at the same epoch, though not in its first `warmup`.
    """

    name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][\w.-]*$")
    trials: int = Field(default=30, ge=1)
    metric: Literal["val_auroc", "val_loss"] = "val_auroc"
    startup: int = Field(default=8, ge=1)
    prune: bool = True
    warmup: int = Field(default=1, ge=0)
    space: dict[str, Range | Choices] = Field(min_length=1)
