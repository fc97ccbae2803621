"""`receipt`: a prediction of a server replayed."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pulmo.errors import DataError
from pulmo.verbs import output
from pulmo.verbs.options import AsJson, example

if TYPE_CHECKING:
    from pulmo.config.settings import Settings
    from pulmo.core.receipt import Receipt

SHOWN = 40  # characters of a value in a column

app = typer.Typer()


@app.command(
    epilog=example(
        "pulmo receipt e75220b0c1c3456094b92d10f8a0ab36 picture.jpeg",
        "pulmo receipt e75220b0c1c3456094b92d10f8a0ab36 picture.jpeg --log receipts.jsonl",
    )
)
def receipt(
    receipt_id: Annotated[str, typer.Argument(metavar="ID", help="The `id` of the answer.")],
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="The picture that was sent.")],
    log: Annotated[
        str | None,
        typer.Option(help="A file with lines of JSON, or - for stdin; else PULMO_LOG_URL."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="The model's bundle, where the registry does not have it."),
    ] = None,
    json: AsJson = False,
) -> None:
    """Replay an answer of a server: find its receipt, its model by digest, and compare.

    Exit code 3: the picture is another one, or something else comes out.
    """
    from pulmo.config import settings
    from pulmo.errors import RefusedError
    from pulmo.jobs.replay import replay
    from pulmo.wiring import open_bundle

    with _readable(image, "the picture that was sent, as a file"):
        encoded = image.read_bytes()
    places = settings.load()
    found = _receipt(places, receipt_id, log)
    bundle = open_bundle(places, model or f"{found.model.name}@{found.model.digest}")
    told = replay(bundle, found, encoded)
    if json:
        facts = {"id": found.id, "at": found.at, "model": found.model, "gap": told.gap}
        output.as_json({**facts, "lines": told.lines, "same": told.same})
    else:
        typer.echo(f"{found.model} answered at {found.at:%Y-%m-%d %H:%M:%S} UTC")
        rows = [
            (x.name, x.recorded[:SHOWN], x.replayed[:SHOWN], "yes" if x.same else "NO")
            for x in told.lines
        ]
        output.table(("", "recorded", "replayed", "same"), rows)
    if not told.same:
        differing = ", ".join(line.name for line in told.lines if not line.same)
        raise RefusedError(f"receipt {receipt_id} does not stand: {differing} differ")


def _receipt(places: "Settings", receipt_id: str, log: str | None) -> "Receipt":
    import sys

    from pulmo.errors import ConfigError
    from pulmo.jobs.replay import among
    from pulmo.wiring import find_receipt

    if log == "-":
        return among(sys.stdin, receipt_id)
    if log is not None:
        with (
            _readable(Path(log), "a file with the server's lines"),
            Path(log).open(encoding="utf-8", errors="replace") as lines,
        ):
            return among(lines, receipt_id)
    if places.log_url == "stdout":
        raise ConfigError("PULMO_LOG_URL names no database: give the server's lines with --log")
    return find_receipt(places, receipt_id)


@contextlib.contextmanager
def _readable(path: Path, wanted: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror or error}): give {wanted}"
        ) from error
