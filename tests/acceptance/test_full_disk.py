"""A disk that fills up or fails at any call of a save: an earlier checkpoint always loads.

Saves are forked from this process, which has torch loaded; strace refuses one call of each.
"""

import errno
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import torch

from pulmo.errors import ModelError
from pulmo.models.checkpoint import AtomicCheckpointIO, newest

CALLS = "openat,write,fsync,rename,close,mkdir,lseek"
STATE = {"weights": torch.arange(300_000, dtype=torch.float32)}
WHOLE, REFUSED = 0, 3


def save_in_child(folder: Path, inject: str | None) -> tuple[int, str]:
    """Save checkpoint 2 in a child, with strace's `inject`: the child's code and the trace."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(writing)
        os.read(reading, 1)
        code = 70
        try:
            AtomicCheckpointIO().save_checkpoint({**STATE, "step": 2}, folder / "000000002.ckpt")
            code = WHOLE
        except ModelError as error:
            told = "cannot be written" in str(error) and "earlier ones are whole" in str(error)
            code = REFUSED if told else 71
        finally:
            os._exit(code)
    os.close(reading)
    trace = folder.with_suffix(".trace")
    command = ["strace", "-y", "-qq", "-o", str(trace), "-p", str(child), "-e", f"trace={CALLS}"]
    with subprocess.Popen([*command, *(("-e", inject) if inject else ())]) as tracer:
        while "TracerPid:\t0" in Path(f"/proc/{child}/status").read_text():
            time.sleep(0.005)
        os.close(writing)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        tracer.wait()
    return code, trace.read_text()


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO], ids=["ENOSPC", "EIO"])
def test_an_earlier_checkpoint_survives_every_failing_call(tmp_path: Path, error: int) -> None:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed: apt-get install strace")
    name = errno.errorcode[error]
    AtomicCheckpointIO().save_checkpoint(STATE, tmp_path / "plain" / "warm.ckpt")  # imports
    code, trace = save_in_child(tmp_path / "plain", None)
    assert code == WHOLE
    lines = [line.split("(", 1)[0] for line in trace.splitlines() if "(" in line]
    refused = 0
    for call in CALLS.split(","):
        for when in range(1, lines.count(call) + 1):
            folder = tmp_path / f"{call}-{when}"
            first = folder / "000000001.ckpt"
            AtomicCheckpointIO().save_checkpoint({**STATE, "step": 1}, first)
            before = first.read_bytes()
            code, trace = save_in_child(folder, f"inject={call}:error={name}:when={when}")
            assert "INJECTED" in trace
            assert code in {WHOLE, REFUSED}, trace
            refused += code == REFUSED
            assert first.read_bytes() == before
            found = newest(folder)
            assert found is not None
            loaded = AtomicCheckpointIO().load_checkpoint(found)
            assert torch.equal(loaded["weights"], STATE["weights"])
            assert loaded["step"] == int(found.stem)
    assert refused >= 9
