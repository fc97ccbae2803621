"""The rules of the house that no linter holds: small files, small functions, a first sentence."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    path
    for pattern in ("src/**/*.py", "staged_model_tests/*.py", "scripts/*.py", "main.py", "tasks.py")
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


def test_only_the_sources_name_a_data_set_a_class_or_a_task() -> None:
    words = ("chest", "pneumonia", "imagenette", "xray", "x-ray")
    allowed = {"sources.py", "phantom.py"}
    told = []
    for path in (ROOT / "src").rglob("*.py"):
        if path.name in allowed:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            value = getattr(node, "value", None) if isinstance(node, ast.Constant) else None
            if isinstance(value, str) and value.lower() in words:
                told.append((path.name, value))
    assert told == []
