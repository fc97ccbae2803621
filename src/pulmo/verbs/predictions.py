"""`predict`: answers as columns, JSON lines or CSV, one by one as they come."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pulmo.verbs import output
from pulmo.verbs.options import example

if TYPE_CHECKING:
    from pulmo.config.settings import Settings
    from pulmo.jobs.predict import Prediction

Show = Callable[["Prediction"], None]

app = typer.Typer()


@app.command(
    epilog=example(
        "pulmo predict picture.jpeg --model phantom-demo:production",
        "pulmo predict folder --model runs/my-run --overlay heat --csv > answers.csv",
    )
)
def predict(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH",
            show_default=False,
            help="Files, folders, patterns ('**/*.png') or - for stdin.",
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            help="name:alias (a name alone: what it has in production), a bundle or a run folder; "
            "else the only one in production."
        ),
    ] = None,
    overlay: Annotated[
        Path | None, typer.Option(help="A folder for heat maps (PNG), one a picture.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one line of JSON a picture.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV with a head.")] = False,
) -> None:
    """Ask a model about pictures.

    A picture that cannot be read is told in its row; the exit code is then 1.
    """
    from pulmo.config import settings
    from pulmo.core.ports import PRODUCTION
    from pulmo.jobs.predict import predict as run
    from pulmo.wiring import open_bundle

    if json and csv:
        raise typer.BadParameter("choose --json or --csv")
    places = settings.load()
    bundle = open_bundle(places, model or in_production(places), bare=PRODUCTION)
    show = output.as_json if json else _csv() if csv else _columns()
    failed = 0
    for prediction in run(bundle, paths, overlay=overlay):
        show(prediction)
        failed += prediction.error is not None
    if failed:
        typer.echo(f"error: {failed} of the inputs could not be read", err=True)
        raise typer.Exit(1)


def in_production(places: "Settings") -> str:
    """The reference of the one model in production. Raises ConfigError where there is no one."""
    from pulmo.core.ports import PRODUCTION
    from pulmo.errors import ConfigError
    from pulmo.wiring import open_registry

    registry = open_registry(places, read_only=True)
    found = [
        f"{name}:{PRODUCTION}"
        for name in registry.names()
        if any(PRODUCTION in version.aliases for version in registry.versions(name))
    ]
    if len(found) == 1:
        return found[0]
    choices = f"one of {', '.join(found)}" if found else "a bundle or a run folder"
    raise ConfigError(f"{len(found) or 'no'} models are in production: say --model {choices}")


def _columns() -> Show:
    """Columns of fixed width, so that a row can be printed before the next one is known."""
    line = "{:<20}  {:>11}  {:<8}  {}"
    typer.echo(line.format("label", "probability", "decision", "path"))

    def show(one: "Prediction") -> None:
        share = "-" if one.probability is None else f"{one.probability:.4f}"
        because = one.error or "; ".join(one.reasons)
        where = f"{one.path}  ({because})" if because else one.path
        label = one.label or "-"
        typer.echo(line.format(label, share, one.decision or "error", where))

    return show


def _csv() -> Show:
    import csv
    import sys

    writer = csv.writer(sys.stdout)
    heads = ("path", "label", "probability", "decision", "reasons", "model", "model_digest")
    writer.writerow((*heads, "overlay", "error"))

    def show(one: "Prediction") -> None:
        answer = (one.path, one.label, one.probability, one.decision, "; ".join(one.reasons))
        writer.writerow((*answer, one.model, one.model_digest, one.overlay, one.error))

    return show
