"""The page about drift, with its plots and `drift.json` beside it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.util import find_spec
from pathlib import Path

from pulmo.core.bundle import Estimate
from pulmo.core.drift import EMBEDDING, MIX, OUTLYING, REFERRED, SCORE
from pulmo.core.preprocess import Pixels
from pulmo.core.sample import Sample
from pulmo.jobs import drift_plots, page
from pulmo.jobs.drift import Drift, Watch
from pulmo.jobs.page import Figure, Raw

REPORT, DOCUMENT = "drift.html", "drift.json"
BROAD = ("timeline", "values")  # figures that need the width of the page
SURE = 10_000_000  # evidence beyond this says nothing more
MEANINGS = {
    EMBEDDING: "what the network sees in the pictures as a whole",
    SCORE: "how sure the answers are",
    MIX: "how often each class is answered",
    REFERRED: "share of answers left to a human",
    OUTLYING: "share of pictures unlike any of the validation",
    "brightness": "mean grey level",
    "contrast": "spread of grey levels",
    "dark": "share of black pixels",
    "bright": "share of white pixels",
    "sharpness": "mean difference of neighbouring pixels",
}


@dataclass(frozen=True)
class Shown:
    """A picture uint8 [C, H, W] for the page: how far it is from the reference, and its answer."""

    path: str
    distance: float
    answer: str
    pixels: Pixels


def write(
    out: Path, found: Drift, reference: Sample, window: Sample, shown: Sequence[Shown]
) -> None:
    """Write drift.json, the plots (where matplotlib is installed) and, last, drift.html."""
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(found.document(), indent=2, allow_nan=False, default=str)
    (out / DOCUMENT).write_text(text + "\n", encoding="utf-8")
    figures = _figures(found, reference, window) if find_spec("matplotlib") else {}
    for name, figure in figures.items():
        (out / f"drift-{name}.png").write_bytes(figure.png)
    partial = out / f"{REPORT}.part"
    partial.write_text(render(found, figures, shown), encoding="utf-8")
    partial.replace(out / REPORT)


def render(found: Drift, figures: Mapping[str, Figure], shown: Sequence[Shown]) -> str:
    """All that was found as one HTML page that loads nothing."""
    watch = found.watch
    parts = [
        *([("log", "The log", _log(watch))] if watch else []),
        ("features", "The newest window" if watch else "Features", _features(found)),
        *([("figures", "Figures", _drawn(figures))] if figures else []),
        ("accuracy", "Accuracy to expect", _accuracy(found)),
        *([("pictures", "Most unlike the validation", _pictures(shown))] if shown else []),
        *([("failed", "Not read", page.pairs(dict(found.failed)))] if found.failed else []),
    ]
    return page.page(f"{found.model} · drift", _head(found), parts)


def _figures(found: Drift, reference: Sample, window: Sample) -> dict[str, Figure]:
    report, figures = found.look.report, {}
    if found.watch is not None:
        watch = found.watch
        alarm = None if watch.alarm is None else watch.alarm.picture
        reports = [one.report for one in watch.windows]
        figures["timeline"] = Figure(
            "Evidence after each picture; below, how likely each window is by chance (red: unlike "
            "the validation on its own).",
            "A curve of evidence over pictures above bars of p-values",
            drift_plots.timeline(watch.evidence, watch.spacing, alarm, reports),
        )
    figures["findings"] = Figure(
        "How likely each feature would be so different by chance, all of them considered.",
        "Horizontal lines, one a feature, from 1 to its p-value",
        drift_plots.findings(report),
    )
    if drift_plots.has_map(reference, window, report):
        figures["likeness"] = Figure(
            "Every dot a picture: where dots of one colour stand alone, the network sees something "
            "new, or no longer sees something.",
            "Two clouds of dots",
            drift_plots.likeness(reference, window),
        )
    figures["values"] = Figure(
        "Where the two lines part, values became more or fewer.",
        "Cumulative shares of every feature, for validation and now",
        drift_plots.values(reference, window, report),
    )
    return figures


def _head(found: Drift) -> str:
    report, expected = found.look.report, found.look.expected
    title = f"<h1>{escape(found.model)} <code>{escape(found.model_digest[:12])}</code></h1>"
    told = f"{found.source} held against {report.reference:,} validation pictures"
    accuracy = Estimate(value=expected.accuracy, low=expected.low, high=expected.high)
    cards = [
        _card("Verdict", "drift" if found.alarm else "no drift", _grounds(found)),
        page.card("Accuracy to expect", accuracy, "without labels; see below")
        if expected.doubt is None
        else _card("Accuracy to expect", "unknown", "not to be believed, see below"),
        _card("Moved", str(len(found.moved)), ", ".join(found.moved) or "nothing"),
    ]
    said = verdict(found)
    said = f"<p>{escape(said[0].upper() + said[1:])}.</p>"
    if found.alarm:
        said = f'<div class="warning">{said}</div>'
    return f'{title}<p>{escape(told)}.</p><div class="cards">{"".join(cards)}</div>{said}'


def _grounds(found: Drift) -> str:
    if found.watch is None:
        return f"p {found.look.report.p:.4f}, alarm at {found.look.report.bound:g}"
    evidence = _large(float(found.watch.evidence.max()))
    return f"evidence {evidence}, alarm at {found.watch.spacing:,.0f}"


def _large(value: float) -> str:
    return f"{value:,.0f}" if value < SURE else f"over {SURE:,}"


def _drawn(figures: Mapping[str, Figure]) -> str:
    """Square figures side by side, broad ones one by one."""
    square = [one for name, one in figures.items() if name not in BROAD]
    broad = [page.broad(one) for name, one in figures.items() if name in BROAD]
    return page.figures(square) + "".join(broad)


def verdict(found: Drift) -> str:
    """The verdict in one sentence, without the full stop."""
    moved = ", ".join(found.moved)
    if found.watch is None:
        report = found.look.report
        if not found.alarm:
            return f"no drift: chance alone parts {report.p:.0%} of such windows so far"
        return (
            f"drift of {moved}: by chance fewer than one window in {1 / report.bound:,.0f} looks "
            "so unlike the validation"
        )
    if found.watch.alarm is None:
        return f"no drift: the evidence never reached {found.watch.spacing:,.0f}"
    return (
        f"drift of {moved}: enough evidence at picture {found.watch.alarm.picture:,} "
        f"({found.watch.alarm_at:%Y-%m-%d %H:%M} UTC)"
    )


def _card(label: str, value: str, told: str) -> str:
    return (
        f'<div class="card"><span>{escape(label)}</span><strong>{escape(value)}</strong>'
        f"<small>{escape(told)}</small></div>"
    )


def _log(watch: Watch) -> str:
    seldom = f"{watch.spacing:,.0f}"
    ended = _large(float(watch.evidence[-1]))
    told = (
        f"<p>{len(watch.evidence):,} pictures were watched one by one; the evidence ended at "
        f"{ended}, and {seldom} is an alarm. However often one looks, an alarm "
        f"is false once in {seldom} pictures on average. Windows are judged on their own, to show "
        "what moved and when; they raise no alarm.</p>"
    )
    rows = [
        (
            f"{one.begins:%Y-%m-%d %H:%M}",
            str(one.report.pictures),
            f"{one.report.p:.4f}",
            ", ".join(one.report.drifted) or "–",
            "unknown" if one.expected.doubt else page.number(one.expected.accuracy),
        )
        for one in watch.windows[-20:]
    ]
    heads = ("window begins (UTC)", "pictures", "p", "moved", "accuracy to expect")
    return told + page.table(heads, rows)


def _features(found: Drift) -> str:
    report = found.look.report
    rows = [
        (
            one.name,
            _mean(one.usual),
            _mean(one.now),
            f"{one.distance:.4f}",
            f"{one.p:.4f}",
            Raw("<b>moved</b>") if one.drifted else "",
            MEANINGS.get(one.name, ""),
        )
        for one in report.findings
    ]
    heads = ("feature", "validation", "now", "apart", "p", "", "what it is")
    told = (
        f"<p>p is how often chance alone parts {report.pictures:,} pictures so far from "
        f"{report.reference:,}, with all features considered: no more than {report.bound:.0%} of "
        "windows like the validation raise an alarm.</p>"
    )
    unknown = (
        f"<p>Not looked at, for one side does not know them: {escape(', '.join(report.unknown))}. "
        "A server keeps them with <code>PULMO_LOG_EMBEDDINGS=1</code>.</p>"
        if report.unknown
        else ""
    )
    return told + unknown + page.table(heads, rows)


def _mean(value: float | None) -> str:
    return "–" if value is None else page.number(value)


def _accuracy(found: Drift) -> str:
    expected, doubt = found.look.expected, ""
    if expected.doubt is not None:
        doubt = f'<div class="warning"><p>Not to be believed: {escape(expected.doubt)}.</p></div>'
    one = Estimate(value=expected.accuracy, low=expected.low, high=expected.high)
    told = {
        "on validation pictures": page.number(expected.reference),
        "to expect now": f"{page.number(one.value)} ({page.interval(one)})",
        "mix of classes it holds for": ", ".join(
            f"{name} {page.number(share)}"
            for name, share in zip(found.classes, expected.mix, strict=True)
        ),
    }
    return (
        f"{doubt}{page.pairs(told)}<p>No truth was told: this is what the probabilities promise "
        "where only the mix of classes changed. It must not be read as a measurement.</p>"
    )


def _pictures(shown: Sequence[Shown]) -> str:
    pictures = [
        (
            [page.jpeg(one.pixels)],
            f"a picture answered {one.answer}",
            Raw(
                f"<b>{escape(one.answer)}</b><br>distance {one.distance:.3f}<br>"
                f"<code>{escape(Path(one.path).name)}</code>"
            ),
        )
        for one in shown
    ]
    return page.thumbnails(pictures, "small")
