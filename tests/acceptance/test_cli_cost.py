"""The command line is cheap: help costs little, a misspelt key answers without torch."""

import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAIRS = 12
LIMIT = 1.5

PLAIN = """
import typer
app = typer.Typer()
@app.command()
def one(): pass
@app.command()
def two(): pass
app()
"""

PROBE = """
import sys
sys.argv[:] = ["pulmo", *sys.argv[1:]]
from pulmo.main import run
try:
    run()
finally:
    heavy = {"torch", "pytorch_lightning", "timm", "matplotlib", "onnxruntime", "hydra"}
    print(*sorted(heavy & set(sys.modules)))
"""


def cpu_seconds(*command: str) -> float:
    """User and system time of one process, which other processes disturb less than a clock."""
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_utime + usage.ru_stime


def test_help_costs_little_more_than_that_of_an_empty_application(tmp_path: Path) -> None:
    plain = tmp_path / "plain.py"
    plain.write_text(PLAIN)
    ours, theirs = (str(ROOT / "main.py"), "--help"), (str(plain), "--help")
    cpu_seconds(*ours), cpu_seconds(*theirs)  # bytecode is written once
    ratios = []
    for pair in range(PAIRS):
        if pair % 2:
            below = cpu_seconds(*theirs)
            ratios.append(cpu_seconds(*ours) / below)
        else:
            above = cpu_seconds(*ours)
            ratios.append(above / cpu_seconds(*theirs))
    assert statistics.median(ratios) <= LIMIT, sorted(ratios)


@pytest.mark.parametrize(
    ("override", "near"),
    [
        ("trainer.max_epoch=3", "trainer.max_epochs"),
        ("modle=small_cnn", "model"),
        ("model=resnet19", "model=resnet18"),
    ],
)
@pytest.mark.parametrize("verb", ["data", "train", "evaluate", "quickstart"])
def test_a_misspelt_name_answers_before_anything_heavy_is_imported(
    verb: str, override: str, near: str
) -> None:
    command = [sys.executable, "-c", PROBE, verb, override]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert f"did you mean '{near}'" in done.stderr
    assert done.stdout.split() == []


def test_a_wrong_value_answers_without_torch() -> None:
    command = [sys.executable, "-c", PROBE, "train", "trainer.max_epochs=abc"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "trainer.max_epochs=abc" in done.stderr
    assert done.stdout.split() == ["hydra"]
