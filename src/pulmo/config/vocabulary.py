"""The keys and options that an override may name, and the nearest one to a misspelt name."""

import difflib
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from pulmo.config.schema import Config

Kind = Literal["group", "table", "texts", "text", "value"]


@cache
def keys() -> dict[str, Kind]:
    """Every dotted key of the schema: a `group` has fixed keys below it, a `table` free ones,
    `texts` free ones whose values are texts; a `text` takes its value literally, a `value` is a
    number, a truth value or a list.
    """
    return dict(_walk(Config, ""))


def kind_of(key: str) -> Kind | None:
    """What a dotted key is, None where the schema has no such key."""
    known = keys()
    if key in known:
        return known[key]
    table, _, free = key.rpartition(".")
    kinds: dict[Kind | None, Kind] = {"table": "value", "texts": "text"}
    return kinds.get(known.get(table)) if free else None


def known_part(path: Iterable[object]) -> str:
    """The longest beginning of `path` that is a key: where a fault lies, in the user's words."""
    found = ""
    parts: list[str] = []
    for part in path:
        parts.append(str(part))
        if kind_of(".".join(parts)) is not None:
            found = ".".join(parts)
    return found


def options(configs: Sequence[Path], always: Iterable[str] = ()) -> dict[str, list[str]]:
    """The replaceable parts of the first of `configs`, and those of `always`, with the names of
    their files in all of them.
    """
    folders = {folder.name for folder in configs[0].iterdir() if folder.is_dir()}
    return {
        name: sorted({path.stem for one in configs for path in (one / name).glob("*.yaml")})
        for name in sorted(folders.union(always))
    }


def nearest_key(key: str, groups: Iterable[str] = ()) -> str:
    """The known key closest to `key`: the same last word elsewhere, else the most alike."""
    known = [*keys(), *groups]
    leaf = key.rpartition(".")[2]
    namesakes = [name for name in known if name.rpartition(".")[2] == leaf]
    return nearest(key, namesakes or known)


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word most alike to `word`; `known` must not be empty."""
    return max(known, key=lambda name: difflib.SequenceMatcher(None, word, name).ratio())


def _walk(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, Kind]]:
    for name, field in model.model_fields.items():
        key = f"{prefix}{name}"
        inner = _plain_types(field.annotation)
        nested = [kind for kind in inner if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if nested:
            yield key, "group"
            yield from _walk(nested[0], f"{key}.")
        elif any(get_origin(kind) is dict for kind in inner):
            values = [one for kind in inner for one in _plain_types(get_args(kind)[1])]
            yield key, "texts" if all(map(_is_text, values)) else "table"
        elif all(map(_is_text, inner)):
            yield key, "text"
        else:
            yield key, "value"


def _plain_types(annotation: Any) -> list[Any]:
    """The alternatives of a type, without None and without what `Annotated` adds."""
    if get_origin(annotation) is Annotated:
        return _plain_types(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [kind for part in get_args(annotation) for kind in _plain_types(part)]
    return [] if annotation is NoneType else [annotation]


def _is_text(kind: Any) -> bool:
    words = get_args(kind) if get_origin(kind) is Literal else ()
    return kind is str or (bool(words) and all(isinstance(word, str) for word in words))
