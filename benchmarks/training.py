"""What training costs, as ratios in one run: `python -m benchmarks.training [KEY=VALUE …]`.

Beside the plain PyTorch + timm loop of `benchmarks.plain`. Every measurement stores its rows in
`benchmarks/results/training.json`; `benchmarks.page` makes `docs/performance.md` of them.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.arms import LEAD_S, ROOT, Client, Process, Window, rounds
from benchmarks.ratios import Row, bound, ratio
from benchmarks.serving import PICTURES, machine, pictures
from benchmarks.serving import Plan as ServingPlan
from benchmarks.serving import t5 as decoding

RESULTS = ROOT / "benchmarks/results/training.json"
NETWORK = ("model=efficientnet_lite0", "recipe=finetune")
WHOLE = 3  # times that T4 and the sweep are run
TARGET = 0.98
AGREEMENT = 1e-3  # of the first losses of loops that do the same
GPU = "trainer.accelerator=gpu"


@dataclass(frozen=True)
class Plan:
    """What is measured, on what, for how long."""

    overrides: tuple[str, ...]
    network: tuple[str, ...]  # of the loops that are held against each other
    count: int
    seconds: float
    target: float
    bundle: Path | None
    large: Path | None
    on_gpu: bool


class Loop:
    """A training loop with all cores, held still while another one is measured."""

    def __init__(self, name: str, overrides: Sequence[str]) -> None:
        words = [sys.executable, "-m", "benchmarks.training_loops", name, *overrides]
        self.process = _Unpinned(words)

    def losses(self) -> list[float]:
        """Those of its first steps."""
        return list(self.process.ask({"do": "answers"})["losses"])

    def window(self, seconds: float) -> Window:
        """As many steps as fit."""
        self.process.ask({"do": "window", "seconds": LEAD_S})
        return Window(**self.process.ask({"do": "window", "seconds": seconds}))


class _Unpinned(Process):
    def __init__(self, command: Sequence[object]) -> None:
        self._process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
            env=_environment(),
            start_new_session=True,
        )


def _environment() -> dict[str, str]:
    """As a person's: nothing is said of threads, and configs beside the caller count."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def loops(plan: Plan) -> list[Row]:
    """T1 to T3: pictures a second, loop beside loop."""
    overrides = (*plan.network, "recipe.frozen_norms=false", *plan.overrides)
    arms: dict[str, Any] = {}
    try:
        for name in ("ours", "again", "hand", "synthetic", "plain"):
            arms[name] = Loop("ours" if name == "again" else name, overrides)
        told = list(rounds(arms, plan.count, plan.seconds, turns=1))  # steps are long
        _same(arms["ours"].losses(), arms["hand"].losses())
    finally:
        for arm in arms.values():
            arm.process.end()
    where, limit = ("GPU", 4.0) if plan.on_gpu else ("CPU", 1.1)
    return [
        ratio("A/A", "training ÷ the same again", told, "ours", "again"),
        ratio("T1", f"training ÷ plain PyTorch + timm, {where}", told, "ours", "plain", limit),
        ratio("T2", "training ÷ a loop written by hand, cached data", told, "ours", "hand", 0.97),
        ratio("T3", "training on pictures ÷ on one batch", told, "ours", "synthetic", 0.97),
    ]


def _same(found: Sequence[float], expected: Sequence[float]) -> None:
    for one, other in zip(found, expected, strict=False):  # the fewer that both have
        if abs(one - other) > AGREEMENT * max(abs(other), 1e-6):
            raise SystemExit(f"the loops disagree: losses {found} and {expected}")


def t4(plan: Plan) -> list[Row]:
    """Wall time to the AUROC, whole trainings by turns: `train` as it is, a probe, and the peer."""
    own = {"train": (), "train recipe=probe": ("recipe=probe",)}
    if plan.network != NETWORK:
        own = {"train": plan.network}
    draw, took = Random(0), {name: list[float]() for name in (*own, "plain")}
    for number in range(_times(plan)):
        for name in draw.sample(list(took), len(took)):
            kind = "target" if name in own else "plain-target"
            network = own.get(name, plan.network)
            told = _whole(kind, (*network, *plan.overrides), plan.target)
            took[name].append(told["seconds"] or float("inf"))
            print(f"  run {number + 1}, {name}: {told}", file=sys.stderr)
    return [_faster(name, took[name], took["plain"], plan.target) for name in own]


def _times(plan: Plan) -> int:
    return WHOLE if plan.count > 1 else 1


def _faster(name: str, own: Sequence[float], plain: Sequence[float], target: float) -> Row:
    if float("inf") in own:
        raise SystemExit(f"{name} never reached AUROC {target}")
    pairs = list(zip(own, plain, strict=True))
    notes = "; ".join(f"{one:.0f} s and {other:.0f} s" for one, other in pairs)
    what = f"{name}: time to AUROC {target} ÷ plain fine-tune's"
    row = bound("T4", what, [one / other for one, other in pairs], 0.25, "less")
    return replace(row, notes=[notes])


