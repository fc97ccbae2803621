"""The verb that measures: a model on its splits, on another data set, or against another model."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pulmo.verbs import output
from pulmo.verbs.options import AsJson, Overrides, example
from pulmo.verbs.registry import configured

if TYPE_CHECKING:
    from pulmo.config.schema import Config
    from pulmo.config.settings import Settings
    from pulmo.jobs.compare import Comparison

app = typer.Typer()


class Split(StrEnum):
    """What may be measured at will; the gate split is the staged tests' alone."""

    TRAIN = "train"
    VAL = "val"
    TEST = "test"


@app.command(
    epilog=example(
        "pulmo evaluate --model phantom-demo:production --split test",
        "pulmo evaluate --model phantom-demo:production --external /path/to/class/folders",
        "pulmo evaluate --compare phantom-demo:staging phantom-demo:production",
    )
)
def evaluate(
    overrides: Overrides = None,
    model: Annotated[
        str | None,
        typer.Option(help="name:alias, a bundle or a run folder; else the newest finished run."),
    ] = None,
    split: Annotated[
        list[Split] | None,
        typer.Option(help="Repeat for several; val and test if left out (--compare: test)."),
    ] = None,
    external: Annotated[
        str | None,
        typer.Option(
            help="Measure this too, apart from the rest: a folder with a folder for each class, "
            "or a data set that `pulmo data` made (with a table of sex or age: data=folder "
            "data.source=csv data.table=…)."
        ),
    ] = None,
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="A B", help="Two models on the same pictures, instead of one."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="A folder for the report; else one below run.root.")
    ] = None,
    json: AsJson = False,
) -> None:
    """Measure a model, with intervals, and write a report and a model card."""
    from pulmo.config import settings
    from pulmo.config.compose import compose
    from pulmo.jobs.run_folder import latest

    places, splits = settings.load(), tuple(split or ())
    if compare is not None:
        if model or external or len(splits) > 1:
            raise typer.BadParameter("--compare takes one --split, no --model and no --external")
        config = configured(compare[0], overrides)
        _compare(places, compare, config, splits[0] if splits else Split.TEST, out, json)
        return
    if model is None:
        config = compose(overrides or [])
        model = str(latest(Path(config.run.root), config.registry.name))
    else:
        config = configured(model, overrides)
    _evaluate(places, model, config, splits or (Split.VAL, Split.TEST), external, out, json)


def _evaluate(
    places: "Settings",
    model: str,
    config: "Config",
    splits: tuple[Split, ...],
    external: str | None,
    out: Path | None,
    json: bool,
) -> None:
    from pulmo.data.manifest import load
    from pulmo.jobs.evaluate import evaluate as run
    from pulmo.jobs.external import open_external
    from pulmo.wiring import open_bundle

    bundle = open_bundle(places, model)
    label = f"{bundle.info.name}-{bundle.info.model_digest[:12]}"
    out = out or Path(config.run.root) / "evaluations" / label
    dataset = load(places.data_dir, config.data.name)
    other = external and open_external(external, bundle, config, places.data_dir)
    found = run(bundle, dataset, splits, out, config.evaluate, other or None)
    if json:
        output.as_json({"out": out, **found.document})
        return
    for name, metrics in found.metrics.items():
        rows = [(key, one.value, one.low, one.high) for key, one in metrics.items()]
        output.table((name, "value", "low", "high"), rows)
        typer.echo()
    typer.echo(f"report  {out / 'report.html'}")


def _compare(
    places: "Settings",
    names: tuple[str, str],
    config: "Config",
    split: Split,
    out: Path | None,
    json: bool,
) -> None:
    from pulmo.data.manifest import load
    from pulmo.jobs.compare import compare as run
    from pulmo.wiring import open_bundle

    bundles = open_bundle(places, names[0]), open_bundle(places, names[1])
    digests = "-".join(bundle.info.model_digest[:12] for bundle in bundles)
    out = out or Path(config.run.root) / "comparisons" / f"{bundles[0].info.name}-{digests}"
    dataset = load(places.data_dir, config.data.name)
    found = run(names, bundles, dataset, split, out, config.evaluate)
    if json:
        output.as_json({"out": out, **found.document()})
        return
    _show(found)
    typer.echo(f"report  {out / 'comparison.html'}")


def _show(found: "Comparison") -> None:
    first, second = (part.metrics for part in found.parts)
    rows = [
        (key, first[key].value, second[key].value, one.value, one.low, one.high)
        for key, one in found.differences.items()
    ]
    heads = (found.parts[0].split, *found.names, "A - B", "low", "high")
    output.table(heads, rows)
    typer.echo()
    if found.delong is not None:
        one = found.delong
        typer.echo(f"DeLong   AUROC {one.value:+.4f} ({one.low:+.4f} to {one.high:+.4f})")
    told = f"{found.only_a} pictures only A gets right, {found.only_b} only B"
    typer.echo(f"McNemar  p {found.p:.3g}: {told}")
