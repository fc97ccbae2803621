"""The verbs about data sets: validate, init, clean."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pulmo.verbs import output
from pulmo.verbs.options import AsJson, Overrides, example

app = typer.Typer()

SHOWN = 3


class Keep(StrEnum):
    """What may be done with the reference."""

    SAVE = "save"


@app.command(
    epilog=example(
        "pulmo validate data.root=/path/to/pictures",
        "pulmo validate --reference save",
        "pulmo validate --against 58a7c12e8d579416…",
    )
)
def validate(
    overrides: Overrides = None,
    against: Annotated[
        str | None, typer.Option(help="The digest of a data set to hold class counts against.")
    ] = None,
    reference: Annotated[
        Keep | None, typer.Option(help="Save how the pictures look, to hold later ones against.")
    ] = None,
    json: AsJson = False,
) -> None:
    """Look for what is wrong with a data set; change nothing.

    Writes a page with the pictures in question. Errors end with exit code 3.
    """
    from pulmo.config import settings
    from pulmo.config.compose import compose

    config, places = compose(overrides or []), settings.load()
    from pulmo.errors import RefusedError
    from pulmo.jobs.data import refusal
    from pulmo.jobs.validate import validate as run

    save = reference is Keep.SAVE
    found = run(config, places.data_dir, against=against, save_reference=save)
    if json:
        output.as_json(found)
    else:
        report = found.report
        counts = next(iter(report.counts.values()))
        rows = [(s, *cells.values(), sum(cells.values())) for s, cells in report.counts.items()]
        output.table(("split", *counts, "all"), rows)
        for finding in report.findings:
            typer.echo(f"{finding.severity}: {finding.message}")
            for line in finding.where[:SHOWN]:
                typer.echo(f"    {line}")
            if len(finding.where) > SHOWN:
                typer.echo(f"    … {len(finding.where) - SHOWN} more")
        typer.echo(f"{report.name} {report.digest[:12]}: {len(report.errors)} errors")
        typer.echo(f"page  {found.page}")
    if found.report.errors:
        raise RefusedError(refusal(found.report, f"All findings: {found.document}"))


@app.command(epilog=example("pulmo init /path/to/pictures --name skin", "pulmo data data=skin"))
def init(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="One folder for each class, split or not.")
    ],
    name: Annotated[
        str | None, typer.Option(help="Of the data set and its models; else the folder's.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The YAML file; else configs/data/NAME.yaml here.")
    ] = None,
    json: AsJson = False,
) -> None:
    """Describe a folder of one's own pictures as a data set."""
    from pulmo.jobs.init import init as run

    made = run(folder, name, out)
    if json:
        output.as_json(made)
        return
    typer.echo(f"{made.path}")
    for line in made.seen:
        typer.echo(f"  {line}")
    typer.echo(f"next  pulmo data data={made.name}")


@app.command(epilog=example("pulmo clean --dry-run"))
def clean(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would go; remove nothing.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Remove what can be made again: old caches, unpacked archives, unfinished files.

    Models, runs and the data sets in use stay.
    """
    from pulmo.config import settings
    from pulmo.jobs.clean import clean as run

    gone = run(settings.load().data_dir, dry_run=dry_run)
    if json:
        output.as_json({"removed": gone, "dry_run": dry_run})
        return
    for one in gone:
        typer.echo(f"{one.bytes / 2**20:10.1f} MB  {one.path}  ({one.reason})")
    total = sum(one.bytes for one in gone) / 2**20
    typer.echo(f"{total:10.1f} MB  {'would be ' if dry_run else ''}removed")
