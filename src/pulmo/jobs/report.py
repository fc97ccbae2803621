"""One self-contained HTML page that says what a model is worth: no network, no script."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from string import Template

from PIL import Image

from pulmo.core.bundle import Bundle, Estimate
from pulmo.core.preprocess import Pixels

LABELS = {
    "auroc": ("AUROC", "how well scores rank the classes; 0.5 is chance"),
    "auprc": ("AUPRC", "average precision over all thresholds"),
    "accuracy": ("Accuracy", "share of right answers"),
    "balanced_accuracy": ("Balanced accuracy", "mean share of right answers over the classes"),
    "sensitivity": ("Sensitivity", "share of positives that are found"),
    "specificity": ("Specificity", "share of negatives that are left alone"),
    "f1": ("F1", "harmonic mean of precision and recall"),
    "ece": ("ECE", "gap between probability and frequency, 15 bins of equal mass; 0 is perfect"),
    "brier": ("Brier score", "squared error of the probabilities; 0 is perfect"),
    "log_loss": ("Log loss", "surprise in nats; 0 is perfect"),
    "accepted": ("Answered", "share of pictures that are not referred to a human"),
    "accuracy_accepted": ("Accuracy, answered", "share of right answers among those"),
}
HEADLINES = ("auroc", "balanced_accuracy", "sensitivity", "specificity", "ece", "accepted")
WARNING = (
    "Not a medical device. The figures hold for pictures like those measured here; other "
    "hospitals, ages or machines can give quite different ones. A human decides."
)
THUMBNAIL = 160


@dataclass(frozen=True)
class Figure:
    """A PNG, its caption, and what it shows for those who cannot see it."""

    caption: str
    alternative: str
    png: bytes


@dataclass(frozen=True)
class Mistake:
    """A wrong answer: the picture uint8 [C, H, W] and what was said of it."""

    pixels: Pixels
    path: str
    truth: str
    answer: str
    probability: float
    decision: str


@dataclass(frozen=True)
class Section:
    """What was measured on one split."""

    split: str
    note: str
    counts: Mapping[str, int]
    metrics: Mapping[str, Estimate]
    figures: Sequence[Figure]
    mistakes: Sequence[Mistake]
    wrong: int


def render(bundle: Bundle, sections: Sequence[Section], confidence: float) -> str:
    """The page; the last section gives the headline figures."""
    info, last = bundle.info, sections[-1]
    data = info.lineage.configuration.get("data", {})
    intended = data.get("intended_use") or "Not stated by the people who trained it."
    return _PAGE.substitute(
        name=escape(info.name),
        digest=escape(info.model_digest[:12]),
        intended=escape(str(intended)),
        warning=escape(WARNING),
        headline=escape(f"On the split {last.split}"),
        cards="".join(_card(name, last.metrics[name]) for name in HEADLINES),
        sections="".join(_section(section, confidence) for section in sections),
        rules=_pairs(_rules(bundle)),
        lineage=_pairs(_lineage(bundle)),
        style=_STYLE,
    )


def _card(name: str, estimate: Estimate) -> str:
    label, meaning = LABELS[name]
    return (
        f'<div class="card" title="{escape(meaning)}"><span>{escape(label)}</span>'
        f"<strong>{_number(estimate.value)}</strong><small>{_interval(estimate)}</small></div>"
    )


def _section(section: Section, confidence: float) -> str:
    counts = ", ".join(f"{count:,} {escape(name)}" for name, count in section.counts.items())
    figures = "".join(_figure(figure) for figure in section.figures)
    rows = "".join(
        f"<tr><th scope=row>{escape(LABELS[name][0])}</th><td>{_number(one.value)}</td>"
        f"<td>{_interval(one)}</td><td>{escape(LABELS[name][1])}</td></tr>"
        for name, one in section.metrics.items()
    )
    return (
        f"<section><h2>Split {escape(section.split)}</h2>"
        f"<p>{counts}. {escape(section.note)}</p>"
        '<div class="wide"><table class="metrics"><thead><tr><th>metric</th><th>value</th>'
        f"<th>{confidence:.0%} interval</th><th>what it says</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
        f'<div class="figures">{figures}</div>{_mistakes(section)}</section>'
    )


def _mistakes(section: Section) -> str:
    if not section.mistakes:
        return f"<p>No wrong answer among {section.counts.get('pictures', 0):,} pictures.</p>"
    shown = "".join(_mistake(mistake) for mistake in section.mistakes)
    return (
        f"<h3>Wrong and most sure of it: {len(section.mistakes)} of {section.wrong}</h3>"
        f'<div class="mistakes">{shown}</div>'
    )


def _mistake(mistake: Mistake) -> str:
    said = f"{mistake.answer} {mistake.probability:.3f}"
    return (
        f'<figure><img loading="lazy" alt="{escape(mistake.truth)} answered as {escape(said)}" '
        f'src="{_jpeg(mistake.pixels)}"><figcaption><b>{escape(said)}</b><br>'
        f"truth {escape(mistake.truth)}<br>{escape(mistake.decision)}<br>"
        f"<code>{escape(mistake.path)}</code></figcaption></figure>"
    )


def _figure(figure: Figure) -> str:
    source = f"data:image/png;base64,{base64.b64encode(figure.png).decode('ascii')}"
    return (
        f'<figure class="plot"><img alt="{escape(figure.alternative)}" src="{source}">'
        f"<figcaption>{escape(figure.caption)}</figcaption></figure>"
    )


def _rules(bundle: Bundle) -> dict[str, str]:
    spec = bundle.info.specification
    decision, outliers = spec.decision, spec.outliers
    if decision.rule == "threshold":
        answer = f"{decision.positive} from a probability of {decision.threshold:g} up"
        refer = f"{decision.refer_low:g} ≤ probability < {decision.refer_high:g}"
    else:
        answer = "the most probable class"
        refer = f"largest probability < {decision.refer_high:g}"
    return {
        "answer": answer,
        "left to a human": refer,
        "no answer": "pictures unlike the validation pictures, by embedding distance beyond "
        f"{outliers.limit:g}"
        if outliers
        else "never: the model has no outlier limit",
        "temperature": f"{spec.temperature:g}",
    }


def _lineage(bundle: Bundle) -> dict[str, str]:
    info, origin = bundle.info, bundle.info.lineage
    spec = info.specification
    tree = {True: "clean", False: "with uncommitted changes", None: "state unknown"}[origin.clean]
    return {
        "model digest": info.model_digest,
        "bundle digest": bundle.digest,
        "network": spec.network.architecture,
        "classes": ", ".join(spec.classes),
        "input": f"{spec.input.channels} × {spec.input.height} × {spec.input.width} pixels, "
        f"{spec.input.resize}",
        "data": f"{origin.data_name}, {origin.data_digest}",
        "commit": f"{origin.commit}, {tree}" if origin.commit else "not from a git checkout",
        "seed": str(origin.seed),
        "lock file": origin.lock_digest or "none",
        "trained": f"{origin.created_at} on {origin.machine}",
        **{f"note {i}": note for i, note in enumerate(origin.notes, start=1)},
    }


def _pairs(pairs: Mapping[str, str]) -> str:
    rows = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in pairs.items()
    )
    return f"<dl>{rows}</dl>"


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def _interval(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return "no interval"
    return f"{estimate.low:.3f} to {estimate.high:.3f}"


def _jpeg(pixels: Pixels) -> str:
    plane = pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)
    image = Image.fromarray(plane)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


_STYLE = """
:root { color-scheme: light dark; --ink: #1f2937; --soft: #4b5563; --line: #e5e7eb;
  --page: #f9fafb; --card: #ffffff; --accent: #0072b2; --warn: #fff7e6; --edge: #e69f00; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e5e7eb; --soft: #9ca3af; --line: #374151; --page: #111827; --card: #1f2937;
    --accent: #56b4e9; --warn: #33290f; }
  .plot img { filter: invert(0.88) hue-rotate(180deg); } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); line-height: 1.5;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 24px 16px 64px; }
