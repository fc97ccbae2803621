"""`drift`: whether pictures of today are still like those that a model was validated on."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pulmo.verbs import output
from pulmo.verbs.options import AsJson, example

if TYPE_CHECKING:
    from pulmo.config.settings import Settings
    from pulmo.core.bundle import Bundle
    from pulmo.jobs.drift import Drift

TIMES = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S"]

Since = Annotated[
    datetime | None,
    typer.Option(formats=TIMES, help="With --log: from this moment on (UTC)."),
]
Window = Annotated[
    int, typer.Option(min=20, max=1000, help="With --log: pictures that are judged together.")
]
Bound = Annotated[
    float,
    typer.Option(
        min=0.002,
        max=0.2,
        help="Share of windows that may alarm falsely; of a log, for every 1,000 pictures.",
    ),
]

app = typer.Typer()


@app.command(
    epilog=example(
        "pulmo drift folder --model phantom-demo:production",
        "pulmo drift --log --since 2026-11-01",
    )
)
def drift(
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PATH", show_default=False, help="Folders, files or patterns ('**/*.png')."
        ),
    ] = None,
    log: Annotated[
        bool, typer.Option("--log", help="What servers answered, from PULMO_LOG_URL.")
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(help="name:alias, a bundle or a run folder; else the only one in production."),
    ] = None,
    since: Since = None,
    window: Window = 50,
    bound: Bound = 0.01,
    out: Annotated[
        Path | None, typer.Option(help="A folder for page and plots; else one below runs/drift.")
    ] = None,
    json: AsJson = False,
) -> None:
    """Hold pictures, or what servers answered, against the validation pictures of a model.

    Exit code 3: they are no longer alike.
    """
    from pulmo.config import settings
    from pulmo.errors import RefusedError
    from pulmo.jobs.drift_page import verdict
    from pulmo.verbs.predictions import in_production
    from pulmo.wiring import open_bundle

    if log == bool(paths) or (since is not None and not log):
        raise typer.BadParameter("name pictures, or say --log, which --since goes with")
    places = settings.load()
    bundle = open_bundle(places, model or in_production(places))
    label = f"{bundle.info.name}-{bundle.info.model_digest[:12]}"
    out = out or Path("runs") / "drift" / label
    if log:
        found = _watch(places, bundle, since, window, out, bound)
    else:
        found = _look(bundle, paths or [], out, bound)
    if json:
        output.as_json({"out": out, **found.document()})
    else:
        _show(found, out)
    if found.alarm:
        raise RefusedError(verdict(found))


def _look(bundle: "Bundle", paths: list[str], out: Path, bound: float) -> "Drift":
    from pulmo.jobs.drift_files import judge_files

    return judge_files(bundle, paths, out, bound)


def _watch(
    places: "Settings",
    bundle: "Bundle",
    since: datetime | None,
    window: int,
    out: Path,
    bound: float,
) -> "Drift":
    from pulmo.jobs.drift_log import judge_log
    from pulmo.wiring import open_log

    begins = None if since is None else since.replace(tzinfo=UTC)
    return judge_log(bundle, open_log(places), begins, window, out, bound)


def _show(found: "Drift", out: Path) -> None:
    from pulmo.jobs.drift_page import REPORT, verdict

    look, watch = found.look, found.watch
    rows = [
        (one.name, one.usual, one.now, one.distance, one.p, "yes" if one.drifted else "")
        for one in look.report.findings
    ]
    output.table(("feature", "validation", "now", "apart", "p", "moved"), rows)
    typer.echo()
    if look.report.unknown:
        typer.echo(f"unknown   {', '.join(look.report.unknown)}")
    for path, reason in found.failed.items():
        typer.echo(f"not read  {path}: {reason}")
    expected = look.expected
    told = f"{expected.accuracy:.3f} ({expected.low:.3f} to {expected.high:.3f})"
    typer.echo(f"accuracy  {told} to expect without labels")
    if expected.doubt is not None:
        typer.echo(f"          not to be believed: {expected.doubt}")
    if watch is not None:
        typer.echo(f"evidence  {watch.evidence[-1]:.3g} of {watch.spacing:,.0f}")
    if not found.alarm:
        typer.echo(f"verdict   {verdict(found)}")
    typer.echo(f"report    {out / REPORT}")
