"""Results to `docs/performance.md` and its plot: `python -m benchmarks.page`."""

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.arms import ROOT
from benchmarks.serving import RESULTS
from benchmarks.training import RESULTS as TRAINING

PAGE, PLOT = ROOT / "docs/performance.md", ROOT / "docs/images/serving.png"
IMAGE = f"images/{PLOT.name}"
GREEN, RED, GREY = "#0072b2", "#d55e00", "#888888"  # colour-blind eyes tell them apart
HEAD = """# Performance

What serving costs, as ratios: times of one machine say little on another. Every figure is the
median over rounds, in which arms that are compared take five turns each in random order, alone on
one core, the client on another; the interval is a 95 % bootstrap, and a goal counts as reached on
its worse bound. Arms that answer are first asked for the same pictures and must agree (to 1e-4; to
0.02 where large pictures are scaled by their decoder, to 0.1 where one is int8). "CPU" is the same
ratio in CPU-seconds a request, which other load on the machine disturbs less. Latency counts from
the time a request was meant to be sent.

Made again by one command (an hour and a half on an idle machine; `--only S1,S3` measures some of
it anew):

```console
$ uv sync --locked --group bench --group openvino
$ uv run main.py export --int8 --run RUN
$ uv run invoke benchmark-serving \\
    "--model RUN/bundle --int8 RUN/bundle-int8 --pictures FOLDER --large FOLDER"
```
"""
PEERS = """
Peers, all with one thread and the same weights, are in `benchmarks/peers.py`: what tutorials show,
and what each one's documentation recommends together with our engine and decoder. All but one
answer with probabilities alone, which is less work than Pulmo's answer: a decision, a look whether
the picture is one the model can judge, the digest of what was sent, and a receipt in the log. "The
same answer" is a peer that gives all this but the receipt, and knows neither keys nor limits. What
the log needs is loaded after a server is ready, beside its first requests. Where no engine is named
ours is ONNX Runtime, as it is by itself where OpenVINO is less than 1.15 times as fast (S6).

"int8" is the model that `export --int8` makes of the same run, beside peers with the float one
([decision 0019](decisions/0019-later-layers-in-whole-numbers.md)).

Peers as tutorials show them give ONNX Runtime the bundle's file as it is. That of EfficientNet-Lite
takes 1.2 times as long as one that PyTorch's newer exporter writes, or as itself once ONNX Runtime
is told that there is one picture, as Pulmo and the tuned peers do: who exports so sees less of a
difference ([decision 0018](decisions/0018-one-picture-at-a-time.md)).
"""


TRAINING_HEAD = """
## Training

Loops that train beside each other in random order with all cores, on the same files, split,
network, batch and precision; the peer is `benchmarks/plain.py`, a plain PyTorch + timm fine-tune
with channels-last. T4 is run whole, three times. Made by `uv run invoke benchmark-training`; with
`--arguments "--gpu"` on a machine with one.
"""


def page(results: dict[str, Any], training: dict[str, Any] | None = None) -> str:
    """The page, as Markdown; what training costs below what serving costs."""
    told = [_part(HEAD, PEERS, results, f"\n![Ratios with their intervals and goals]({IMAGE})\n\n")]
    if training is not None:
        told.append(_part(TRAINING_HEAD, "", training, "\n"))
    return "".join(told)


def _part(head: str, peers: str, results: dict[str, Any], plot: str) -> str:
    told = [head]
    if machine := results.get("machine"):
        told.append("\nMeasured on " + "; ".join(f"{k} {v}" for k, v in machine.items()) + ".\n")
    told += [peers, plot]
    told.append("| | what | median | 95 % | goal | CPU | |\n|---|---|---|---|---|---|---|\n")
    for name in sorted(results["measured"]):
        told += [_line(row) for row in results["measured"][name]["rows"]]
    told.append("\n")
    for name, one in sorted(results["measured"].items()):
        seconds, rounds = one["seconds"], one["rounds"]
        whole = "whole run" if rounds == 1 else "whole runs"
        done = whole if seconds is None else f"rounds of {seconds:g} s"
        told.append(f"- {name}: {rounds} {done}, {one['network']}, {one['at'][:10]}.\n")
    return "".join(told)


def _line(row: dict[str, Any]) -> str:
    mark = {None: "", True: "reached", False: "**not reached**"}[row["reached"]]
    sign = {"more": "≥", "less": "≤"}[row["better"]]
    goal = "" if row["limit"] is None else f"{sign} {row['limit']:g}"
    cpu = "" if row["cpu"] is None else f"{row['cpu']:.2f}"
    unit = "" if row["unit"] == "×" else f" {row['unit']}"
    notes = f" ({'; '.join(row['notes'])})" if row["notes"] else ""
    spread = f"{row['low']:.3g} – {row['high']:.3g}"
    value = f"{row['value']:.3g}{unit}"
    cells = (row["goal"], row["what"] + notes, value, spread, goal, cpu, mark)
    return f"| {' | '.join(cells)} |\n"


def draw(results: dict[str, Any], path: Path) -> None:
    """Every ratio that has a goal, divided by it, with its interval."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [
        row
        for name in sorted(results["measured"])
        for row in results["measured"][name]["rows"]
        if row["limit"]
    ]
    figure, axes = pyplot.subplots(figsize=(9, 0.6 + 0.3 * len(rows)), layout="constrained")
    for place, row in enumerate(reversed(rows)):
        more = row["better"] == "more"
        low, value, high = (
            (row[key] / row["limit"]) if more else (row["limit"] / max(row[key], 1e-9))
            for key in (("low", "value", "high") if more else ("high", "value", "low"))
        )
        colour = GREEN if row["reached"] else RED
        axes.plot([low, high], [place, place], color=colour, linewidth=2)
        axes.plot([value], [place], "o", color=colour, markersize=4)
    axes.axvline(1, color=GREY, linewidth=1)
    labels = [f"{row['goal']} {row['what']}" for row in reversed(rows)]
    axes.set_yticks(range(len(rows)), labels, fontsize=7)
    axes.set_xlabel("measured ÷ goal; right of the line is better")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, metadata={"Software": None})
    pyplot.close(figure)


def _read(path: Path) -> dict[str, Any] | None:
    known: dict[str, Any] | None = json.loads(path.read_text("utf-8")) if path.is_file() else None
    return known


def main() -> None:
    """Write both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--training", type=Path, default=TRAINING)
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--plot", type=Path, default=PLOT)
    said = parser.parse_args()
    results = _read(said.results) or {"measured": {}}
    training = _read(said.training)
    said.page.write_text(page(results, training), "utf-8")
    draw(results, said.plot)


if __name__ == "__main__":
    main()
