"""Two processes that torchrun starts make one run, and a finished one is not begun again."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TINY = (
    "data=phantom",
    "debug=fast",
    "data.phantom.images=200",
    "data.phantom.size=32",
    "model.options.width=4",
    "trainer.batch_size=16",
    "trainer.accelerator=cpu",
    "evaluate.resamples=100",
    "run.dir=run",
)


def pulmo(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *words]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.skipif(sys.platform != "linux", reason="gloo is tried on Linux")
def test_two_processes_make_one_run(tmp_path: Path) -> None:
    main = str(ROOT / "main.py")
    assert pulmo(tmp_path, main, "data", *TINY[:-1]).returncode == 0
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", main)
    done = pulmo(tmp_path, *torchrun, "train", *TINY)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("model  phantom-demo@") == 1
    again = pulmo(tmp_path, *torchrun, "train", "--resume", *TINY)
    assert again.returncode == 0, again.stderr
    assert again.stdout == done.stdout
    named = pulmo(tmp_path, *torchrun, "train", "--resume", TINY[-1])
    assert named.returncode == 0, named.stderr
    assert named.stdout == done.stdout
