"""Curves of the API as Vega-Lite charts that hold their own points."""

from collections.abc import Mapping, Sequence
from typing import Any

HEIGHT = 300
_LINE, _CHANCE = "#2a78b8", "#8a8f98"  # told apart in light and dark, and by colour-blind eyes

Points = Mapping[str, Sequence[float]]


def roc(points: Points) -> dict[str, Any]:
    """Sensitivity over 1 - specificity, beside chance."""
    values = _rows(points, "fpr", "tpr")
    axes = _axes("1 − specificity", "sensitivity")
    line = {
        "data": {"values": values},
        "mark": {"type": "line", "color": _LINE, "strokeWidth": 2.5},
        "encoding": {**axes, "order": {"field": "i", "type": "quantitative"}},
    }
    return _chart(line, axes)


def reliability(points: Points) -> dict[str, Any]:
    """How often the positive class is there over how probable it was said to be."""
    values = _rows(points, "confidence", "frequency", "count")
    axes = _axes("predicted probability", "share that is positive")
    size = {"field": "count", "type": "quantitative", "legend": None, "scale": {"range": [40, 220]}}
    tips = [
        {"field": name, "type": "quantitative", "title": title, "format": form}
        for name, title, form in (
            ("x", "predicted", ".3f"),
            ("y", "observed", ".3f"),
            ("count", "pictures", ".0f"),
        )
    ]
    dots = {
        "data": {"values": values},
        "mark": {"type": "line", "color": _LINE, "strokeWidth": 1.5},
        "encoding": {**axes, "order": {"field": "i", "type": "quantitative"}},
    }
    sized = {
        "data": {"values": values},
        "mark": {"type": "circle", "color": _LINE, "opacity": 1},
        "encoding": {**axes, "size": size, "tooltip": tips},
    }
    return _chart(dots, axes, sized)


def _rows(points: Points, x: str, y: str, *more: str) -> list[dict[str, float]]:
    columns = {"x": points[x], "y": points[y], **{name: points[name] for name in more}}
    rows = zip(*columns.values(), strict=False)
    whole = [row for row in rows if None not in row]
    return [{"i": float(i), **dict(zip(columns, row, strict=True))} for i, row in enumerate(whole)]


def _axes(x: str, y: str) -> dict[str, Any]:
    return {
        end: {
            "field": end,
            "type": "quantitative",
            "title": title,
            "scale": {"domain": [0, 1], "nice": False},
            "axis": {"values": [0, 0.2, 0.4, 0.6, 0.8, 1], "format": ".1f"},
        }
        for end, title in (("x", x), ("y", y))
    }


def _chart(first: dict[str, Any], axes: dict[str, Any], *more: dict[str, Any]) -> dict[str, Any]:
    diagonal = {
        "data": {"values": [{"x": 0.0, "y": 0.0}, {"x": 1.0, "y": 1.0}]},
        "mark": {"type": "line", "color": _CHANCE, "strokeDash": [5, 4], "strokeWidth": 1.5},
        "encoding": axes,
    }
    return {"height": HEIGHT, "layer": [diagonal, first, *more]}
