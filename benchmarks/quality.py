"""What recipes are worth over several seeds: `python -m benchmarks.quality --recipe NAME "…"`.

Each is trained by the command line and measured on validation data and on the official test. A
model is asked about the test once: a digest that stands in the results is not measured again.
`benchmarks.quality_page` makes `docs/experiments.md` of `benchmarks/results/quality.json`.
"""

import argparse
import json
import shlex
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.arms import ROOT
from benchmarks.serving import machine
from benchmarks.stored import QUALITY, changing, origin, read
from benchmarks.training import pulmo

RUNS = ROOT / "runs/quality"
TOOK = "took.json"  # in a run folder: seconds and overrides of the command
SEEDS = 5
REFERRED = 0.1  # share of answers left to a human in Q4
KEPT = {
    "val": ("auroc", "accuracy", "ece"),
    "test": ("auroc", "accuracy", "sensitivity", "specificity", "ece", "accepted",
             "accuracy_accepted"),
}  # fmt: skip

Document = dict[str, Any]


@dataclass(frozen=True)
class Recipe:
    """A name and the overrides that it stands for."""

    name: str
    overrides: tuple[str, ...]

    @classmethod
    def of(cls, words: Sequence[str]) -> "Recipe":
        """From the command line; a name is that of a folder too."""
        name, overrides = words
        if Path(name).name != name:
            raise SystemExit(f"'{name}' names no folder: choose another name")
        return cls(name, tuple(shlex.split(overrides)))

    @property
    def data(self) -> tuple[str, ...]:
        """The overrides that say which pictures."""
        return tuple(word for word in self.overrides if word.startswith(("data=", "data.")))


def train(recipe: Recipe, seed: int, run: Path) -> None:
    """Train into a run folder unless that was done; a training cut short begins anew."""
    if _done(run):
        before = read(run / TOOK).get("overrides")
        if before != list(recipe.overrides):
            raise SystemExit(f"{run} was trained with {before}: choose another --runs")
        return
    shutil.rmtree(run, ignore_errors=True)
    begun = time.perf_counter()
    pulmo(["train", f"seed={seed}", *recipe.overrides, f"run.dir={run}"])
    took = {"seconds": round(time.perf_counter() - begun, 1), "overrides": recipe.overrides}
    (run / TOOK).write_text(json.dumps(took) + "\n", "utf-8")


def _done(run: Path) -> bool:
    return read(run / "run.json").get("status") == "done"


def runs_of(recipe: Recipe, folder: Path) -> list[Path]:
    """The finished runs below FOLDER/NAME."""
    found = [path.parent for path in sorted((folder / recipe.name).glob("*/run.json"))]
    done = [run for run in found if _done(run)]
    if not done:
        raise SystemExit(f"no finished run lies below {folder / recipe.name}")
    return done


def measure(recipe: Recipe, run: Path, path: Path, *, again: bool) -> Document:
    """What the results hold of a run's model, measured now where they hold nothing."""
    digest = str(read(run / "run.json")["model_digest"])
    known: Mapping[str, Document] = read(path).get("opened", {})
    if digest in known and not again:
        print(f"{run}: measured before, at {known[digest]['at']}", file=sys.stderr)
        return known[digest]
    out = run / "evaluation"
    if again or read(out / "metrics.json").get("model_digest") != digest:
        words = ["evaluate", "--model", str(run), "--split", "val", "--split", "test"]
        pulmo([*words, "--out", str(out), "evaluate.robustness=0", *recipe.data])
    times = known.get(digest, {}).get("times", 0) + 1
    told = {"recipe": recipe.name, "times": times, **origin()}
    told |= figures(read(out / "metrics.json"))
    with changing(path) as results:
        results.setdefault("opened", {})[digest] = told
    return told


def figures(document: Document) -> Document:
    """What is kept of an evaluation's `metrics.json`: estimates with their intervals; pictures;
    and what referring a tenth of the test's answers gains, in points of accuracy (Q4).
    """
    splits = document["splits"]
    told: Document = {"data": document["data"], "bundle_digest": document["bundle_digest"]}
    for split, names in KEPT.items():
        told[split] = {name: splits[split]["metrics"][name] for name in names}
        told[split]["pictures"] = splits[split]["counts"]["pictures"]
    told["gain"], told["referred"] = gain(splits["test"]["curves"]["refer"])
    return told


