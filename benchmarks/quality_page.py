"""Results to `docs/experiments.md` and its plot: `python -m benchmarks.quality_page`."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.arms import ROOT
from benchmarks.page import GREEN, GREY, RED
from benchmarks.stored import EXPERIMENTS, QUALITY, read

PAGE, PLOT = ROOT / "docs/experiments.md", ROOT / "docs/images/quality.png"
IMAGE = f"images/{PLOT.name}"
LEAST = 20  # pictures of each class in a cluster that counts
BAR = 0.97  # mean AUROC of the clusters left out
OFFICIAL = 624  # pictures of the official test

HEAD = """# Experiments

How the recipe of chest X-rays was found, and what it is worth.

## How recipes are judged

The pictures of the official test differ from those of training: other children, another share of
ill ones, other exposures. Validation pictures, dealt out by patient from the training pictures, do
not, and on them every recipe looks nearly perfect. So recipes are judged by leaving a cluster out:

- Patients of train and val are grouped into 5 clusters by k-means of what a frozen
  EfficientNet-Lite0 at 160 pixels sees in their pictures. They are the same for every recipe.
- For each cluster that holds at least 20 pictures of each class, the product's own training trains
  the recipe without it, and the model is asked about it. The figure is the mean of these AUROCs;
  the bar is 0.97. Accuracy is that of the threshold which the fold's own
  validation pictures chose: it shows what the shift does to decisions.
- Gate and test are not looked at, and nothing is chosen on them.

One recipe costs as many trainings as clusters count:

```console
$ uv run invoke benchmark-recipes --arguments "recipe=finetune --name finetune --why 'all weights'"
```
"""
NOTE = """
Bold: the bar is reached. Seconds are those of one training; what frozen parts make of pictures is
made once for all clusters, and each training's share of it is counted in.
"""
FINAL_HEAD = """
## On the official test

The official test is opened once for each model that is reported here, and its figure stands as it
was. Every recipe is trained with several seeds by `main.py train`; figures are mean ± standard
deviation over the seeds with their range. The calibration error (15 bins of equal mass, after
temperature) is that of validation data. "Referred" is what the answers given gain in points of
accuracy when a tenth is left to a human. Seconds are those of the whole command.

