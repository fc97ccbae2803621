"""`registry download`: a model as a folder of its own."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pulmo.verbs import output
from pulmo.verbs.options import AsJson, example

if TYPE_CHECKING:
    from pulmo.config.settings import Settings
    from pulmo.core.ports import Version

app = typer.Typer()


@app.command(
    epilog=example("pulmo registry download phantom-demo:production --out bundle --tested")
)
def download(
    target: Annotated[
        str, typer.Argument(metavar="TARGET", help="A reference, a bundle folder or a run folder.")
    ],
    out: Annotated[Path, typer.Option(help="The folder to make.")],
    tested: Annotated[
        bool, typer.Option("--tested", help="Refuse what has no passing verdict.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Write a model into a folder, every file checked against its digest.

    With --tested only a registered version whose newest tests passed; others end with 3.
    """
    from pulmo.config.settings import load
    from pulmo.jobs.download import download as run
    from pulmo.wiring import open_bundle

    places = load()
    version = _resolved(places, target, tested=tested)
    exact = target if version is None else version.label  # the alias may move meanwhile
    bundle = run(open_bundle(places, exact), out)
    told = {
        "name": bundle.info.name,
        "version": None if version is None else f"v{version.number}",
        "model_digest": bundle.info.model_digest,
        "bundle_digest": bundle.digest,
        "folder": str(out),
    }
    output.as_json(told) if json else output.table(("what", "value"), list(told.items()))


def _resolved(places: "Settings", target: str, *, tested: bool) -> "Version | None":
    """The version that a reference points at now, None for a folder."""
    from pulmo.core.ports import ModelRef
    from pulmo.errors import RefusedError
    from pulmo.jobs.download import require_tested
    from pulmo.wiring import folder_named, open_registry

    if folder_named(target) is not None:
        if tested:
            raise RefusedError(f"{target} is a folder, which no verdict is about: register it")
        return None
    registry = open_registry(places, read_only=True)
    version = registry.get(ModelRef.parse(target))
    if tested:
        require_tested(registry, version)
    return version
