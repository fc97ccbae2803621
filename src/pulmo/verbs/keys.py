"""`keys …`: who may ask a server, and who may not any more."""

from typing import Annotated, Literal

import typer

from pulmo.verbs import output
from pulmo.verbs.options import AsJson, actor, example

app = typer.Typer(help="API keys: who may ask a server.", no_args_is_help=True)


@app.command(epilog=example("pulmo keys create --role predict --name clinic-42"))
def create(
    role: Annotated[
        Literal["predict", "admin"], typer.Option(help="predict asks; admin also moves aliases.")
    ],
    name: Annotated[str, typer.Option(help="Who gets it; stands in the history.")],
    any_version: Annotated[
        bool, typer.Option("--any-version", help="May ask versions beside the served one.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Make a key and print it, this once.

    Servers that read the same folder (PULMO_KEYS_DIR) know it a second later.
    """
    from pulmo.config.settings import load
    from pulmo.core import keys

    folder = load().keys_dir
    text, key = keys.create(folder, name, role, any_version=any_version, actor=actor())
    if json:
        told = key.model_dump(mode="json", include={"id", "name", "role", "any_version"})
        output.as_json({**told, "key": text, "line": key.line()})
        return
    typer.echo(text)
    typer.echo(f"key {key.id} is in {folder} as a digest: nobody can show it again", err=True)


@app.command("list", epilog=example("pulmo keys list"))
def list_keys(json: AsJson = False) -> None:
    """Every key, revoked ones too."""
    from pulmo.config.settings import load
    from pulmo.core import keys

    found = keys.load(load().keys_dir)
    if json:
        output.as_json([key.model_dump(mode="json", exclude={"digest"}) for key in found])
        return
    rows = [
        (k.id, k.name, k.role, k.any_version, k.created_at, k.created_by, k.revoked_at)
        for k in found
    ]
    output.table(("id", "name", "role", "any version", "created", "by", "revoked"), rows)


@app.command(epilog=example("pulmo keys revoke 3f9c01ab"))
def revoke(
    number: Annotated[str, typer.Argument(metavar="ID", help="As `pulmo keys list` shows it.")],
    json: AsJson = False,
) -> None:
    """Let a key open nothing any more; servers know a second later."""
    from pulmo.config.settings import load
    from pulmo.core import keys

    key = keys.revoke(load().keys_dir, number, actor=actor())
    if json:
        output.as_json(key.model_dump(mode="json", exclude={"digest"}))
    else:
        typer.echo(f"revoked {key.id} ({key.name})")
