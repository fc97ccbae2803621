"""The quick suite's state machine, run long: no sequence of verbs serves what is untested."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_three_hundred_long_sequences_of_verbs_leave_the_registry_right() -> None:
    environment = os.environ | {"PULMO_STATE_EXAMPLES": "300", "PULMO_STATE_STEPS": "60"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-k", "sqlite", "tests/unit/registry/test_state.py"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
