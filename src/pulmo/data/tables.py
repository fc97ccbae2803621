"""A CSV file that lists pictures: their class, split, patient and whatever else is known."""

import bisect
import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from pulmo.config.schema import ColumnsConfig, DataConfig, Role
from pulmo.data import files
from pulmo.data.collection import Collection, Found, classes_of
from pulmo.errors import ConfigError, DataError

_MAX_BYTES = 2**30
_ROLES: dict[str, Role] = {
    "": "pool", "pool": "pool", "train": "train", "val": "val", "gate": "gate", "test": "test",
}  # fmt: skip


def from_table(config: DataConfig, root: Path) -> Collection:
    """The pictures that `data.table` lists below `root`; whether they are there, reading tells.

    Raises ConfigError where no table or a wrong column is named, DataError with the line that
    cannot be understood.
    """
    if config.table is None:
        raise ConfigError(f"which pictures? data={config.name} needs data.table=/path/to/table.csv")
    table = root / Path(config.table).expanduser()
    heads, lines = _read(table)
    reader = _Reader(config, table, heads)
    found = [reader.row(number, line) for number, line in enumerate(lines, start=2)]
    if len({one.path for one in found}) < len(found):
        raise DataError(f"{table} lists a picture more than once: keep one line of each")
    known = set(config.classes or (one.label for one in found))
    chosen = [one for one in found if one.label in known]
    skipped = sorted(one.path for one in found if one.label not in known)
    return Collection(
        root, classes_of(config, root, chosen, skipped), tuple(chosen), tuple(skipped)
    )


class _Reader:
    """Lines of one table to files of a source."""

    def __init__(self, config: DataConfig, table: Path, heads: Sequence[str]) -> None:
        columns, self.table, self.heads = config.columns, table, heads
        asked = [columns.path, *(columns.slices or ()), *columns.bins]
        asked += [columns.label] if columns.label else []
        if missing := [name for name in asked if name not in heads]:
            raise ConfigError(
                f"{table} has no column {', '.join(missing)}: it has {', '.join(heads)}; "
                "set data.columns"
            )
        used = {columns.path, columns.label, columns.split, columns.patient}
        further = [name for name in heads if name not in used]
        self.slices = sorted(further if columns.slices is None else columns.slices)
        self.columns: ColumnsConfig = columns
        self.roles = _ROLES | {word.lower(): role for word, role in config.splits.official.items()}

    def row(self, number: int, line: Sequence[str]) -> Found:
        where = f"line {number} of {self.table}"
        if len(line) != len(self.heads):
            raise DataError(f"{where} has {len(line)} cells under {len(self.heads)} heads")
        cells = {head: cell.strip() for head, cell in zip(self.heads, line, strict=True)}
        path = PurePosixPath(cells[self.columns.path])
        outside = path.is_absolute() or ".." in path.parts or not path.parts
        if outside or not str(path).isprintable():
            raise DataError(f"{where} names no file below the root: {str(path)!a}")
        word = cells.get(self.columns.split, "").lower()
        if word not in self.roles:
            raise DataError(f"{where} names the split '{word}': map it in data.splits.official")
        return Found(
            str(path),
            self._label(cells, path, where),
            self.roles[word],
            cells.get(self.columns.patient) or None,
            tuple((name, self._value(cells, name, where)) for name in self.slices),
        )

    def _label(self, cells: Mapping[str, str], path: PurePosixPath, where: str) -> str:
        said = cells[self.columns.label] if self.columns.label else path.parent.name
        label = self.columns.labels.get(said, said)
        if not label:
            raise DataError(f"{where} has no label")
        return label

    def _value(self, cells: Mapping[str, str], name: str, where: str) -> str:
        cell, points = cells[name], self.columns.bins.get(name)
        if not points or not cell:
            return cell
        try:
            return between(float(cell), points)
        except ValueError as error:
            raise DataError(f"{where}: {name} is no number: {cell!a}") from error


def between(value: float, points: Sequence[float]) -> str:
    """The range that a number lies in, as text: `<18`, `18–40`, `≥40`."""
    points = sorted(points)
    place = bisect.bisect_right(points, value)
    if place == 0:
        return f"<{points[0]:g}"
    low = points[place - 1]
    return f"{low:g}–{points[place]:g}" if place < len(points) else f"≥{low:g}"


def _read(table: Path) -> tuple[list[str], list[list[str]]]:
    try:
        text = files.read(table, _MAX_BYTES).decode("utf-8-sig")
        heads, *lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    except (ValueError, csv.Error) as error:
        raise DataError(f"{table} is no table that can be read: {error}") from error
    if len(set(heads)) < len(heads):
        raise DataError(f"{table} names a column twice")
    return heads, [line for line in lines if line]
