"""The frame of all pages: navigation, how the API is, the key, and what this is not meant for."""

import streamlit as st
from ui import session, words
from ui.api import ApiError

st.set_page_config(page_title="Pulmo", page_icon="🫁", layout="wide")
page = st.navigation(
    [
        st.Page("views/predict.py", title="Predict", icon=":material/radiology:", default=True),
        st.Page("views/model.py", title="Model", icon=":material/monitoring:"),
        st.Page("views/registry.py", title="Registry", icon=":material/inventory_2:"),
    ]
)
with st.sidebar:
    st.text_input(
        "Key",
        type="password",
        key=session.KEY,
        autocomplete="off",
        placeholder="if the server asks for one",
        help="It is kept until this page is closed and sent to the API alone.",
    )
    state = session.begin()
with st.bottom:
    st.caption(words.INTENDED_USE)
st.title(page.title)
if state.word == "away":
    session.tell(ApiError(state.detail))
elif state.word == "waiting":
    st.warning(
        f"**The API is there and does not answer pictures yet.** {words.sentence(state.detail)} "
        "This page goes on by itself."
    )
page.run()
