"""Registry: versions, aliases and their history, two versions side by side, and the three moves."""

from typing import Any

import streamlit as st
from ui import lines, session, tables, versions, words
from ui.api import ApiError

MOVES = 50  # of the history, the newest
BEFORE = "the one before"
VERBS = {
    "stage": "Points `staging` at a version and asks for its tests. Whoever runs them promotes it "
    "if it passes.",
    "promote": "Moves `production` to a version that has passed its tests against the present one.",
    "rollback": "Moves `production` back to a version that held it before.",
}
LABELS = {"stage": "Stage", "promote": "Promote", "rollback": "Roll back"}

Told = dict[str, Any]


def show() -> None:
    """The page."""
    if session.state().word == "away":
        return
    api = session.api(admin=True)
    try:
        models = api.get("/registry/models")
        if not models:
            st.info("No model is registered yet: `uv run main.py quickstart` makes a first one.")
            return
        name = _model(models)
        found = api.get("/registry/versions", name=name)
        moves = api.get("/registry/history", name=name, limit=MOVES)
    except ApiError as trouble:
        session.tell(trouble)
        return
    _versions(name, found)
    _move(name, found)
    _beside(name, found)
    _history(name, moves)


def _model(models: list[Told]) -> str:
    names = [model["name"] for model in models]
    served = session.state().detail.partition(":")[0].partition("@")[0]
    start = names.index(served) if served in names else 0
    chosen: str = st.selectbox("Model", names, start, key="model")
    return chosen


def _versions(name: str, found: list[Told]) -> None:
    st.subheader("Versions")
    listed = [
        (
            f"{one['version']} {tables.written(one['model_digest'])}",
            one["aliases"],
            f"{one['metric']} {tables.written(one['score'])}",
            f"{words.moment(one['created_at'])} by {one['created_by']}",
        )
        for one in reversed(found)
    ]
    heads = ("version", "aliases", "score", "registered (UTC)")
    tables.rows(heads, listed, f"Versions of {name}, the newest first")
    st.code(lines.line("registry", "show", name), language="bash", wrap_lines=True)


def _move(name: str, found: list[Told]) -> None:
    st.subheader("Move an alias")
    with st.container(border=True):
        st.text_input(
            "Admin key",
            type="password",
            key=session.ADMIN_KEY,
            autocomplete="off",
            help="It is kept while this page is open and sent to the API alone. The server must "
            "have been started with `serve --admin`.",
        )
        verb = st.segmented_control(
            "What",
            list(VERBS),
            default="stage",
            required=True,
            format_func=LABELS.__getitem__,
            key="verb",
        )
        assert verb is not None
        st.caption(VERBS[verb])
        numbers = [one["version"] for one in reversed(found)]
        options = [BEFORE, *numbers] if verb == "rollback" else numbers
        chosen = st.selectbox("Version", options, key=f"version-{verb}")
        reason = st.text_input("Why", "asked on the page", max_chars=500, key="reason")
        version = None if chosen == BEFORE else chosen
        st.caption("The same on the command line:")
        st.code(lines.move(verb, name, version, reason), language="bash", wrap_lines=True)
        label = f"{LABELS[verb]} {name} {version or ''}".strip()
        st.button(label, type="primary", key="do", on_click=_done)
        _told()


def _done() -> None:
    """Do what the fields say, as they stand when the button is pressed."""
    name, verb = st.session_state["model"], st.session_state["verb"]
    body, version = {"reason": st.session_state["reason"]}, st.session_state[f"version-{verb}"]
    if version != BEFORE:
        body["to" if verb == "rollback" else "version"] = version
    try:
        st.session_state["moved"] = session.api(admin=True).move(name, verb, body)
    except ApiError as trouble:
        st.session_state["moved"] = trouble


def _told() -> None:
    """What became of the move that was just asked for."""
    moved = st.session_state.pop("moved", None)
    if isinstance(moved, ApiError):
        session.tell(moved)
    elif moved is not None:
        st.success(f"Done: {words.plain(versions.what(moved))}, by {words.plain(moved['actor'])}.")


def _beside(name: str, found: list[Told]) -> None:
    if len(found) < 2:
        return
    st.subheader("Two versions side by side")
    numbers = [one["version"] for one in reversed(found)]
    left, right = st.columns(2)
    one = left.selectbox("One", numbers, 1, key="one")
    other = right.selectbox("The other", [v for v in numbers if v != one], key="other")
    api = session.api(admin=True)
    try:
        records = [api.get("/registry/version", name=name, version=v) for v in (one, other)]
    except ApiError as trouble:
        session.tell(trouble)
        return
    tables.rows(("", one, other), versions.beside(*records), f"{one} and {other} of {name}")
    if checks := versions.checks_beside(*records):
        with st.expander("What the staged tests said"):
            tables.rows(("", one, other), checks, f"Staged tests of {one} and {other} of {name}")


def _history(name: str, moves: list[Told]) -> None:
    st.subheader("History")
    listed = [
        (
            words.moment(one["at"]),
            f"{one['action']} {versions.what(one)}",
            f"{one['actor']}: {one['reason']}",
            versions.evidence(one),
        )
        for one in reversed(moves)
    ]
    heads = ("when (UTC)", "what", "who and why", "on what evidence")
    tables.rows(heads, listed, f"Moves of the aliases of {name}, the newest first")
    st.code(lines.line("registry", "history", name), language="bash", wrap_lines=True)


show()
