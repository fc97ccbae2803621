"""One self-contained HTML page that says what a model is worth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from PIL import Image

from pulmo.core.bundle import Bundle, Estimate
from pulmo.core.preprocess import Pixels
from pulmo.jobs import page
from pulmo.jobs.page import LABELS, Figure, Raw
from pulmo.jobs.robustness import STRIP, Robustness
from pulmo.jobs.slices import SHOWN, Slice

HEADLINES = ("auroc", "balanced_accuracy", "sensitivity", "specificity", "ece", "accepted")
WARNING = (
    "Not a medical device. The figures hold for pictures like those measured here; other "
    "hospitals, ages or machines can give quite different ones. A human decides."
)
EXTERNAL = (
    "Another data set, from which nothing was learned or chosen. How far these figures fall below "
    "those above is what a new hospital must expect."
)


@dataclass(frozen=True)
class Mistake:
    """A wrong answer: the picture uint8 [C, H, W], its heat map for the answer, what was said."""

    pixels: Pixels
    overlay: Image.Image | None
    path: str
    truth: str
    answer: str
    probability: float
    decision: str


@dataclass(frozen=True)
class Section:
    """What was measured on one split; `plain` are calibration metrics without temperature."""

    split: str
    note: str
    counts: Mapping[str, int]
    metrics: dict[str, Estimate]
    plain: Mapping[str, Estimate]
    slices: Sequence[Slice]
    figures: Sequence[Figure]
    mistakes: Sequence[Mistake]
    wrong: int


@dataclass(frozen=True)
class Corrupted:
    """What corruption does to the model, and the figures that show it."""

    found: Robustness
    figures: Sequence[Figure]


def render(
    bundle: Bundle,
    sections: Sequence[Section],
    confidence: float,
    *,
    corrupted: Corrupted | None = None,
    external: Section | None = None,
) -> str:
    """The page; the last of `sections` gives the headline figures and comes first."""
    *others, last = [
        (f"split-{i}", f"Split {one.split}", _section(one, confidence))
        for i, one in enumerate(sections)
    ]
    parts = [last]
    if corrupted is not None:
        parts.append(("robustness", "Robustness", _robustness(corrupted)))
    if external is not None:
        told = f"<p>{escape(EXTERNAL)}</p>{_section(external, confidence)}"
        parts.append(("external", f"External: {external.split}", told))
    parts += others
    parts.append(("rules", "How it answers", page.pairs(_rules(bundle))))
    parts.append(("origin", "Where it comes from", page.pairs(_lineage(bundle))))
    return page.page(f"{bundle.info.name} · evaluation", _head(bundle, sections[-1]), parts)


def _head(bundle: Bundle, last: Section) -> str:
    info = bundle.info
    data = info.lineage.configuration.get("data", {})
    intended = str(data.get("intended_use") or "Not stated by the people who trained it.")
    pictures = f"{last.counts.get('pictures', 0):,} pictures"
    cards = "".join(page.card(LABELS[n][0], last.metrics[n], LABELS[n][1]) for n in HEADLINES)
    return (
        f"<h1>{escape(info.name)} <code>{escape(info.model_digest[:12])}</code></h1>"
        f'<div class="warning"><p><b>Intended use.</b> {escape(intended)}</p>'
        f"<p>{escape(WARNING)}</p></div>"
        f"<h3>On the split {escape(last.split)}, {pictures}</h3>"
        f'<div class="cards">{cards}</div>'
    )


def _section(section: Section, confidence: float) -> str:
    counts = ", ".join(f"{count:,} {escape(name)}" for name, count in section.counts.items())
    return (
        f"<p>{counts}. {escape(section.note)}</p>"
        f"{page.figures(section.figures)}<h3>Metrics</h3>"
        f"{page.estimates(section.metrics, confidence)}{_calibration(section)}"
        f"{_slices(section.slices)}{_mistakes(section)}"
    )


def _calibration(section: Section) -> str:
    rows = [
        (
            LABELS[name][0],
            page.with_interval(before),
            page.with_interval(section.metrics[name]),
        )
        for name, before in section.plain.items()
    ]
    heads = ("", "without temperature", "as it answers")
    return f"<h3>Calibration</h3>{page.table(heads, rows)}"


def _slices(slices: Sequence[Slice]) -> str:
    if not slices:
        return ""
    shown = [name for name in SHOWN if any(one.metrics[name].value is not None for one in slices)]
    rows: list[tuple[str | Raw, ...]] = [
        (
            f"{one.attribute}: {one.value}",
            ", ".join(f"{count:,} {name}" for name, count in one.counts.items() if count),
            *(page.with_interval(one.metrics[name]) for name in shown),
        )
        for one in slices
    ]
    heads = ("slice", "pictures", *(LABELS[name][0] for name in shown))
    return f"<h3>Slices</h3>{page.table(heads, rows)}"


def _mistakes(section: Section) -> str:
    if not section.mistakes:
        return f"<p>No wrong answer among {section.counts.get('pictures', 0):,} pictures.</p>"
    mapped = any(mistake.overlay is not None for mistake in section.mistakes)
    told = " Right: what spoke for the answer." if mapped else ""
    return (
        f"<h3>Wrong and most sure of it: {len(section.mistakes)} of {section.wrong}</h3>"
        f"<p>From the surest down.{told}</p>{page.thumbnails(map(_mistake, section.mistakes))}"
    )


def _mistake(mistake: Mistake) -> tuple[Sequence[str], str, Raw]:
    said = f"{mistake.answer} {mistake.probability:.3f}"
    sources = [page.jpeg(mistake.pixels)]
    if mistake.overlay is not None:
        sources.append(page.jpeg(mistake.overlay))
    caption = (
        f"<b>{escape(said)}</b>, truth {escape(mistake.truth)}<br>"
        f"{escape(mistake.decision)}<br><code>{escape(mistake.path)}</code>"
    )
    return sources, f"{mistake.truth} answered as {said}", Raw(caption)


def _robustness(corrupted: Corrupted) -> str:
    found = corrupted.found
    strip = [
        ([page.jpeg(pixels)], f"a picture: {name}", Raw(escape(name)))
        for name, pixels in found.strip.items()
    ]
    clean = ", ".join(
        f"{LABELS[name][0]} {page.number(one.value)} ({page.interval(one)})"
        for name, one in found.clean.items()
    )
    return (
        f"<p>{found.pictures} pictures of the split {escape(found.split)}, as many of each class "
        f"as there are, changed in {len(found.cells)} ways. Unchanged: {escape(clean)}. A model "
        "that refers what it cannot read answers less as its ranking falls.</p>"
        f"{page.figures(corrupted.figures)}<h3>The changes at severity {STRIP}</h3>"
        f"{page.thumbnails(strip, 'strip')}"
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
