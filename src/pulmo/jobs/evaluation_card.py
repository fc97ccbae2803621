"""The model card that an evaluation fills: test, slices, robustness and external validation."""

from collections.abc import Iterable, Sequence

from pulmo.core.bundle import Bundle, Estimate
from pulmo.core.corruptions import SEVERITIES
from pulmo.jobs.card import model_card
from pulmo.jobs.measurement import Measured
from pulmo.jobs.page import LABELS
from pulmo.jobs.robustness import Robustness
from pulmo.jobs.slices import SHOWN

_UNSTATED = "Not stated by the people who trained it."


def evaluation_card(
    bundle: Bundle,
    parts: Sequence[Measured],
    robust: Robustness | None,
    external: Measured | None,
    confidence: float,
) -> str:
    """The card of `jobs.card` with what was measured since, as Markdown; no figure is typed in."""
    data = bundle.info.lineage.configuration.get("data", {})
    base = model_card(bundle.info, str(data.get("intended_use") or _UNSTATED))
    told = [base.rstrip(), *(_part(f"Evaluation on {p.split}", p, confidence) for p in parts)]
    if robust is not None:
        told.append(_robustness(robust))
    if external is not None:
        title = f"External validation: {external.split}"
        told.append(_part(title, external, confidence))
    return "\n\n".join(told) + "\n"


def _part(title: str, part: Measured, confidence: float) -> str:
    counts = ", ".join(f"{count:,} {name}" for name, count in part.counts.items())
    seen = f"{part.seen} of them" if part.seen else "none of them"
    lines = [
        f"## {title}",
        f"{counts}. The model has seen {seen}.",
        _table(
            ("metric", "value", f"{confidence:.0%} interval"),
            ((LABELS[n][0], _value(one), _interval(one)) for n, one in part.metrics.items()),
        ),
    ]
    if part.slices:
        rows = (
            (
                f"{one.attribute}: {one.value}",
                str(sum(one.counts.values())),
                *(_both(one.metrics[name]) for name in SHOWN),
            )
            for one in part.slices
        )
        lines.append(_table(("slice", "pictures", *(LABELS[name][0] for name in SHOWN)), rows))
    return "\n\n".join(lines)


def _robustness(found: Robustness) -> str:
    heads = ("AUROC under", "unchanged", *(f"severity {severity}" for severity in SEVERITIES))
    rows = (
        (name, _value(found.clean["auroc"]), *(_value(cell["auroc"]) for cell in cells))
        for name, cells in found.cells.items()
    )
    told = f"{found.pictures} pictures of {found.split}, changed in {len(found.cells)} ways."
    return "\n\n".join(("## Robustness", told, _table(heads, rows)))


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in one)} |" for one in lines)


def _both(one: Estimate) -> str:
    return f"{_value(one)} ({_interval(one)})" if one.low is not None else _value(one)


def _value(one: Estimate) -> str:
    return "–" if one.value is None else f"{one.value:.3f}"


def _interval(one: Estimate) -> str:
    if one.low is None or one.high is None:
        return "–"
    return f"{one.low:.3f} to {one.high:.3f}"
