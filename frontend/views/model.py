"""Model: which one answers, how well it was measured, what it is made of."""

from collections.abc import Mapping
from typing import Any

import streamlit as st
from ui import charts, lines, session, tables, words
from ui.api import ApiError

FIRST = {
    "auroc": "AUROC",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "accuracy_accepted": "accuracy where accepted",
}


def show() -> None:
    """The page."""
    if session.state().word != "ready":
        return
    api = session.api()
    try:
        info, curves = api.get("/model/info"), api.get("/model/curves")
        card = api.text("/model/card")
    except ApiError as trouble:
        session.tell(trouble)
        return
    _name(info)
    _figures(info["metrics"])
    _curves(curves)
    with st.expander("Model card"):
        st.markdown(words.card(card))
    with st.expander("Lineage"):
        _lineage(info)


def _name(info: Mapping[str, Any]) -> None:
    model, spec = info["model"], info["specification"]
    st.subheader(words.plain(f"{model['name']} {model['version'] or ''}"))
    size = spec["input"]
    told = {
        "classes": ", ".join(spec["classes"]),
        "input": f"{size['height']} × {size['width']} pixels",
        "network": spec["network"]["architecture"],
        "answer": _rule(spec["decision"]),
        "model digest": model["digest"],
    }
    tables.pairs(told, "The model that answers")
    ref = f"{model['name']}:{model['version']}" if model["version"] else ""
    if ref:
        st.caption("On the command line:")
        st.code(lines.line("registry", "show", ref), language="bash", wrap_lines=True)


def _rule(decision: Mapping[str, Any]) -> str:
    low, high = decision["refer_low"], decision["refer_high"]
    if decision["rule"] == "threshold":
        return (
            f"{decision['positive']} from a probability of {decision['threshold']:.3f} up; "
            f"a person decides from {low:.3f} to {high:.3f}"
        )
    return f"the most probable class; a person decides below {high:.3f}"


def _figures(metrics: Mapping[str, Mapping[str, Any]]) -> None:
    for split, found in metrics.items():
        st.subheader(f"Measured on {words.plain(split)}")
        columns = st.columns(len(FIRST))
        for column, (name, label) in zip(columns, FIRST.items(), strict=True):
            if name in found:
                value, interval = words.figure(found[name])
                column.metric(label, value)
                column.caption(interval)
        with st.expander("All figures with their intervals"):
            rows = [(name.replace("_", " "), *words.figure(one)) for name, one in found.items()]
            tables.rows(("metric", "value", "interval"), rows, f"Metrics on {split}")


def _curves(curves: Mapping[str, Any]) -> None:
    drawn = [
        (title, alt, make(curves[name]))
        for name, title, alt, make in (
            ("roc", "ROC", "Sensitivity over 1 − specificity; the dashes are chance.", charts.roc),
            (
                "reliability",
                "Reliability",
                "Observed over predicted; on the dashes a probability means what it says.",
                charts.reliability,
            ),
        )
        if name in curves
    ]
    if not drawn:
        st.info("This model was registered without curves.")
        return
    for column, (title, alt, spec) in zip(st.columns(2), drawn, strict=False):
        with column:
            st.subheader(title)
            st.vega_lite_chart(spec=spec, alt=f"{title}: {alt}")
            st.caption(alt)


def _lineage(info: Mapping[str, Any]) -> None:
    told = {
        name.replace("_", " "): words.moment(value) if name.endswith("_at") else value
        for name, value in info["lineage"].items()
        if value not in (None, [], "")
    }
    tables.pairs({**told, "bundle digest": info["bundle_digest"]}, "Where the model comes from")


show()