h1 { margin: 0; font-size: 1.7rem; } h1 code { font-size: 1rem; color: var(--soft); }
h2 { margin: 48px 0 8px; font-size: 1.3rem; border-bottom: 1px solid var(--line); }
h3 { margin: 32px 0 8px; font-size: 1.05rem; }
p { max-width: 75ch; }
.warning { background: var(--warn); border-left: 4px solid var(--edge); padding: 10px 14px;
  border-radius: 4px; margin: 16px 0; }
.warning p { margin: 4px 0; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: 12px 14px; display: flex; flex-direction: column; }
.card span, .card small { color: var(--soft); font-size: 0.85rem; }
.card strong { font-size: 1.7rem; color: var(--accent); font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 6px 12px 6px 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
thead th { color: var(--soft); font-weight: 500; font-size: 0.85rem; }
tbody th { font-weight: 600; } td:nth-child(3) { white-space: nowrap; }
td:last-child { color: var(--soft); font-size: 0.9rem; }
.figures { display: grid; gap: 16px; margin-top: 24px;
  grid-template-columns: repeat(auto-fill, minmax(min(320px, 100%), 1fr)); }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: 10px; overflow: hidden; }
.plot img { width: 100%; height: auto; display: block; }
figcaption { color: var(--soft); font-size: 0.85rem; margin-top: 6px; overflow-wrap: anywhere; }
.mistakes { display: grid; gap: 12px;
  grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); }
.mistakes img { width: 100%; height: auto; border-radius: 4px; }
figcaption b { color: var(--ink); }
dl { display: grid; gap: 4px 16px; margin: 0;
  grid-template-columns: minmax(110px, max-content) 1fr; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 560px) {
  table.metrics th:nth-child(4), table.metrics td:nth-child(4) { display: none; } }
@media print { body { background: white; } section { break-before: page; } }
"""

_PAGE = Template("""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>$name · evaluation</title>
<style>$style</style>
</head>
<body>
<main>
<h1>$name <code>$digest</code></h1>
<div class="warning"><p><b>Intended use.</b> $intended</p><p>$warning</p></div>
<h3>$headline</h3>
<div class="cards">$cards</div>
$sections
<section><h2>How it answers</h2>$rules</section>
<section><h2>Where it comes from</h2>$lineage</section>
</main>
</body>
</html>
""")
