"""The space of a search is typed, and what makes no sense in it is refused."""

from typing import Any

import pytest
from pydantic import ValidationError

from pulmo.config.compose import compose, compose_for_sweep
from pulmo.config.sweeping import Choices, Range, SweepConfig
from pulmo.errors import ConfigError


@pytest.mark.parametrize(
    ("part", "fault"),
    [
        ({"low": 1, "high": 1}, "low must be less than high"),
        ({"low": 0, "high": 1, "log": True}, "a logarithmic scale begins above 0"),
        ({"low": 0.5, "high": 2, "whole": True}, "whole numbers"),
        ({"choices": ["alone"]}, "at least 2"),
        ({"lowest": 1}, "Extra inputs"),
    ],
)
def test_a_part_of_the_space_that_makes_no_sense_is_refused(
    part: dict[str, Any], fault: str
) -> None:
    with pytest.raises(ValidationError, match=fault):
        SweepConfig.model_validate({"space": {"seed": part}})


def test_the_space_follows_the_recipe_unless_it_is_named() -> None:
    probe = compose_for_sweep(["recipe=probe", "sweep.trials=3"]).sweep
    assert probe is not None
    assert probe.trials == 3
    assert probe.space["recipe.learning_rate"] == Range(low=1e-3, high=1e-1, log=True)
    assert isinstance(probe.space["trainer.batch_size"], Choices)
    finetune = compose_for_sweep(["recipe=finetune"]).sweep
    assert finetune is not None
    assert "recipe.augment.rotate" in finetune.space
    partial = compose_for_sweep(["recipe=partial"]).sweep
    assert partial is not None
    assert not {key for key in partial.space if "augment" in key or key == "recipe.thaw"}
    named = compose_for_sweep(["sweep=finetune", "recipe=probe"]).sweep
    assert named is not None
    assert named.space == finetune.space


def test_a_training_knows_nothing_of_searches() -> None:
    plain = compose([])
    assert plain.sweep is None
    assert "sweep" not in plain.document()


def test_a_misspelt_key_of_a_search_is_told() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'sweep\.trials'"):
        compose_for_sweep(["sweep.trails=3"])


def test_a_profiler_is_one_word() -> None:
    assert compose(["profiler=pytorch"]).trainer.profiler == "pytorch"
    assert compose(["profiler=simple", "recipe=finetune"]).trainer.profiler == "simple"
    assert compose(["profiler=null"]).trainer.profiler is None
