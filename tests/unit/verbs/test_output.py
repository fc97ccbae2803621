import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import BaseModel

from pulmo.verbs import output


@dataclass(frozen=True)
class Thing:
    place: Path
    at: datetime
    values: tuple[float, ...]


class Model(BaseModel):
    names: dict[str, float | None]


def test_anything_that_travels_becomes_json(capsys: pytest.CaptureFixture[str]) -> None:
    thing = Thing(Path("a/b"), datetime(2026, 1, 2, tzinfo=UTC), (1.5, float("nan"), float("inf")))
    output.as_json({"thing": thing, "model": Model(names={"ä": None}), "set": {"x"}, "no": None})
    line = capsys.readouterr().out
    assert "ä" in line
    assert json.loads(line) == {
        "thing": {"place": "a/b", "at": "2026-01-02T00:00:00+00:00", "values": [1.5, None, None]},
        "model": {"names": {"ä": None}},
        "set": ["x"],
        "no": None,
    }


def test_columns_are_as_wide_as_their_widest_entry(capsys: pytest.CaptureFixture[str]) -> None:
    when = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    output.table(
        ("name", "x", "list"), [("longer", 0.5, ("a", "b")), ("s", None, ()), (when, 1, "")]
    )
    assert capsys.readouterr().out.splitlines() == [
        "name                 x       list",
        "longer               0.5000  a, b",
        "s                    -       -",
        "2026-01-02 03:04:05  1       -",
    ]