def _whole(name: str, overrides: Sequence[str], target: float) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.training_loops", name, *overrides]
    done = subprocess.run(
        [*command, "--target", str(target)],
        cwd=ROOT,
        env=_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{name} ended with {done.returncode}: {done.stderr[-2000:]}")
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def t5(plan: Plan) -> list[Row]:
    """Decoding by scale, as `benchmarks.serving` measures it."""
    if plan.bundle is None or plan.large is None:
        raise SystemExit("T5 needs --model and --large")
    large = pictures(plan.large, PICTURES)
    serving = ServingPlan(plan.bundle, [], large, plan.count, plan.seconds)
    client = Client()
    try:
        return decoding(serving, client)
    finally:
        client.end()


def workers(plan: Plan) -> list[Row]:
    """Two one-thread workers of a sweep ÷ one, in trials a second per worker."""
    trials = 4 if plan.count > 1 else 2
    given = ["debug=fast", "trainer.threads=1", "sweep.prune=false", *plan.overrides]
    if plan.count > 1:  # trials of some seconds each, as long as they are
        given += ["trainer.max_epochs=20", "trainer.patience=null"]
        given += ["model.image_size=64", "model.options.width=16"]
    found = []
    for _ in range(_times(plan)):
        took = {}
        for number in (1, 2):
            with tempfile.TemporaryDirectory() as folder:
                more = (f"run.root={folder}", f"sweep.trials={number * trials}")
                words = ["sweep", "--workers", str(number), *given, *more]
                begun = time.perf_counter()
                pulmo(words)
                took[number] = time.perf_counter() - begun
        found.append(took[1] / took[2])
        print(f"  {took[1]:.1f} s and {took[2]:.1f} s for twice as many", file=sys.stderr)
    return [bound("sweep", "two one-thread workers ÷ one, each", found, 0.8, "more")]


def finetune(plan: Plan) -> list[Row]:
    """A whole fine-tune at 224 pixels and its validation figures."""
    with tempfile.TemporaryDirectory() as folder:
        given = (*plan.network, "model.image_size=224", *plan.overrides, f"run.dir={folder}/run")
        begun = time.perf_counter()
        told = json.loads(pulmo(["train", "--json", *given]))
        took = time.perf_counter() - begun
    seconds = Row("224", "a fine-tune at 224 pixels, seconds", took, took, took, unit="s")
    rows = [seconds]
    for name in ("auroc", "accuracy"):
        one = told["metrics"]["val"][name]
        what = f"its {name} on validation data"
        rows.append(Row("224", what, one["value"], one["low"], one["high"], unit=""))
    return rows


def pulmo(words: Sequence[str]) -> str:
    """What the command line prints; its fault ends this process."""
    command = [sys.executable, str(ROOT / "main.py"), *words]
    done = subprocess.run(
        command, cwd=ROOT, env=_environment(), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


MEASURES: dict[str, Callable[[Plan], list[Row]]] = {
    "loops": loops,
    "T4": t4,
    "T5": t5,
    "sweep": workers,
    "224": finetune,
}
# --quick: drawn pictures and a tiny network; does it run?
QUICK = ("data=phantom", "data.phantom.images=240", "data.phantom.size=64")
SMALL = ("model=small_cnn", "recipe=finetune", "model.options.width=4", "trainer.max_epochs=2")
ON_CPU, ON_GPU = ("loops", "T4", "sweep"), ("loops", "T4", "224")


def store(name: str, rows: Sequence[Row], plan: Plan, path: Path) -> None:
    """Put rows in the place of those that were measured before, apart for CPU and GPU.

    What ran whole has no `seconds`.
    """
    runs = {"T4": _times(plan), "sweep": _times(plan), "224": 1}
    known = json.loads(path.read_text("utf-8")) if path.is_file() else {"measured": {}}
    known["machine"] = {**machine(), **_gpu()} if plan.on_gpu else machine()
    known["measured"][f"{name}, GPU" if plan.on_gpu else name] = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "rounds": runs.get(name, plan.count),
        "seconds": None if name in runs else plan.seconds,
        "network": " ".join(plan.overrides) or "the default data set",
        "rows": [row.document() for row in rows],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n", "utf-8")


def _gpu() -> Mapping[str, str]:
    import torch

    return {"GPU": torch.cuda.get_device_name()}


def main() -> None:
    """Measure what is asked for and store it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("overrides", nargs="*", help="of the data set, such as data=phantom")
    parser.add_argument("--only", help=f"some of {','.join(MEASURES)}")
    parser.add_argument("--model", type=Path, help="a bundle, for T5")
    parser.add_argument("--large", type=Path, help="JPEG files of full resolution, for T5")
    parser.add_argument("--gpu", action="store_true", help="on the GPU: T1 to T4, and 224 pixels")
    parser.add_argument("--target", type=float, default=TARGET, help="AUROC of T4: %(default)s")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--quick", action="store_true", help="drawn pictures: does it run?")
    parser.add_argument("--results", type=Path, default=RESULTS)
    said = parser.parse_args()
    overrides, target = tuple(said.overrides), said.target
    if said.quick:
        overrides, target = (*QUICK, "model.image_size=32", *overrides), min(target, 0.3)
    if said.quick or any(text.startswith("data.root=") for text in overrides):
        pulmo(["data", *overrides])  # made here; otherwise it must be there
    where = GPU if said.gpu else "trainer.accelerator=cpu"
    usual = ON_GPU if said.gpu else (*ON_CPU, *(["T5"] if said.model and said.large else []))
    plan = Plan(
        (*overrides, where),
        SMALL if said.quick else NETWORK,
        1 if said.quick else said.rounds,
        0.5 if said.quick else said.seconds,
        target,
        said.model and said.model.resolve(),
        said.large and said.large.resolve(),
        said.gpu,
    )
    for name in said.only.split(",") if said.only else usual:
        print(f"{name}: {(MEASURES[name].__doc__ or '').strip()}", file=sys.stderr)
        rows = MEASURES[name](plan)
        store(name, rows, plan, said.results)
        for row in rows:
            print(f"{row.goal}  {row.what}: {row.value:.3f} [{row.low:.3f}, {row.high:.3f}]")


if __name__ == "__main__":
    main()
