"""Tables of what the API tells: text as it is, small enough to be read on a phone."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import streamlit as st

from ui import words

_DIGEST = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")


def pairs(told: Mapping[str, Any], alt: str) -> None:
    """Names and what they stand for."""
    cells = {words.plain(name): words.plain(written(value)) for name, value in told.items()}
    st.table(cells, border="horizontal", alt=alt)


def rows(heads: Sequence[str], lines: Iterable[Sequence[Any]], alt: str) -> None:
    """Lines below heads."""
    made = [[words.plain(written(cell)) for cell in line] for line in lines]
    columns = {head: [line[i] for line in made] for i, head in enumerate(heads)}
    st.table(columns, border="horizontal", hide_index=True, hide_header=False, alt=alt)


def written(value: Any) -> str:
    """A value of the API as text: digests shortened, a dash for nothing."""
    if value is None or value == "" or value == []:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, list | tuple):
        return ", ".join(map(written, value))
    text = str(value)
    return text[:12] if _DIGEST.fullmatch(text) else text
