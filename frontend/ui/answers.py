"""Pictures on their way to an answer, and their answers as a table for spreadsheets."""

import csv
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from PIL import Image

from ui.api import Api, ApiError, patiently
from ui.pictures import Layers, layers, shown

HEADS = ("file", "prediction", "decision", "reasons")
TAIL = ("model", "version", "model_digest", "id", "input_sha256", "problem")

_NEEDED = frozenset(
    {"prediction", "probability", "probabilities", "decision", "reasons", "model", "id"}
    | {"input_sha256"}
)
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠")


@dataclass(frozen=True)
class Answered:
    """One picture: its answer, with layers where the model draws heat maps, or its trouble."""

    name: str
    answer: dict[str, Any] | None = None
    made: Layers | None = None
    trouble: ApiError | None = None
    picture: Image.Image | None = None  # to look at where there are no layers


@dataclass
class Item:
    """A picture that was dropped; its bytes are let go when it is answered."""

    name: str
    encoded: bytes = b""
    answered: Answered | None = None

    def ask(self, api: Api) -> None:
        """Have it answered. Raises an ApiError that meets every picture, and waits on."""
        self.answered = ask(api, self.name, self.encoded)
        self.encoded = b""


def ask(api: Api, name: str, encoded: bytes) -> Answered:
    """One picture's answer or its own trouble. Raises an ApiError that meets every picture."""
    try:
        answer = patiently(lambda: _explained(api, encoded))
        if missing := _NEEDED - set(answer):
            raise ValueError(f"{', '.join(sorted(missing))} are not there")
        image, heat = answer.pop("image_png", None), answer.pop("heatmap_png", None)
        made = layers(image, heat) if image and heat else None
        return Answered(name, answer, made, picture=None if made else shown(encoded))
    except ApiError as trouble:
        if trouble.everyone:
            raise
        return Answered(name, trouble=trouble)
    except (ValueError, TypeError, AttributeError) as error:
        return Answered(name, trouble=ApiError(f"the answer cannot be read: {error}", 500))


def _explained(api: Api, encoded: bytes) -> dict[str, Any]:
    """The answer with a heat map, or without where the model draws none."""
    try:
        return api.predict(encoded, explain=True)
    except ApiError as trouble:
        if trouble.status != 422:
            raise
        return api.predict(encoded, explain=False)


def table(answered: Iterable[Answered]) -> bytes:
    """CSV with a line a picture, in UTF-8 that spreadsheets recognise; no cell is a formula."""
    rows = list(answered)
    classes = sorted({name for one in rows for name in (one.answer or {}).get("probabilities", {})})
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow([harmless(head) for head in (*HEADS, *(f"p({c})" for c in classes), *TAIL)])
    for one in rows:
        writer.writerow([harmless(cell) for cell in _cells(one, classes)])
    return file.getvalue().encode("utf-8-sig")


def _cells(one: Answered, classes: list[str]) -> Iterator[object]:
    answer = one.answer
    if answer is None:
        detail = one.trouble.detail if one.trouble else ""
        yield from (one.name, *[None] * (len(HEADS) - 1 + len(classes) + len(TAIL) - 1), detail)
        return
    yield from (one.name, answer["prediction"], answer["decision"], "; ".join(answer["reasons"]))
    yield from (answer["probabilities"].get(name) for name in classes)
    model = answer["model"]
    yield from (model["name"], model["version"], model["digest"])
    yield from (answer["id"], answer["input_sha256"], None)


def harmless(cell: object) -> object:
    """A cell that no spreadsheet takes for a formula: suspicious text begins with an apostrophe."""
    if isinstance(cell, str) and cell.lstrip(" \n").startswith(_FORMULA):
        return f"'{cell}"
    return cell
