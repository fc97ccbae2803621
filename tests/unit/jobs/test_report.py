"""The report: one page that needs nothing else and escapes everything."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from pulmo.core.bundle import Bundle, DecisionSpec, Estimate
from pulmo.jobs import report
from pulmo.jobs.page import LABELS, Figure
from pulmo.jobs.report import Corrupted, Mistake, Section
from pulmo.jobs.robustness import Robustness
from pulmo.jobs.slices import SHOWN, Slice

HOSTILE = "<script>alert('x')</script>\"&"


def _section(**changes: object) -> Section:
    plain: dict[str, object] = {
        "split": "test",
        "note": "A note.",
        "counts": {"pictures": 1200, "patients": 900},
        "metrics": {name: Estimate(value=0.5, low=0.4, high=0.6) for name in LABELS},
        "plain": {"ece": Estimate(value=0.25)},
        "slices": [],
        "figures": [Figure("a caption", "a curve", b"png")],
        "mistakes": [],
        "wrong": 0,
    }
    return Section(**{**plain, **changes})  # type: ignore[arg-type]


def _mistake(channels: int = 1, text: str = "SICK") -> Mistake:
    pixels = np.full((channels, 40, 40), 128, dtype=np.uint8)
    overlay = Image.new("RGB", (40, 40)) if channels == 3 else None
    return Mistake(pixels, overlay, f"test/{text}.png", text, text, 0.987, "answered")


class _Checker(HTMLParser):
    """Opens and closes every element in order and collects what is loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loaded: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def _checked(page: str) -> _Checker:
    checker = _Checker()
    checker.feed(page)
    assert checker.open == []
    return checker


def test_the_page_is_whole_and_loads_nothing(toy_bundle: Bundle) -> None:
    sections = [_section(split="val"), _section(mistakes=[_mistake(), _mistake(3)], wrong=7)]
    page = report.render(toy_bundle, sections, 0.95)
    checker = _checked(page)
    pictures = [source for source in checker.loaded if not source.startswith("#")]
    assert len(pictures) == 5
    assert all(source.startswith("data:image/") for source in pictures)
    assert "script" not in checker.seen
    assert not re.search(r"https?://", page)
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport"' in page


def test_the_page_says_what_was_measured(toy_bundle: Bundle) -> None:
    page = report.render(toy_bundle, [_section(mistakes=[_mistake()], wrong=7)], 0.9)
    for text in ("1,200 pictures", "A note.", "90% interval", "0.400 to 0.600", "1 of 7"):
        assert text in page, text
    assert "Not stated by the people who trained it." in page
    assert page.index("Not a medical device") < page.index("AUROC")
    assert "BRIGHT from a probability of 0.5 up" in page
    assert "0.4 ≤ probability &lt; 0.6" in page
    assert "not from a git checkout" in page


def test_the_intended_use_comes_from_the_configuration(toy_bundle: Bundle) -> None:
    configuration = {"data": {"intended_use": f"For {HOSTILE}"}}
    lineage = toy_bundle.info.lineage.model_copy(
        update={"configuration": configuration, "commit": "c0ffee", "clean": False,
                "notes": ("retrained",)}
    )  # fmt: skip
    info = toy_bundle.info.model_copy(update={"lineage": lineage, "name": HOSTILE})
    bundle = toy_bundle.model_copy(update={"info": info})
    section = _section(
        split=HOSTILE,
        note=HOSTILE,
        figures=[Figure(HOSTILE, HOSTILE, b"")],
        mistakes=[_mistake(text=HOSTILE)],
    )
    page = report.render(bundle, [section], 0.95)
    assert "script" not in _checked(page).seen
    assert "<script" not in page
    assert "c0ffee, with uncommitted changes" in page
    assert "retrained" in page


def test_other_rules_are_told_as_well(toy_bundle: Bundle) -> None:
    decision = DecisionSpec(rule="argmax", refer_low=0, refer_high=0.7)
    changes = {"decision": decision, "outliers": None}
    specification = toy_bundle.info.specification.model_copy(update=changes)
    info = toy_bundle.info.model_copy(update={"specification": specification})
    bundle = toy_bundle.model_copy(update={"info": info})
    page = report.render(bundle, [_section()], 0.95)
    assert "the most probable class" in page
    assert "largest probability &lt; 0.7" in page
    assert "no outlier limit" in page
    assert "No wrong answer among 1,200 pictures." in page


@pytest.mark.parametrize(
    ("estimate", "told"),
    [(Estimate(value=None), "undefined"), (Estimate(value=0.5), "no interval")],
)
def test_what_is_undefined_is_said(toy_bundle: Bundle, estimate: Estimate, told: str) -> None:
    page = report.render(toy_bundle, [_section(metrics=dict.fromkeys(LABELS, estimate))], 0.95)
    assert told in page


def test_a_page_with_many_large_pictures_stays_small(toy_bundle: Bundle) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (3, 900, 700), dtype=np.uint8)
    overlay = Image.fromarray(noise.transpose(1, 2, 0))
    mistake = Mistake(noise, overlay, "a.png", "a", "b", 0.9, "answered")
    figure = Figure("f", "f", noise.tobytes()[:60_000])
    sections = [_section(mistakes=[mistake] * 12, figures=[figure] * 5, wrong=12)] * 3
    assert len(report.render(toy_bundle, sections, 0.95)) < 5_000_000


def test_slices_robustness_and_another_data_set_have_their_place(toy_bundle: Bundle) -> None:
    measured = {name: Estimate(value=0.7, low=0.6, high=0.8) for name in SHOWN}
    part = Slice(
        "sex", HOSTILE, {"SICK": 12, "WELL": 0}, 9, {**measured, "auroc": Estimate(value=None)}
    )
    cell = {name: Estimate(value=0.6) for name in ("auroc", "balanced_accuracy", "accepted")}
    picture = np.zeros((1, 8, 8), dtype=np.uint8)
    found = Robustness("test", 40, cell, {"blur": (cell,) * 5}, {"unchanged": picture})
    page = report.render(
        toy_bundle,
        [_section(split="val"), _section(slices=[part])],
        0.95,
        corrupted=Corrupted(found, [Figure("c", "c", b"")]),
        external=_section(split="abroad"),
    )
    assert "script" not in _checked(page).seen
    for text in ("12 SICK", "40 pictures of the split test", "External: abroad", "0.600 to 0.800"):
        assert text in page, text
    assert "0 WELL" not in page
    assert "<th>AUROC</th>" not in page
    order = [
        page.index(f"<h2>{name}") for name in ("Split test", "Robustness", "External", "Split val")
    ]
    assert order == sorted(order)
