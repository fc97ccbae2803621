"""The model card says what the bundle holds, in both kinds of decision, whatever is missing."""

import pytest

from pulmo.core.bundle import Bundle, BundleInfo, DecisionSpec, Estimate, Lineage
from pulmo.core.preprocess import InputSpec
from pulmo.jobs.card import model_card


def changed(
    info: BundleInfo, origin: dict[str, object] | None = None, **spec: object
) -> BundleInfo:
    return info.model_copy(
        update={
            "lineage": Lineage.model_validate({**info.lineage.model_dump(), **(origin or {})}),
            "specification": info.specification.model_copy(update=spec),
        }
    )


def cell(card: str, name: str) -> str:
    return next(line for line in card.splitlines() if line.startswith(f"| {name} |")).split(" | ")[
        1
    ]


def test_the_card_tells_what_the_bundle_is(toy_bundle: Bundle) -> None:
    card = model_card(toy_bundle.info, "For tests alone.")
    assert card.startswith("---\npipeline_tag: image-classification\n")
    assert "\n# toy\n\nFor tests alone.\n" in card
    assert cell(card, "classes") == "DARK, BRIGHT |"
    assert cell(card, "input") == "16×16 pixels, grey, stretched to fit |"
    assert cell(card, "answer") == "BRIGHT from a probability of 0.500 up |"
    assert f"`{toy_bundle.info.model_digest}`" in card
    assert "Probabilities of BRIGHT from 0.400 to 0.600 are referred to a human." in card


def test_the_largest_probability_is_told_as_such(toy_bundle: Bundle) -> None:
    card = model_card(
        changed(
            toy_bundle.info,
            decision=DecisionSpec(rule="argmax", refer_low=0, refer_high=0.7),
            input=InputSpec(height=8, width=16, channels=3, resize="crop"),
        ),
        "",
    )
    assert cell(card, "answer") == "the most probable class |"
    assert cell(card, "input") == "8×16 pixels, colour, centre crop |"
    assert "Answers less probable than 0.700 are referred to a human." in card


@pytest.mark.parametrize(
    ("commit", "clean", "told"),
    [
        ("c0ffee" * 6, True, "`c0ffeec0ffee`, clean tree |"),
        ("c0ffee" * 6, False, "`c0ffeec0ffee`, uncommitted changes |"),
        ("c0ffee" * 6, None, "`c0ffeec0ffee`, state unknown |"),
        (None, None, "not from a git checkout |"),
    ],
)
def test_the_code_is_named_with_its_state(
    toy_bundle: Bundle, commit: str | None, clean: bool | None, told: str
) -> None:
    origin: dict[str, object] = {"commit": commit, "clean": clean}
    assert cell(model_card(changed(toy_bundle.info, origin), ""), "code") == told


def test_every_metric_has_a_row_and_an_undefined_one_a_dash(toy_bundle: Bundle) -> None:
    info = toy_bundle.info.model_copy(
        update={
            "metrics": {
                "val": {"auroc": Estimate(value=0.9, low=0.8512, high=1.0)},
                "test": {"balanced_accuracy": Estimate(value=None)},
            }
        }
    )
    rows = model_card(info, "").splitlines()
    assert "| val | auroc | 0.900 | 0.851 to 1.000 |" in rows
    assert "| test | balanced accuracy | – | – to – |" in rows
