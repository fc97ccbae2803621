"""`registry sign|keygen`: who vouches for a registered model."""

from pathlib import Path
from typing import Annotated

import typer

from pulmo.verbs import output
from pulmo.verbs.options import AsJson, example

app = typer.Typer()


@app.command(epilog=example("pulmo registry sign phantom-demo:v3"))
def sign(
    ref: Annotated[str, typer.Argument(metavar="REF", help="name:alias, name:v3 or name@digest.")],
    json: AsJson = False,
) -> None:
    """Sign a registered version with the key that PULMO_SIGNING_KEY names.

    A former signature gives way. What is registered while a key is set is signed at once.
    """
    from pulmo.config.settings import load
    from pulmo.core.ports import ModelRef
    from pulmo.wiring import sign as run

    version = run(load(), ModelRef.parse(ref))
    output.as_json({"signed": version.label}) if json else typer.echo(f"signed {version.label}")


@app.command(epilog=example("pulmo registry keygen --out ~/keys"))
def keygen(
    out: Annotated[Path, typer.Option(help="The folder for the two files.")] = Path(),
    json: AsJson = False,
) -> None:
    """Make a pair of keys: one signs models, the other one checks them before they are used."""
    from pulmo.registry.signing import make_keys

    private, public = make_keys(out)
    if json:
        output.as_json({"PULMO_SIGNING_KEY": private, "PULMO_PUBLIC_KEY": public})
        return
    typer.echo(f"PULMO_SIGNING_KEY={private}  keep it where models are registered, secret")
    typer.echo(f"PULMO_PUBLIC_KEY={public}  set it where models are used")
