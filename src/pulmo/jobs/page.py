"""The frame of Pulmo's HTML pages, and the parts they are made of: no network, no script."""

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from string import Template

from PIL import Image

from pulmo.core.bundle import Estimate
from pulmo.core.preprocess import Pixels

THUMBNAIL = 160
PLAIN, SIGNED = ".3f", "+.3f"
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


@dataclass(frozen=True)
class Figure:
    """A PNG, its caption, and what it shows for those who cannot see it."""

    caption: str
    alternative: str
    png: bytes


@dataclass(frozen=True)
class Raw:
    """HTML that is safe already; everything else is escaped."""

    html: str


def page(title: str, head: str, parts: Iterable[tuple[str, str, str]]) -> str:
    """A whole page: `head` and sections (anchor, title, inner HTML), with contents between."""
    sections = list(parts)
    contents = "".join(f'<a href="#{name}">{escape(told)}</a>' for name, told, _ in sections)
    body = "".join(
        f'<section id="{name}"><h2>{escape(told)}</h2>{inner}</section>'
        for name, told, inner in sections
    )
    return _PAGE.substitute(
        title=escape(title), head=head, contents=contents, body=body, style=_STYLE
    )


def table(heads: Sequence[str], rows: Iterable[Sequence[str | Raw]], kind: str = "plain") -> str:
    """A table whose first column names the row; it scrolls by itself where it is too wide."""
    lines = []
    for first, *rest in rows:
        cells = "".join(f"<td>{_safe(cell)}</td>" for cell in rest)
        lines.append(f"<tr><th scope=row>{_safe(first)}</th>{cells}</tr>")
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    return (
        f'<div class="wide"><table class="{kind}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def estimates(found: dict[str, Estimate], confidence: float) -> str:
    """Named metrics as a table: value, interval and what it means."""
    heads = ("metric", "value", f"{confidence:.0%} interval", "what it says")
    rows = [
        (LABELS[name][0], number(one.value), interval(one), LABELS[name][1])
        for name, one in found.items()
    ]
    return table(heads, rows, "metrics")


def card(label: str, one: Estimate, meaning: str, style: str = PLAIN) -> str:
    """A headline figure, its numbers as `style` has them."""
    return (
        f'<div class="card" title="{escape(meaning)}"><span>{escape(label)}</span>'
        f"<strong>{number(one.value, style)}</strong><small>{interval(one, style)}</small></div>"
    )


def with_interval(one: Estimate, style: str = PLAIN) -> Raw:
    """A value and, small, its interval; a dash where there is none."""
    if one.value is None:
        return Raw("–")
    small = f" <small>{interval(one, style)}</small>" if one.low is not None else ""
    return Raw(f"{number(one.value, style)}{small}")


def number(value: float | None, style: str = PLAIN) -> str:
    """Three decimals, or the word `undefined`."""
    return "undefined" if value is None else format(value, style).replace("-", "−")


def interval(one: Estimate, style: str = PLAIN) -> str:
    """The bounds in words."""
    if one.low is None or one.high is None:
        return "no interval"
    return f"{number(one.low, style)} to {number(one.high, style)}"


def figures(drawn: Iterable[Figure]) -> str:
    """Plots in a grid."""
    return f'<div class="figures">{"".join(map(_figure, drawn))}</div>'


def broad(drawn: Figure) -> str:
    """A plot that needs the width of the page."""
    return f'<div class="figures broad">{_figure(drawn)}</div>'


def thumbnails(pictures: Iterable[tuple[Sequence[str], str, Raw]], kind: str = "pictures") -> str:
    """Small pictures in a grid: data URIs side by side, what they show, and a caption."""
    shown = []
    for sources, alternative, caption in pictures:
        images = "".join(
            f'<img loading="lazy" alt="{escape(alternative)}" src="{source}">' for source in sources
        )
        shown.append(
            f'<figure><div class="side">{images}</div><figcaption>{caption.html}</figcaption>'
            "</figure>"
        )
    return f'<div class="{kind}">{"".join(shown)}</div>'


def pairs(named: dict[str, str]) -> str:
    """Names and values as a list of definitions."""
    rows = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in named.items()
    )
    return f"<dl>{rows}</dl>"


