"""What people read: troubles, decisions, times and shares, and text of others made harmless."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from ui.api import ApiError

INTENDED_USE = (
    "For research and teaching. Pulmo is no medical device, and no model it serves replaces a "
    "radiologist: a person decides."
)

_PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")
_DIGEST = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{52}\b")
_HEADING = re.compile(r"^(#{1,3}) ", re.MULTILINE)
_FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)

# What went wrong, and what whoever reads it can do.
_TROUBLES: dict[int | None, tuple[str, str]] = {
    None: (
        "The API is away",
        "This page goes on by itself as soon as it is back. "
        "`uv run main.py serve` starts one on this machine.",
    ),
    400: ("This file cannot be read as a picture", ""),
    401: (
        "The server asks for a key",
        "Type one under *Key*. `uv run main.py keys create --role predict --name NAME` makes one.",
    ),
    403: ("The server refuses this", ""),
    404: ("The server does not have this", ""),
    409: ("Refused, and nothing was changed", ""),
    413: ("This is too large", ""),
    415: ("This file cannot be read as a picture", ""),
    422: ("The server cannot do this", ""),
    429: ("Asked too often", ""),
    503: ("The server is busy", ""),
}


def explained(trouble: ApiError) -> tuple[str, str]:
    """A trouble as a heading and what to know about it, as safe Markdown."""
    heading, advice = _TROUBLES.get(trouble.status, ("The server failed", ""))
    again = f"Ask again in {trouble.seconds} s." if trouble.seconds else ""
    return heading, " ".join(word for word in (sentence(trouble.detail), again, advice) if word)


def plain(text: object) -> str:
    """Text of others as Markdown that shows it as it is, on one line."""
    return _PUNCTUATION.sub(r"\\\1", " ".join(str(text).split()))


def sentence(text: str) -> str:
    """A clause of the API as a sentence, in safe Markdown."""
    if not text:
        return ""
    return plain(text[0].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else "."))


def card(text: str) -> str:
    """A model card as Markdown that loads nothing and keeps to the size of its place.

    Pictures are left as text, and digests shortened.
    """
    text = _DIGEST.sub(r"\1…", text)
    bare = _FRONT_MATTER.sub("", text.replace("\r\n", "\n")).replace("![", r"!\[")
    return _HEADING.sub(r"###\1 ", bare)


def share(value: float) -> str:
    """A probability in percent: 98.2 %, and never 100 % of what is less."""
    return f"{min(value, 0.999) if value < 1 else 1:.1%}".replace("%", " %")


def verdict(answer: Mapping[str, Any]) -> str:
    """What an answer means, as safe Markdown."""
    label, likely = answer["prediction"], share(answer["probability"])
    if answer["decision"] == "accept":
        return f"**{plain(label)}**, with a probability of {likely}"
    if label is None:
        return "**No diagnosis**: a person should look."
    return f"A person should look. The model leans to {plain(label)} ({likely})."


def moment(text: str | None) -> str:
    """A time of the API as people read it, in UTC; what is no time stays as it is."""
    try:
        at = datetime.fromisoformat(str(text))
    except ValueError:
        return str(text or "")
    return f"{(at if at.tzinfo is None else at.astimezone(UTC)):%Y-%m-%d %H:%M}"


def figure(estimate: Mapping[str, Any]) -> tuple[str, str]:
    """A metric and its interval; a dash where there is none."""
    value, low, high = (estimate.get(part) for part in ("value", "low", "high"))
    interval = "–" if low is None or high is None else f"{low:.3f} to {high:.3f}"
    return "–" if value is None else f"{value:.3f}", interval
