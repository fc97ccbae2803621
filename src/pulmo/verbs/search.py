"""`sweep`: a search for good settings, with as many processes as are asked for."""

from typing import Annotated

import typer

from pulmo.verbs import output
from pulmo.verbs.options import AsJson, Overrides, example

app = typer.Typer()


@app.command(
    epilog=example(
        "pulmo sweep data=phantom debug=fast sweep.trials=10 --workers 2",
        "pulmo sweep recipe=finetune sweep.name=mine",
    )
)
def sweep(
    overrides: Overrides = None,
    workers: Annotated[
        int, typer.Option("--workers", min=1, help="Processes that train at the same time.")
    ] = 1,
    json: AsJson = False,
) -> None:
    """Search for the settings with the best validation figure.

    What is searched stands in configs/sweep. The same command goes on where it was stopped.
    """
    from pulmo.config import settings
    from pulmo.config.compose import compose_for_sweep

    config, places = compose_for_sweep(overrides or []), settings.load()
    from pulmo.jobs.sweep import sweep as run

    found = run(config, overrides or [], places, workers)
    if json:
        output.as_json(found)
        return
    for key, value in found.settings.items():
        typer.echo(f"{key}={value}")
    told = ", ".join(f"{count} {state}" for state, count in found.counts.items())
    typer.echo(f"{found.metric} {found.value:.4f} in trial {found.trial} ({told})")
    typer.echo(f"plots and all trials in {found.folder}")
    typer.echo(f"to train it: copy {found.experiment} to configs/experiment")
