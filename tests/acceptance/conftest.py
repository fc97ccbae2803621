"""Real commands in an empty folder, real data where `PULMO_SHARED_DATA` points to it."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    folder = os.environ.get("PULMO_SHARED_DATA")
    if not folder:
        pytest.skip("PULMO_SHARED_DATA is not set: the real data sets are not at hand")
    return Path(folder).resolve()


@pytest.fixture(scope="session")
def pulmo() -> Command:
    """`pulmo(folder, "train", …)`: the command line as a person runs it, state below `folder`."""

    def run(
        folder: Path, *arguments: str, expect: int = 0, timeout: float = 900
    ) -> "subprocess.CompletedProcess[str]":
        done = subprocess.run(
            [sys.executable, str(ROOT / "main.py"), *arguments],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == expect, (
            f"{arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
        )
        return done

    return run


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Print a proof's figures past pytest's capturing."""

    def told(text: str) -> None:
        with capsys.disabled():
            sys.stdout.write(f"\n{text}\n")

    return told


@pytest.fixture(scope="session")
def xray_home(tmp_path_factory: pytest.TempPathFactory, shared_data: Path, pulmo: Command) -> Path:
    """A folder with the children's X-rays and the default recipe trained on them once, in `run`."""
    folder = tmp_path_factory.mktemp("xray")
    pulmo(folder, "data", f"data.root={shared_data / 'chest_xray'}")
    pulmo(folder, "train", "run.dir=run", timeout=1800)
    return folder