```console
$ uv run invoke benchmark-quality --arguments "--recipe default ''"
```
"""
PART = """
The official test has {whole} pictures. The data set that was asked about here holds {held} of
them, and the recipes' figures are of those alone. Kermany 2018, MedMNIST+, DINO and AutoML were
judged on all {whole}; of the other rows below the recipes' the number is not recorded. They show
about where others are, and are no comparison on the same pictures.
"""


@dataclass(frozen=True)
class Reference:
    """Figures of others, on all or another part of the official test; None where none was told."""

    what: str
    auroc: float
    accuracy: float
    seconds: float | None = None


REFERENCES = (
    Reference("plain timm fine-tune, Lite0 at 160 px, 1 epoch, 2 cores", 0.968, 0.920, 222),
    Reference("the same, 2 epochs", 0.963, 0.928),
    Reference("the same, 3 epochs", 0.938, 0.910),
    Reference("standardised, affine and gamma, mixup, 1.5 epochs", 0.970, 0.922, 435),
    Reference("the same, mirrored at test", 0.973, 0.922),
    Reference("linear probe, Lite0 at 224 px", 0.961, 0.800),
    Reference("Kermany 2018", 0.968, 0.928),
    Reference("MedMNIST+, ResNet-18 at 224 px", 0.980, 0.911),
    Reference("frozen DINO ViT-B/16 with a linear probe", 0.989, 0.916),
    Reference("Google AutoML Vision, PneumoniaMNIST", 0.991, 0.946),
)


@dataclass(frozen=True)
class Goal:
    """A figure of the summary, and what it should reach; `within` are seconds of training."""

    name: str
    what: str
    figure: str
    limit: float
    less: bool = False
    within: float | None = None


GOALS = (
    Goal("Q1", "AUROC on the official test", "test auroc", 0.985),
    Goal("Q1", "accuracy there, at the threshold of validation", "test accuracy", 0.93),
    Goal("Q2", "AUROC, trained within 5 minutes", "test auroc", 0.975, within=300),
    Goal("Q2", "accuracy, trained within 5 minutes", "test accuracy", 0.91, within=300),
    Goal("Q3", "calibration error on validation data", "val ece", 0.05, less=True),
    Goal("Q4", "points gained by referring a tenth", "gain", 2.0),
)

Document = dict[str, Any]


def page(experiments: Document, quality: Document) -> str:
    """The page, as Markdown."""
    told = [HEAD, *_experiments(experiments.get("experiments", []))]
    if recipes := quality.get("recipes"):
        held = ", ".join(f"{size:,}" for size in _asked(quality))
        told += [FINAL_HEAD, PART.format(whole=OFFICIAL, held=held)]
        told += [_where(quality), f"\n![Figures of every seed]({IMAGE})\n\n"]
        told += [_final(recipes), _goals(recipes), _opened(quality)]
    return "".join(told)


def _experiments(rows: list[Document]) -> list[str]:
    if not rows:
        return []
    told = [
        "\n| experiment | overrides | why | AUROC | worst | accuracy | val AUROC | seconds "
        "| kept |\n"
        "|---|---|---|---|---|---|---|---|---|\n"
    ]
    for row in rows:
        counted = [fold for fold in row["folds"] if fold["counts"]]
        val = [fold["val_auroc"] for fold in counted if fold["val_auroc"] is not None]
        auroc = _number(row["auroc"])
        if not _whole(row):
            auroc += " (clusters " + ", ".join(str(f["number"]) for f in row["folds"]) + ")"
        elif row["auroc"] is not None and row["auroc"] >= BAR:
            auroc = f"**{auroc}**"
        what = f"`{row['what']}`" if row["what"] else "the defaults"
        kept = {None: "", True: "yes", False: "no"}[row["kept"]]
        cells = [row["name"], what, row["why"].replace("|", "\\|"), auroc, _number(row["worst"])]
        cells += [_number(row["accuracy"]), _number(sum(val) / len(val) if val else None)]
        cells += [f"{row['seconds']:.0f}", kept]
        told.append(f"| {' | '.join(cells)} |\n")
    told += [NOTE, _folds(rows)]
    return told


def _sizes(row: Document) -> list[dict[str, int]]:
    """Pictures of each class in every cluster; where they were not told, in those left out."""
    return row.get("clusters") or [fold["held"] for fold in row["folds"]]


def _whole(row: Document) -> bool:
    """Whether every cluster that counts was left out once."""
    counting = {n for n, one in enumerate(_sizes(row)) if min(one.values()) >= LEAST}
    return counting <= {fold["number"] for fold in row["folds"]}


def _folds(rows: list[Document]) -> str:
    whole = [row for row in rows if _whole(row)]
    if not whole:
        return ""
    shown, names = whole[0], ("auroc", "accuracy", "sensitivity", "specificity")
    told = [
        f"\nThe clusters, with the figures of {shown['name']}:\n\n"
        "| cluster | pictures | AUROC | accuracy | sensitivity | specificity | |\n"
        "|---|---|---|---|---|---|---|\n"
    ]
    folds = {fold["number"]: fold for fold in shown["folds"]}
    for number, size in enumerate(_sizes(shown)):
        fold = folds.get(number, {})
        held = ", ".join(f"{count:,} {name}" for name, count in size.items())
        cells = [str(number), held, *(_number(fold.get(name)) for name in names)]
        cells.append("" if min(size.values()) >= LEAST else "does not count")
        told.append(f"| {' | '.join(cells)} |\n")
    return "".join(told)


def _where(quality: Document) -> str:
    return "\nMeasured on " + "; ".join(f"{k} {v}" for k, v in quality["machine"].items()) + ".\n"


def _final(recipes: Document) -> str:
    told = [
        "| recipe | AUROC | accuracy | sensitivity | specificity | calibration error | referred "
        "| seconds |\n|---|---|---|---|---|---|---|---|\n"
    ]
    for name, one in recipes.items():
        found = one["summary"]
        shown = ["test auroc", "test accuracy", "test sensitivity", "test specificity", "val ece"]
        cells = [_spread(found.get(key), 3) for key in shown]
        cells += [_spread(found.get("gain"), 1), _spread(found.get("seconds"), 0)]
        told.append(f"| **{name}** | {' | '.join(cells)} |\n")
    for other in REFERENCES:
        took = "" if other.seconds is None else f"{other.seconds:.0f}"
        cells = [other.what, _number(other.auroc, 3), _number(other.accuracy, 3)]
        told.append(f"| {' | '.join([*cells, '', '', '', '', took])} |\n")
    given = [f"{name}: `{one['overrides'] or 'the defaults'}`, {len(one['seeds'])} seeds"
             for name, one in recipes.items()]  # fmt: skip
    return "".join([*told, "\n", "; ".join(given), ".\n"])


def _goals(recipes: Document) -> str:
    told = [
        "\n| | what | recipe | mean and range | 95 % of one model | goal | |\n"
        "|---|---|---|---|---|---|---|\n"
    ]
    for goal in GOALS:
        for name, one in recipes.items():
            found = one["summary"].get(goal.figure)
            if found is None:
                continue
            digits = 1 if goal.figure == "gain" else 3
            mark = _mark(goal, one["summary"])
            bounds = " – ".join(_number(side, digits) for side in found.get("bounds", []))
            limit = f"{'≤' if goal.less else '≥'} {goal.limit:g}"
            cells = [goal.name, goal.what, name, _spread(found, digits), bounds, limit, mark]
            told.append(f"| {' | '.join(cells)} |\n")
    told.append(
        "\nReached means that the mean over the seeds reaches it; the interval is the mean of "
        "those that each model has by resampling its patients.\n"
    )
    return "".join(told)


def _mark(goal: Goal, summary: Document) -> str:
    if goal.within is not None:
        took = summary.get("seconds")
        if took is None or took["high"] > goal.within:
            return "takes longer" if took else "time not known"
    value = summary[goal.figure]["mean"]
    reached = value <= goal.limit if goal.less else value >= goal.limit
    return "reached" if reached else "**not reached**"


def _opened(quality: Document) -> str:
    opened, sizes = quality["opened"].values(), _asked(quality)
    again = sum(one["times"] > 1 for one in opened)
    told = f"\n{len(opened)} models were asked about the test, {sizes[0]:,} pictures"
    told += f" ({', '.join(map(str, sizes))})" if len(sizes) > 1 else ""
    return told + (f"; {again} of them more than once.\n" if again else ", each once.\n")


def _asked(quality: Document) -> list[int]:
    """Of how many pictures the test was, each number once."""
    return sorted({one["test"]["pictures"] for one in quality["opened"].values()})


def _number(value: float | None, digits: int = 4) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _spread(found: Document | None, digits: int) -> str:
    if found is None:
        return ""
    mean, sd, low, high = (f"{found[key]:.{digits}f}" for key in ("mean", "sd", "low", "high"))
    return f"{mean} ± {sd} ({low} – {high})"


def draw(quality: Document, path: Path) -> None:
    """AUROC and accuracy of every seed beside goals and what others reached."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    recipes = quality["recipes"]
    labels = [*recipes, *(other.what for other in REFERENCES)]
    size = (10, 1.2 + 0.32 * len(labels))
    figure, panels = pyplot.subplots(1, 2, figsize=size, sharey=True, layout="constrained")
    for axes, name, limits in zip(
        panels, ("auroc", "accuracy"), ((0.985, 0.975), (0.93, 0.91)), strict=True
    ):
        for place, one in enumerate(recipes.values()):
            values = [seed["test"][name]["value"] for seed in one["seeds"]]
            axes.plot(values, [place] * len(values), "o", color=GREEN, markersize=5, alpha=0.6)
            axes.plot([sum(values) / len(values)], [place], "|", color=GREEN, markersize=16)
        for place, other in enumerate(REFERENCES, len(recipes)):
            axes.plot([getattr(other, name)], [place], "s", color=GREY, markersize=5)
        for limit, style, goal in zip(limits, ("-", "--"), ("Q1", "Q2"), strict=True):
            axes.axvline(limit, color=RED, linewidth=1, linestyle=style, label=f"goal {goal}")
        axes.set_xlabel({"auroc": "AUROC", "accuracy": "accuracy"}[name] + ", official test")
        axes.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(range(len(labels)), labels, fontsize=8)
    panels[0].invert_yaxis()
    panels[0].legend(fontsize=7, loc="lower left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, metadata={"Software": None})
    pyplot.close(figure)


def main() -> None:
    """Write the page, and the plot where there are figures for it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experiments", type=Path, default=EXPERIMENTS)
    parser.add_argument("--quality", type=Path, default=QUALITY)
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--plot", type=Path, default=PLOT)
    asked = parser.parse_args()
    quality = read(asked.quality)
    asked.page.write_text(page(read(asked.experiments), quality), "utf-8")
    if quality.get("recipes"):
        draw(quality, asked.plot)


if __name__ == "__main__":
    main()
