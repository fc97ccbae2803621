"""The README's commands do what it says, as written, with real paths in place of its examples."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINES = re.findall(r"^\$ (.+)$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
# Run by other proofs, or by whoever runs this one.
ELSEWHERE = ("uv sync", "uv run invoke", "uv run main.py quickstart", "uv run main.py ui")


def test_the_readme_shows_the_two_commands_first() -> None:
    assert LINES[:2] == ["uv sync --locked", "uv run main.py quickstart"]


def test_every_other_command_works(tmp_path: Path, shared_data: Path) -> None:
    places = {
        "/path/to/chest_xray": shared_data / "chest_xray",
        "/path/to/pictures": shared_data / "chest_xray/val",
    }
    commands = [line for line in LINES if not line.startswith(ELSEWHERE)]
    assert len(commands) >= 4
    for line in commands:
        words = [_placed(word, places) for word in shlex.split(line)]
        assert words[:3] == ["uv", "run", "main.py"], line
        command = [sys.executable, str(ROOT / "main.py"), *words[3:]]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    assert len(list((tmp_path / "overlays").iterdir())) == 16


def _placed(word: str, places: dict[str, Path]) -> str:
    for shown, real in places.items():
        word = word.replace(shown, str(real))
    return word


@pytest.mark.parametrize("line", LINES)
def test_no_command_names_a_file_that_is_not_there(line: str) -> None:
    for word in shlex.split(line):
        if word.endswith(".py"):
            assert (ROOT / word).is_file()