def jpeg(picture: Pixels | Image.Image, side: int = THUMBNAIL) -> str:
    """A picture (uint8 [C, H, W] or Pillow's) of at most `side` pixels as a data URI."""
    image = picture if isinstance(picture, Image.Image) else _to_image(picture)
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _to_image(pixels: Pixels) -> Image.Image:
    return Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))


def _figure(figure: Figure) -> str:
    source = f"data:image/png;base64,{base64.b64encode(figure.png).decode('ascii')}"
    return (
        f'<figure class="plot"><img alt="{escape(figure.alternative)}" src="{source}">'
        f"<figcaption>{escape(figure.caption)}</figcaption></figure>"
    )


def _safe(cell: str | Raw) -> str:
    return cell.html if isinstance(cell, Raw) else escape(cell)


_STYLE = """
:root { color-scheme: light dark; --ink: #1f2937; --soft: #4b5563; --line: #e5e7eb;
  --page: #f9fafb; --card: #ffffff; --accent: #0072b2; --warn: #fff7e6; --edge: #e69f00; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e5e7eb; --soft: #9ca3af; --line: #374151; --page: #111827; --card: #1f2937;
    --accent: #56b4e9; --warn: #33290f; }
  .plot img { filter: invert(0.88) hue-rotate(180deg); } }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 28px 16px 64px; }
h1 { margin: 0; font-size: 1.8rem; line-height: 1.25; }
h1 code { font-size: 1rem; color: var(--soft); font-weight: 500; }
h2 { margin: 52px 0 8px; padding-bottom: 4px; font-size: 1.35rem;
  border-bottom: 1px solid var(--line); }
h3 { margin: 28px 0 8px; font-size: 1.05rem; }
p { max-width: 90ch; }
.warning { background: var(--warn); border-left: 4px solid var(--edge); padding: 10px 14px;
  border-radius: 4px; margin: 16px 0; }
.warning p { margin: 4px 0; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: 12px 14px; display: flex; flex-direction: column; }
.card span, .card small { color: var(--soft); font-size: 0.85rem; }
.card strong { font-size: 1.7rem; color: var(--accent); font-variant-numeric: tabular-nums; }
nav { display: flex; flex-wrap: wrap; gap: 6px 8px; margin: 20px 0 -16px; }
nav a { color: var(--accent); text-decoration: none; border: 1px solid var(--line);
  border-radius: 999px; padding: 2px 12px; font-size: 0.9rem; background: var(--card); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 6px 14px 6px 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
thead th { color: var(--soft); font-weight: 500; font-size: 0.85rem; white-space: nowrap; }
tbody th { font-weight: 600; } td small { color: var(--soft); white-space: nowrap; }
table.metrics td:nth-child(3) { white-space: nowrap; }
table.metrics td:last-child { color: var(--soft); font-size: 0.9rem; }
table.plain td, table.plain th { white-space: nowrap; } table.plain small { display: block; }
.figures { display: grid; gap: 16px; margin-top: 16px;
  grid-template-columns: repeat(auto-fill, minmax(min(320px, 100%), 1fr)); }
.figures.broad { grid-template-columns: minmax(0, 860px); }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: 10px; overflow: hidden; }
.plot img { width: 100%; height: auto; display: block; }
figcaption { color: var(--soft); font-size: 0.85rem; margin-top: 6px; overflow-wrap: anywhere; }
figcaption b { color: var(--ink); }
.pictures, .strip, .small { display: grid; gap: 12px; }
.small { grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); }
.pictures { grid-template-columns: repeat(auto-fill, minmax(min(250px, 100%), 1fr)); }
.strip { grid-template-columns: repeat(auto-fill, minmax(108px, 1fr)); margin-top: 16px; }
.side { display: flex; gap: 6px; } .side img { flex: 1; min-width: 0; height: auto;
  border-radius: 4px; }
dl { display: grid; gap: 4px 16px; margin: 0;
  grid-template-columns: minmax(110px, max-content) 1fr; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 560px) {
  table.metrics th:nth-child(4), table.metrics td:nth-child(4) { display: none; }
  h1 { font-size: 1.4rem; } .card { padding: 8px 12px; } .card strong { font-size: 1.4rem; }
  .cards { grid-template-columns: 1fr 1fr; } }
@media print { body { background: white; } nav { display: none; }
  figure, tr { break-inside: avoid; } }
"""

_PAGE = Template("""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>$title</title>
<style>$style</style>
</head>
<body>
<main>
$head
<nav>$contents</nav>
$body
</main>
</body>
</html>
""")
