"""What the README and the architecture say exists, exists, and nothing is left out."""

import re
import runpy
import tomllib
from pathlib import Path

import pytest
import typer

from pulmo.main import EXIT_CODES, app

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
ARCHITECTURE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")


def verbs() -> set[str]:
    """Every verb that can be typed: `train`, `registry show` …"""
    found = set()
    for name, command in vars(typer.main.get_command(app))["commands"].items():
        inner = vars(command).get("commands", {})
        found |= {f"{name} {verb}" for verb in inner} or {name}
    return found


def test_the_readme_lists_every_verb_and_no_other() -> None:
    told = set()
    table = README.partition("| verb |")[2].partition("\n\n")[0]
    for cell in re.findall(r"^\| (`[^|]+?(?:\\\|[^|]*?)*`) \|", table, re.MULTILINE):
        first, *others = cell.strip("`").replace("\\", "").split("|")
        told.add(first)
        told |= {f"{first.rpartition(' ')[0]} {other}" for other in others}
    assert told == verbs()


def test_the_readme_lists_every_exit_code() -> None:
    for code in {0, 143, *EXIT_CODES.values()}:
        assert re.search(rf"^\| (\d+, )?{code} \|", README, re.MULTILINE), code


@pytest.mark.parametrize("document", ["README.md", "docs/architecture.md", "AGENTS.md"])
def test_links_lead_somewhere(document: str) -> None:
    path = ROOT / document
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (path.parent / target).exists(), target


def test_the_architecture_maps_every_file_by_its_own_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(ROOT))
    tasks = runpy.run_path("tasks.py")
    told = ARCHITECTURE.partition(tasks["MAP_BEGINS"])[2].partition(tasks["MAP_ENDS"])[0]
    assert told.strip() == tasks["file_map"]().strip(), "uv run invoke map writes it anew"


def test_the_architecture_draws_the_layers_that_are_checked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = project["tool"]["importlinter"]["contracts"][0]["layers"]
    drawn = ARCHITECTURE.partition("## Layers")[2].partition("##")[0]
    for layer in layers:
        for name in layer.split(" | "):
            assert re.search(rf"\b{name}(/|\.py)", drawn), name
