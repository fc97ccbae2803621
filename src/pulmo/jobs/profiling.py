"""Where the time of a training goes: a table that names the bottleneck, and traces for Perfetto."""

import time
from collections import defaultdict
from pathlib import Path

from pytorch_lightning.profilers import PassThroughProfiler, Profiler, SimpleProfiler
from torch.profiler import ProfilerActivity, profile, record_function, schedule

from pulmo.data import files
from pulmo.logs import get_logger

log = get_logger(__name__)

FOLDER, TABLE = "profile", "profile.txt"
WARM_UP, TRACED = 1, 8  # steps before a trace, and in it
EMBEDDING, TRAINING = "embedding", "training"
_STEPS = {EMBEDDING: EMBEDDING, "run_training_batch": TRAINING}  # an action → the phase it steps
# Lightning's names of actions, by a word in them, in the words of the table; the first that fits.
_PARTS = (
    ("augmentation", "augmentation"),
    ("forward", "forward"),
    ("waiting for the device", "waiting for the device"),
    ("backward", "backward"),
    ("optimizer_step", "optimiser"),
    ("reading a batch", "reading a batch"),
    ("_dataloader_next", "reading a batch"),
    ("val_next", "validation"),
    ("validation", "validation"),
    ("batch_to_device", "copying to the device"),
    ("Keeper", "keeping checkpoints"),
    (EMBEDDING, "forward"),
)
_REST = "the rest of the loop"


def make(kind: str | None, run_dir: Path, *, gpu: bool) -> Profiler:
    """The profiler that `trainer.profiler` names; what it finds goes to the run's folder."""
    if kind == "pytorch":
        return Traced(run_dir / FOLDER, gpu=gpu)
    if kind == "simple":
        return SimpleProfiler(dirpath=run_dir, filename="profile")
    return PassThroughProfiler()


class Traced(Profiler):
    """Own seconds of every part of each phase, and some steps of it as a trace.

    A trace is the JSON that Perfetto (ui.perfetto.dev) and chrome://tracing open. Actions nest;
    what an inner one takes is not counted for the outer one.
    """

    def __init__(self, folder: Path, *, gpu: bool) -> None:
        super().__init__()
        self.folder, self._gpu = folder, gpu
        self._open: list[tuple[str, float, record_function]] = []
        self._inner: list[float] = [0.0]
        self._phase: str | None = None
        self._trace: profile | None = None
        self._heaviest: dict[str, str] = {}
        self._operations: dict[str, str] = {}
        self._seconds: dict[str, dict[str, float]] = {}
        self._steps: dict[str, int] = defaultdict(int)

    def start(self, action_name: str) -> None:
        """Begin an action inside the one that is open."""
        phase = _STEPS.get(action_name)
        if phase is not None and phase != self._phase:
            self._begin(phase)
        mark = record_function(action_name)
        mark.__enter__()  # type: ignore[no-untyped-call]
        self._open.append((action_name, time.perf_counter(), mark))
        self._inner.append(0.0)

    def stop(self, action_name: str) -> None:
        """End the innermost open action, which must be this one."""
        name, begun, mark = self._open.pop()
        assert name == action_name
        mark.__exit__(None, None, None)
        took = time.perf_counter() - begun
        own = took - self._inner.pop()
        self._inner[-1] += took
        if self._phase is None:
            return
        self._seconds[self._phase][_part(name)] += own
        if name in _STEPS:
            self._steps[self._phase] += 1
            if self._trace is not None:
                self._trace.step()

    def describe(self) -> None:
        """Write the table and tell the bottleneck; Lightning calls this when a training ends."""
        self._end()
        self._phase = None
        if not self._seconds:
            return  # no step was left to do
        told = [self._table(phase) for phase in self._seconds]
        files.write(self.folder / TABLE, ("\n\n".join(told) + "\n").encode())
        for text in told:
            log.info("%s", text.splitlines()[-1])
        log.info("the table and traces for ui.perfetto.dev are in %s", self.folder)

    def _begin(self, phase: str) -> None:
        self._end()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._phase, self._seconds[phase] = phase, defaultdict(float)
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self._gpu else [])]
        steps = schedule(wait=0, warmup=WARM_UP, active=TRACED, repeat=1)
        self._trace = profile(activities=activities, schedule=steps, on_trace_ready=self._keep)
        self._trace.start()

    def _end(self) -> None:
        if self._trace is not None:
            self._trace.stop()
            self._trace = None

    def _keep(self, trace: profile) -> None:
        assert self._phase is not None
        trace.export_chrome_trace(str(self.folder / f"{self._phase}.json"))
        averages = trace.key_averages()
        order = "self_cuda_time_total" if self._gpu else "self_cpu_time_total"
        took = "self_device_time_total" if self._gpu else "self_cpu_time_total"
        operations = [one for one in averages if one.key.startswith("aten::")]
        if operations:
            self._heaviest[self._phase] = max(operations, key=lambda one: getattr(one, took)).key
        self._operations[self._phase] = averages.table(sort_by=order, row_limit=15)

    def _table(self, phase: str) -> str:
        parts = sorted(self._seconds[phase].items(), key=lambda one: -one[1])
        whole = max(sum(seconds for _, seconds in parts), 1e-9)
        lines = [f"{phase}: {whole:.2f} s in {self._steps[phase]} steps", ""]
        lines += [f"  {name:<24}{s:>9.2f} s{s / whole:>8.1%}" for name, s in parts]
        if phase in self._operations:
            lines += ["", f"{TRACED} of these steps by operation:", self._operations[phase]]
        heaviest = self._heaviest.get(phase)
        most = f", most of it {heaviest}" if heaviest else ""
        name, seconds = parts[0]
        lines.append(f"bottleneck of the {phase}: {name}, {seconds / whole:.0%} of the time{most}")
        return "\n".join(lines)


def _part(action: str) -> str:
    return next((part for word, part in _PARTS if word in action), _REST)
