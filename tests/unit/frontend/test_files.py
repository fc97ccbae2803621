"""What the folder of the pages is made of: a client of the API, its packages, its settings."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from pulmo.serving.limits import Limits

ROOT = Path(__file__).parents[3]
FRONTEND = ROOT / "frontend"
SOURCES = sorted(FRONTEND.rglob("*.py"))
ALLOWED = {"ui", "streamlit", "httpx", "numpy", "PIL"}
EXPORT = "uv export --locked --offline --only-group frontend --no-header --no-annotate --quiet"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(FRONTEND)))
def test_the_pages_reach_nothing_but_the_api(path: Path) -> None:
    imported = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add((node.module or "").partition(".")[0])
    assert imported - ALLOWED - sys.stdlib_module_names == set()
    assert "importlib" not in imported


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(FRONTEND)))
def test_nothing_that_an_api_says_can_become_markup(path: Path) -> None:
    text = path.read_text("utf-8")
    assert "unsafe_allow" not in text
    assert "st.html" not in text
    assert "components" not in text


def test_the_requirements_are_those_of_the_lock() -> None:
    told = subprocess.run(EXPORT.split(), cwd=ROOT, capture_output=True, text=True, check=True)
    written = (FRONTEND / "requirements.txt").read_text("utf-8")
    assert written == told.stdout, "uv run invoke frontend-requirements writes them anew"
    assert "torch" not in re.findall(r"^[a-z0-9-]+", written, re.MULTILINE)


def test_the_pages_take_what_the_api_takes_and_keep_to_themselves() -> None:
    config = tomllib.loads((FRONTEND / ".streamlit/config.toml").read_text("utf-8"))
    assert config["server"]["maxUploadSize"] * 2**20 == Limits().body_bytes
    assert config["server"]["enableXsrfProtection"] is True
    assert config["server"]["enableCORS"] is True
    assert config["browser"]["gatherUsageStats"] is False
    assert config["client"]["showErrorDetails"] == "none"


def test_the_front_matter_is_that_of_a_space() -> None:
    head = (FRONTEND / "README.md").read_text("utf-8").split("---\n")[1]
    told = yaml.safe_load(head)
    assert (told["sdk"], told["app_port"], told["license"]) == ("docker", 8501, "apache-2.0")
    assert len(told["short_description"]) <= 60
    assert "requirements.txt" in (FRONTEND / "Dockerfile").read_text("utf-8")
