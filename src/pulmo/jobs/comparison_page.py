"""The page that shows two models side by side."""

from html import escape

import numpy as np

from pulmo.core.bundle import Estimate
from pulmo.jobs import page
from pulmo.jobs.compare import Comparison
from pulmo.jobs.page import LABELS, Raw

HEADLINES = ("auroc", "balanced_accuracy", "sensitivity", "specificity", "ece", "accepted")
SHOWN = 24


def render(found: Comparison) -> str:
    """The comparison as one HTML page that loads nothing."""
    parts = [
        ("metrics", "Metrics", _metrics(found)),
        ("tests", "Tests", page.pairs(_tests(found))),
        ("apart", "Where they disagree", _disagreements(found)),
    ]
    return page.page(f"{found.names[0]} and {found.names[1]} · comparison", _head(found), parts)


def _head(found: Comparison) -> str:
    counts = found.parts[0].counts
    lines = "".join(
        f"<h1>{letter}: {escape(name)} <code>{escape(bundle.info.model_digest[:12])}</code></h1>"
        for letter, name, bundle in zip("AB", found.names, found.bundles, strict=True)
    )
    cards = "".join(
        page.card(LABELS[name][0], found.differences[name], LABELS[name][1], page.SIGNED)
        for name in HEADLINES
    )
    return (
        f"{lines}<p>{counts['pictures']:,} pictures of {counts['patients']:,} patients, the split "
        f"{escape(found.parts[0].split)} of {escape(found.dataset.manifest.name)}; neither model "
        f'has seen any of them.</p><h3>A minus B</h3><div class="cards">{cards}</div>'
    )


def _metrics(found: Comparison) -> str:
    first, second = (part.metrics for part in found.parts)
    rows = [
        (
            LABELS[name][0],
            page.with_interval(first[name]),
            page.with_interval(second[name]),
            page.with_interval(one, page.SIGNED),
            "yes" if _clear(one) else "",
        )
        for name, one in found.differences.items()
    ]
    heads = ("metric", "A", "B", "A − B", "clear of 0")
    told = (
        f"<p>Intervals hold {found.confidence:.0%}; those of the differences are paired: every "
        "resample of patients is the same for both models.</p>"
    )
    return told + page.table(heads, rows)


def _clear(one: Estimate) -> bool:
    return one.low is not None and one.high is not None and (one.low > 0 or one.high < 0)


def _tests(found: Comparison) -> dict[str, str]:
    told = {
        "only A right": f"{found.only_a:,} pictures",
        "only B right": f"{found.only_b:,} pictures",
        "McNemar": f"p = {found.p:.3g}, exact, two-sided (each picture counted on its own)",
    }
    if found.delong is None:
        return {**told, "DeLong": "AUROC cannot be compared: a class has too few patients"}
    return {
        **told,
        "DeLong": f"AUROC differs by {page.number(found.delong.value, page.SIGNED)} "
        f"({page.interval(found.delong, page.SIGNED)}), clustered by patient",
    }


def _disagreements(found: Comparison) -> str:
    if not len(found.apart):
        return "<p>Nowhere: they give every picture the same label.</p>"
    first, second = found.parts
    pictures = []
    for i in found.apart[:SHOWN]:
        said = [
            f"{letter} {escape(found.classes[part.decided[i]])} "
            f"{float(part.probabilities[i, part.decided[i]]):.3f}"
            f"{', referred' if part.answers[i].decision == 'refer' else ''}"
            for letter, part in zip("AB", (first, second), strict=True)
        ]
        truth = first.rows[i].label
        right = [
            letter
            for letter, part in zip("AB", (first, second), strict=True)
            if part.decided[i] == part.labels[i]
        ]
        caption = (
            f"<b>{escape(truth)}</b>: {' and '.join(right) or 'neither'} right<br>"
            f"{'<br>'.join(said)}<br><code>{escape(first.rows[i].path)}</code>"
        )
        source = page.jpeg(np.asarray(found.pixels[first.places[i]]))
        pictures.append(([source], f"a picture of {truth}", Raw(caption)))
    return (
        f"<p>{len(found.apart):,} pictures get another label"
        f"{f', of which {SHOWN} are shown' if len(found.apart) > SHOWN else ''}; "
        "the widest gap of probabilities first.</p>" + page.thumbnails(pictures, "small")
    )
