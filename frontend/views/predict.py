"""Predict: drop pictures, read what the model says of each and why, see where it looked."""

import streamlit as st
from ui import answers, lines, pictures, session, words
from ui.answers import Answered, Item
from ui.api import ApiError, label

COLUMNS, PER_PAGE = 3, 12
ITEMS, HELD, ROUND = "items", "held", "round"


def show() -> None:
    """The page."""
    items = _dropped()
    trouble = _answered(items) if session.state().word == "ready" else None
    if trouble is not None:
        session.tell(trouble)
        st.button("Ask again", type="primary")
    waiting = sum(item.answered is None for item in items.values())
    if waiting:
        st.info(f"{_count(waiting, 'picture waits', 'pictures wait')} for an answer.")
    done = {name: item.answered for name, item in items.items() if item.answered}
    if done:
        _summary(list(done.values()))
        _cards(done)


def _dropped() -> dict[str, Item]:
    """The pictures that were dropped, by id; they stay when another page is looked at."""
    items: dict[str, Item] = st.session_state.setdefault(ITEMS, {})
    files = st.file_uploader(
        "Drop pictures or DICOM files here",
        accept_multiple_files=True,
        key=_uploader(),
        on_change=_forget,
        help="JPEG, PNG, WebP, TIFF, BMP and DICOM. They are sent to the API, which keeps none.",
    )
    for file in files:
        if file.file_id not in items:
            items[file.file_id] = Item(file.name, file.getvalue())
    st.session_state[HELD] = {file.file_id for file in files}
    return items


def _uploader() -> str:
    return f"files-{st.session_state.get(ROUND, 0)}"


def _forget() -> None:
    """What was taken out of the uploader is no longer shown."""
    left = {file.file_id for file in st.session_state[_uploader()]}
    for gone in st.session_state.get(HELD, set()) - left:
        st.session_state[ITEMS].pop(gone, None)


def _clear() -> None:
    st.session_state[ITEMS].clear()
    st.session_state[ROUND] = st.session_state.get(ROUND, 0) + 1


def _answered(items: dict[str, Item]) -> ApiError | None:
    """Have every picture answered that is not yet; the trouble that ended it, if any."""
    waiting = [item for item in items.values() if item.answered is None]
    if not waiting:
        return None
    api, bar = session.api(), st.progress(0.0)
    try:
        for number, item in enumerate(waiting):
            said = f"Picture {number + 1} of {len(waiting)}: {words.plain(item.name)}"
            bar.progress(number / len(waiting), text=said)
            item.ask(api)
    except ApiError as trouble:
        return trouble
    finally:
        bar.empty()
    return None


def _summary(done: list[Answered]) -> None:
    told = [one.answer["decision"] for one in done if one.answer]
    counts = (
        _count(told.count("accept"), "answer accepted", "answers accepted"),
        _count(told.count("refer"), "picture for a person", "pictures for a person"),
        _count(len(done) - len(told), "not answered", "not answered"),
    )
    st.markdown(" · ".join(f"**{count}**" for count in counts if not count.startswith("0 ")))
    with st.container(horizontal=True):
        st.download_button(
            "Download CSV",
            answers.table(done),
            "pulmo-answers.csv",
            "text/csv",
            on_click="ignore",
            type="primary",
        )
        st.button("Clear", on_click=_clear)


def _cards(done: dict[str, Answered]) -> None:
    pages = -(-len(done) // PER_PAGE)
    page = st.pagination(pages, key="page") if pages > 1 else 1
    shown = list(done.items())[(page - 1) * PER_PAGE : page * PER_PAGE]
    for start in range(0, len(shown), COLUMNS):
        row = shown[start : start + COLUMNS]
        for column, (name, one) in zip(st.columns(COLUMNS), row, strict=False):
            with column, st.container(border=True, key=f"card-{name}"):
                _card(name, one)
    model = next((one.answer["model"] for _, one in shown if one.answer), None)
    if model:
        st.caption("The same on the command line:")
        st.code(lines.predict(label(model)), language="bash", wrap_lines=True)


@st.fragment
def _card(name: str, one: Answered) -> None:
    st.markdown(f"**{words.plain(one.name)}**")
    answer = one.answer
    if answer is None:
        if one.trouble:
            session.tell(one.trouble)
        return
    if answer["decision"] == "accept":
        st.badge("Accept", icon=":material/check:", color="green")
    else:
        st.badge("Refer", icon=":material/visibility:", color="orange")
    _picture(name, one)
    st.markdown(words.verdict(answer))
    for reason in answer["reasons"]:
        st.markdown(words.sentence(reason))
    for kind, value in sorted(answer["probabilities"].items(), key=lambda pair: -pair[1])[:5]:
        st.progress(min(max(value, 0.0), 1.0), f"{words.plain(kind)} {words.share(value)}")
    st.caption(f"{words.plain(label(answer['model']))} · {words.plain(answer['id'][:12])}")


def _picture(name: str, one: Answered) -> None:
    if one.made is None:
        if one.picture is not None:
            st.image(one.picture, alt=one.name, width="stretch")
        st.caption("This model draws no heat maps.")
        return
    place = st.empty()
    opacity = st.slider("Heat map", 0, 100, 60, 5, "%d %%", key=f"opacity-{name}")
    blend = pictures.blended(one.made, opacity / 100)
    place.image(blend, alt=f"{one.name} under its heat map", width="stretch", output_format="PNG")


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


show()
