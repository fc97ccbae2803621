"""The rules of the house that no linter holds: small files, small functions, a first sentence."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    path
    for pattern in (
        "src/**/*.py",
        "frontend/**/*.py",
        "staged_model_tests/*.py",
        "scripts/*.py",
        "main.py",
        "tasks.py",
    )
    for path in ROOT.glob(pattern)
)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_source_file_is_small_and_says_what_it_is_for(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert text.count("\n") <= 300
    assert ast.get_docstring(tree)
    functions = (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
    long = {f.name: f.end_lineno - f.lineno + 1 for f in functions if f.end_lineno - f.lineno >= 50}
    assert long == {}


def test_no_module_is_a_drawer_for_everything() -> None:
    drawers = {"utils.py", "helpers.py", "common.py", "misc.py"}
    assert [path for path in SOURCES if path.name in drawers] == []


# Data sets, classes and tasks, in whatever words; `phantom` is the name of a kind of source.
OF_ONE_TASK = re.compile(
    r"NORMAL\b|(?i:pneumonia|bacteria|virus|chest|lungs?\b|x-?rays?\b|radiograph|mnist|imagenet|cifar"
    r"|kermany|chestx|\bnih\b|paediatric|pediatric|children)"
)
# Where pictures come from, and the drawing of the one source that is built in.
SOURCES_OF_PICTURES = {"data/sources.py", "data/phantom.py"}


def test_only_the_sources_name_a_data_set_a_class_or_a_task() -> None:
    package = ROOT / "src/pulmo"
    told = [
        f"{path.relative_to(package)}:{number}: {line.strip()}"
        for path in sorted(package.rglob("*.py"))
        if path.relative_to(package).as_posix() not in SOURCES_OF_PICTURES
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if OF_ONE_TASK.search(line) and "weights" not in line.lower()
    ]
    assert told == []
