"""Whoever looks at the pages: which API they ask, with which key, and how it is just now."""

import os

import streamlit as st

from ui import words
from ui.api import Api, ApiError, State

VARIABLE, DEFAULT = "PULMO_API_URL", "http://127.0.0.1:8000"
KEY, ADMIN_KEY, STATE = "key", "admin_key", "state"
WATCH_SECONDS = 3
_PASSED_ON = ("Forwarded", "X-Forwarded-For", "X-Real-Ip", "Via")


def api(*, admin: bool = False) -> Api:
    """The API, asked with the key that was typed; an admin key goes where `admin` says so."""
    typed = [st.session_state.get(name) or "" for name in (ADMIN_KEY, KEY)]
    key = next(filter(None, typed), "") if admin else typed[1]
    url = os.environ.get(VARIABLE) or DEFAULT
    return Api(url.rstrip("/"), key, passed_on=_from_elsewhere())


def _from_elsewhere() -> bool:
    """Whether the browser is on another machine, or whoever passes it on is the one we see."""
    address = st.context.ip_address
    return isinstance(address, str) or any(name in st.context.headers for name in _PASSED_ON)


@st.fragment(run_every=WATCH_SECONDS)
def watch() -> None:
    """Show how the API is, again and again; the page is made anew when that changes."""
    state, known = api().state(), st.session_state.get(STATE)
    st.session_state[STATE] = state
    if known is not None and known != state:
        st.rerun()
    if state.word == "ready":
        st.badge("The API answers", color="green")
        st.caption(words.plain(state.detail))
    elif state.word == "waiting":
        st.badge("The API is not ready", color="orange")
    else:
        st.badge("The API is away", color="red")


def begin() -> State:
    """Look at the API for a page that is about to be made."""
    st.session_state.pop(STATE, None)
    watch()
    return state()


def state() -> State:
    """How the API was when this page was made."""
    known: State = st.session_state[STATE]
    return known


def tell(trouble: ApiError) -> None:
    """Show a trouble and what can be done about it."""
    heading, advice = words.explained(trouble)
    show = st.warning if trouble.status in (429, 503) else st.error
    show(f"**{heading}.** {advice}")
