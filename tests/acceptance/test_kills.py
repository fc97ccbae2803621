"""Fifty kills of a training, wherever it hurts: every resume ends in the same bytes.

The jobs are forked from this process, which has torch loaded; strace kills each at a chosen call.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from pulmo.config import settings
from pulmo.core.bundle import verify
from pulmo.main import run
from pulmo.wiring import open_registry

TINY = (
    "data=phantom",
    "debug=fast",
    "data.phantom.images=200",
    "data.phantom.size=32",
    "evaluate.resamples=100",
    "model.options.width=4",
    "trainer.max_epochs=2",
    "trainer.batch_size=16",
    "trainer.threads=1",
    "trainer.checkpoint_every=4",
)
REFUSED = 3  # the staged tests let no model pass that has learned so little
CHAINS = 5
KILL, TERM = signal.SIGKILL, signal.SIGTERM

STEPS = (4, 8, 10, 12, 16, 20)  # at which checkpoints are taken

Point = tuple[str, str, str, int]  # phase, system call, path below the run, which of them


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed: apt-get install strace")
    for name in ("pulmo.jobs.fit", "pulmo.jobs.bundling", "pulmo.jobs.plots", "pulmo.wiring"):
        __import__(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


def start(arguments: tuple[str, ...]) -> tuple[int, int]:
    """A child that runs `pulmo ARGUMENTS` once its pipe is closed: its id and the pipe."""
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(reading)
        return child, writing
    os.close(writing)
    os.read(reading, 1)
    output = os.open("output.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.argv = ["pulmo", *arguments]
    code = 70
    try:
        run()
    except SystemExit as ended:
        code = int(ended.code or 0)
    finally:
        os._exit(code)


def ended(child: int) -> int:
    """The exit code, negative where a signal killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def pulmo(*arguments: str) -> int:
    child, pipe = start(arguments)
    os.close(pipe)
    return ended(child)


def killed(number: int, inject: tuple[str, ...], *arguments: str) -> tuple[int, str]:
    """Run until strace's filter `inject` sends the signal: the exit code and the trace."""
    child, pipe = start(arguments)
    trace = Path("trace.txt")
    command = ["strace", "-y", "-qq", "-o", str(trace), "-p", str(child), *inject]
    with subprocess.Popen(command) as tracer:
        status = Path(f"/proc/{child}/status")
        while "TracerPid:\t0" in status.read_text():
            time.sleep(0.01)
        os.close(pipe)
        code = ended(child)
        tracer.wait()
    assert code in {-number, 128 + number}, Path("output.log").read_text()
    return code, trace.read_text()


def points(chain: int) -> list[Point]:
    files = ("model.onnx", "weights.safetensors", "reference.npz", "bundle.json", "SHA256SUMS")
    part = "checkpoints/.{next:09d}.ckpt.part"
    return [
        ("start", "fsync", "", 1 + chain % 3),
        ("start", "fsync", "", 1),
        ("save", "fsync", part, 1),
        ("save", "rename", part, 1),
        ("save", "fsync", "checkpoints", 1),
        ("save", "fsync", part, 1),
        ("export", "fsync", f"bundle.part/{files[chain]}", 1),
        ("export", "fsync", f"bundle.part/{files[-1 - chain]}", 1),
        ("export", "rename", "bundle.part", 1),
    ]


def due(run_dir: Path) -> int:
    """The step at which the next checkpoint will be taken."""
    taken = [int(path.stem) for path in run_dir.glob("checkpoints/*.ckpt")]
    return next((step for step in STEPS if step > max(taken, default=0)), 0)


def made(run_dir: Path) -> tuple[bytes, bytes]:
    bundle = run_dir / "bundle"
    return (bundle / "weights.safetensors").read_bytes(), (bundle / "model.onnx").read_bytes()


def test_fifty_kills_change_no_byte(folder: Path) -> None:
    assert pulmo("data", *TINY) == 0
    assert pulmo("train", *TINY, f"run.dir={folder}/unbroken") == 0
    expected = made(folder / "unbroken")
    count: Counter[tuple[str, str]] = Counter()
    for chain in range(CHAINS):
        run_dir = folder / f"run-{chain}"
        again = ("train", *TINY, f"run.dir={run_dir}", "--resume")
        for index, (phase, call, path, when) in enumerate(points(chain)):
            number = (KILL, TERM)[(chain + index) % 2]
            where = str(run_dir / path.format(next=due(run_dir)))
            inject = f"inject={call}:signal={number.name}:when={when}"
            code, _ = killed(number, ("-P", where, "-e", f"trace={call}", "-e", inject), *again)
            assert code != 0
            count[phase, number.name] += 1
        assert pulmo(*again) == 0, Path("output.log").read_text()
        assert made(run_dir) == expected

    done = folder / "run-0"
    again = ("train", *TINY, f"run.dir={done}", "--stage", "--resume")
    for registry in range(2):
        os.environ["PULMO_REGISTRY_URL"] = f"sqlite:///models-{registry}/registry.db"
        os.environ["PULMO_FILES_URL"] = f"models-{registry}/bundles"
        for index, when in enumerate((8, 7, 6, 5, 4)):
            number = (KILL, TERM)[(registry + index) % 2]
            calls = "fsync,fdatasync,rename"
            inject = f"inject={calls}:signal={number.name}:when={when}"
            _, trace = killed(number, ("-e", f"trace={calls}", "-e", inject), *again)
            calls_made = [line for line in trace.splitlines() if "(" in line]
            assert f"models-{registry}" in calls_made[-1], trace
            count["registration", number.name] += 1
        assert pulmo(*again) == REFUSED, Path("output.log").read_text()
        assert made(done) == expected
        (version,) = open_registry(settings.load()).versions("phantom-demo")
        assert version.model_digest == verify(done / "bundle").info.model_digest
    assert sum(count.values()) >= 50
    for phase in ("start", "save", "export", "registration"):
        assert count[phase, "SIGKILL"] + count[phase, "SIGTERM"] >= 5
