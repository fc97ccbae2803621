import shlex

import pytest
from typer.testing import CliRunner
from ui import lines

from pulmo.main import app


@pytest.mark.parametrize(
    ("line", "typed"),
    [
        (
            lines.move("stage", "toy", "v1", "more data"),
            "uv run main.py registry stage toy:v1 --later --reason 'more data'",
        ),
        (
            lines.move("promote", "toy", "v1", "ok"),
            "uv run main.py registry promote toy:v1 --reason ok",
        ),
        (
            lines.move("rollback", "toy", None, "bad"),
            "uv run main.py registry rollback toy --reason bad",
        ),
        (
            lines.move("rollback", "toy", "v0", "a; rm -rf ~"),
            "uv run main.py registry rollback toy --to v0 --reason 'a; rm -rf ~'",
        ),
        (
            lines.predict("toy:v1"),
            "uv run main.py predict PICTURES --model toy:v1 --overlay overlays",
        ),
    ],
)
def test_a_page_shows_the_line_that_does_the_same(line: str, typed: str) -> None:
    assert line == typed


@pytest.mark.parametrize(
    "words",
    [
        lines.move("stage", "toy", "v1", "-"),
        lines.move("promote", "toy", "v1", "-"),
        lines.move("rollback", "toy", "v1", "-"),
        lines.predict("toy:v1"),
        lines.line("registry", "show", "toy"),
        lines.line("registry", "history", "toy"),
    ],
)
def test_every_line_is_one_that_the_program_understands(words: str) -> None:
    asked = shlex.split(words)[len(lines.PROGRAM) :]
    told = CliRunner().invoke(app, [*asked, "--help"])
    assert told.exit_code == 0
    options = [word for word in asked if word.startswith("--")]
    assert [word for word in options if word not in told.output] == []
