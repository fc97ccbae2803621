"""Results on standard output: aligned columns for people, JSON for programs."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import typer


def as_json(value: object) -> None:
    """Print dataclasses, models and containers of them as one line of JSON."""
    typer.echo(json.dumps(plain(value), ensure_ascii=False, allow_nan=False))


def plain(value: Any) -> Any:
    """A value as JSON knows it: times in ISO 8601, paths as text, NaN and infinity as null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: plain(getattr(value, name)) for name in names}
    if hasattr(value, "model_dump"):
        return plain(value.model_dump())
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence | set | frozenset) and not isinstance(value, str):
        return [plain(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not abs(value) < float("inf"):
        return None
    return value


def table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under their heads, every column as wide as its widest entry."""
    cells = [[_cell(entry) for entry in row] for row in (heads, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(heads))]
    for row in cells:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        typer.echo(line.rstrip())


def _cell(entry: object) -> str:
    if entry is None or entry == "":
        return "-"
    if isinstance(entry, float):
        return f"{entry:.4f}"
    if isinstance(entry, datetime):
        return f"{entry:%Y-%m-%d %H:%M:%S}"
    if isinstance(entry, tuple | list):
        return ", ".join(map(str, entry)) or "-"
    return str(entry)
