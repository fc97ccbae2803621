"""`registry verify|gc|backup|restore`: a registry that is kept over the years."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pulmo.verbs import output
from pulmo.verbs.options import AsJson, example

if TYPE_CHECKING:
    from pulmo.registry.upkeep import Upkeep

app = typer.Typer()

_MEGABYTE = 1e6


@app.command(epilog=example("pulmo registry verify", "pulmo registry verify phantom-demo --json"))
def verify(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="One model; else the whole registry.")
    ] = None,
    json: AsJson = False,
) -> None:
    """Read every stored byte and row and hold them against each other.

    Damage ends with exit code 3; every finding says what to do.
    """
    from pulmo.errors import RefusedError

    found = _open(read_only=True).verify(name)
    damaged = [finding for finding in found if finding.damage]
    if json:
        output.as_json({"whole": not damaged, "findings": found})
    else:
        rows = [("DAMAGE" if f.damage else "note", f.where, f.what, f.remedy) for f in found]
        if rows:
            output.table(("kind", "where", "what", "do"), rows)
        typer.echo(f"{len(damaged)} damages, {len(found) - len(damaged)} notes")
    if damaged:
        raise RefusedError(f"the registry is damaged at {', '.join(f.where for f in damaged)}")


@app.command(epilog=example("pulmo registry gc --dry-run"))
def gc(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would go; remove nothing.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Remove files that no version names and what interrupted commands left.

    Safe beside commands that register, stage or back up.
    """
    gone = _open(read_only=dry_run).collect(dry_run=dry_run)
    if json:
        output.as_json({"removed": gone, "dry_run": dry_run})
        return
    for piece in gone:
        typer.echo(f"{piece.bytes / _MEGABYTE:10.1f} MB  {piece.name}  ({piece.kind})")
    total = sum(piece.bytes for piece in gone)
    word = "would be removed" if dry_run else "removed"
    typer.echo(f"{total / _MEGABYTE:10.1f} MB  in {len(gone)} places {word} ({total:,} bytes)")


@app.command(epilog=example("pulmo registry backup /srv/backups/registry.tar"))
def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The archive to write.")],
    json: AsJson = False,
) -> None:
    """Write versions, aliases, history, verdicts and all bundles into one archive.

    FILE is there once it is whole; an older one of this name is replaced.
    """
    made = _open(read_only=True).backup(file)
    output.as_json(made) if json else typer.echo(
        f"{made.path}  {made.versions} versions, {made.bundles} bundles, "
        f"{made.bytes / _MEGABYTE:.1f} MB"
    )


@app.command(epilog=example("pulmo registry restore /srv/backups/registry.tar"))
def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An archive of `backup`.")],
    json: AsJson = False,
) -> None:
    """Fill an empty registry from an archive, here or elsewhere, SQLite or Postgres.

    The archive is checked wholly before anything is changed.
    """
    from pulmo.registry.upkeep import check_archive

    archive = check_archive(file)
    made = _open().restore(archive)
    if json:
        output.as_json(made)
        return
    word = "holds already" if made.already else "now holds"
    typer.echo(f"the registry {word} {made.versions} versions of {made.created_at}")


def _open(*, read_only: bool = False) -> "Upkeep":
    from pulmo.config.settings import load
    from pulmo.wiring import open_upkeep

    return open_upkeep(load(), read_only=read_only)