def gain(refer: Mapping[str, Sequence[float]]) -> tuple[float, float]:
    """Points of accuracy that the answers given are better, and the share referred, nearest 10 %.

    The report's curve refers by the model's own rule: as many below the threshold as above.
    """
    shares = refer["referred"]
    place = min(range(len(shares)), key=lambda i: abs(shares[i] - REFERRED))
    points = 100 * (refer["accuracy"][place] - refer["accuracy"][0])
    return round(points, 3), shares[place]


FIGURES: dict[str, Callable[[Document], float | None]] = {
    "test auroc": lambda seed: _value(seed, "test", "auroc"),
    "test accuracy": lambda seed: _value(seed, "test", "accuracy"),
    "test sensitivity": lambda seed: _value(seed, "test", "sensitivity"),
    "test specificity": lambda seed: _value(seed, "test", "specificity"),
    "val auroc": lambda seed: _value(seed, "val", "auroc"),
    "val ece": lambda seed: _value(seed, "val", "ece"),
    "gain": lambda seed: float(seed["gain"]),
    "seconds": lambda seed: seed["seconds"],
}


def _value(seed: Document, split: str, name: str) -> float | None:
    value: float | None = seed[split][name]["value"]
    return value


def summary(seeds: Sequence[Document]) -> Document:
    """Mean, standard deviation and range over the seeds of every figure that all of them have;
    `bounds` are the means of the intervals that each model has by itself.
    """
    told: Document = {}
    for name, figure in FIGURES.items():
        values = [value for value in map(figure, seeds) if value is not None]
        if len(values) < len(seeds):
            continue
        told[name] = {
            "mean": statistics.fmean(values),
            "sd": statistics.stdev(values) if len(values) > 1 else 0.0,
            "low": min(values),
            "high": max(values),
        }
        split, _, metric = name.partition(" ")
        own = [one[split][metric] for one in seeds if metric]
        bounds = [(one["low"], one["high"]) for one in own]
        if bounds and all(None not in pair for pair in bounds):
            told[name]["bounds"] = [statistics.fmean(side) for side in zip(*bounds, strict=True)]
    return told


def judge(recipe: Recipe, asked: argparse.Namespace) -> Document:
    """Every seed of a recipe trained or found, and measured; kept at once."""
    if asked.trained is not None:
        runs = runs_of(recipe, asked.trained)
    else:
        runs = [asked.runs.resolve() / recipe.name / str(seed) for seed in range(asked.seeds)]
        for seed, run in enumerate(runs):
            train(recipe, seed, run)
            print(f"{recipe.name}, seed {seed}: {read(run / TOOK)['seconds']} s", file=sys.stderr)
    seeds = []
    for run in runs:
        opened = measure(recipe, run, asked.results, again=asked.again)
        at, took = read(run / "run.json"), read(run / TOOK).get("seconds")
        seeds.append({**opened, "seed": at["seed"], "model_digest": at["model_digest"],
                      "seconds": took})  # fmt: skip
    told: Document = {"overrides": " ".join(recipe.overrides), **origin(), "seeds": seeds}
    told["summary"] = summary(seeds)
    with changing(asked.results) as results:
        results["machine"] = machine()
        results.setdefault("recipes", {})[recipe.name] = told
    return told


def main() -> None:
    """Judge the recipes asked for and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--recipe", nargs=2, action="append", required=True, metavar=("NAME", "OVERRIDES")
    )
    parser.add_argument("--seeds", type=int, default=SEEDS, help="0 … N - 1: %(default)s")
    parser.add_argument("--runs", type=Path, default=RUNS, help="where NAME/SEED are trained")
    parser.add_argument("--trained", type=Path, help="train nothing: the runs below DIR/NAME")
    parser.add_argument("--again", action="store_true", help="measure known models once more")
    parser.add_argument("--results", type=Path, default=QUALITY)
    asked = parser.parse_args()
    for recipe in [Recipe.of(words) for words in asked.recipe]:
        told = judge(recipe, asked)
        print(f"{recipe.name}: {told['overrides']}")
        for name, one in told["summary"].items():
            spread = f"± {one['sd']:.4f} ({one['low']:.4f} – {one['high']:.4f})"
            print(f"  {name:<18}{one['mean']:.4f} {spread}")


if __name__ == "__main__":
    main()
