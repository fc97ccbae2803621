"""`reproduce`, `recalibrate`, `data-push`, `doctor`: models, data and machines over the years."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pulmo.verbs import output
from pulmo.verbs.options import ASKED, AsJson, Overrides, example

if TYPE_CHECKING:
    from pulmo.jobs.reproduce import Line

SHOWN = 12  # digits of a digest

app = typer.Typer()

Ref = Annotated[str, typer.Argument(metavar="REF", help="name:alias, name:v3 or name@digest.")]


@app.command(epilog=example("pulmo reproduce phantom-demo:v3"))
def reproduce(
    ref: Ref,
    out: Annotated[
        Path | None, typer.Option(help="The new run's folder; else one below runs/reproduced.")
    ] = None,
    json: AsJson = False,
) -> None:
    """Train a registered model once more and compare bit for bit.

    The recorded commit is checked out beside this one with its own locked packages; the data are
    found by their digest here or under PULMO_DATA_URL. Exit code 3: the model is another one, or
    its origin is not known exactly.
    """
    from pulmo.config import settings
    from pulmo.core.ports import ModelRef
    from pulmo.errors import RefusedError
    from pulmo.wiring import open_registry

    places, parsed = settings.load(), ModelRef.parse(ref)
    from pulmo.jobs.reproduce import reproduce as run

    stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%S}"
    folder = out or Path("runs") / "reproduced" / f"{ref.replace(':', '-')}-{stamp}"
    found = run(open_registry(places, read_only=True), parsed, places, folder)
    if json:
        lines = [{**output.plain(line), "same": line.same} for line in found.lines]
        output.as_json({**output.plain(found), "lines": lines, "same": found.same})
    else:
        rows = [(x.name, *_short(x), "yes" if x.same else "NO") for x in found.lines]
        output.table(("", "recorded", "reproduced", "same"), rows)
        for line in found.circumstances:
            typer.echo(f"another {line.name}: {line.recorded} then, {line.reproduced} now")
    if not found.same:
        differing = [line.name for line in found.lines if not line.same]
        because = [f"another {line.name.replace('_', ' ')}" for line in found.circumstances]
        raise RefusedError(
            f"{found.label} was not reproduced: {', '.join(differing)} differ "
            f"({', '.join(because) or 'the recorded circumstances are the same'})"
        )


@app.command(epilog=example("pulmo recalibrate phantom-demo:production decision.refer=0.2 --stage"))
def recalibrate(
    ref: Annotated[
        str, typer.Argument(metavar="REF", help="name:alias, a bundle folder or a run folder.")
    ],
    overrides: Overrides = None,
    stage: Annotated[
        bool, typer.Option("--stage", help="Register the model, test it, promote it if it passes.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Choose threshold and limits of a model anew, on new data.

    Temperature, threshold, refer band and outlier limit come from the present validation
    pictures; the weights stay. The result is a new model, tested like any other.
    """
    from pulmo.config import settings
    from pulmo.verbs.registry import configured
    from pulmo.verbs.staging import show_staged, stage_now
    from pulmo.wiring import open_bundle

    places, config = settings.load(), configured(ref, overrides)
    from pulmo.jobs.recalibrate import recalibrate as run

    made = run(open_bundle(places, ref), config, places.data_dir)
    info = made.bundle.info
    if not json:
        typer.echo(f"run    {made.run_dir}")
        typer.echo(f"model  {info.name}@{info.model_digest[:SHOWN]}")
        typer.echo(f"val    {info.score_metric} {info.score:.4f}")
    staged = stage_now(places, str(made.run_dir), config, ASKED) if stage else None
    if json:
        told = {"run": made.run_dir, "name": info.name, "model_digest": info.model_digest}
        verdict = staged.verdict if staged else None
        output.as_json({**told, "metrics": info.metrics, "verdict": verdict})
    elif staged is not None:
        show_staged(staged)


@app.command("data-push", epilog=example("pulmo data-push data=phantom"))
def push(overrides: Overrides = None, json: AsJson = False) -> None:
    """Upload a data set to PULMO_DATA_URL.

    Other machines find it there by its digest. Pictures that are there are not sent again.
    """
    from pulmo.config import settings
    from pulmo.config.compose import compose
    from pulmo.errors import ConfigError

    config, places = compose(overrides or []), settings.load()
    from pulmo.data import remote
    from pulmo.data.manifest import load

    if places.data_url is None:
        raise ConfigError(f"{remote.VARIABLE} is not set: give it a folder or any fsspec URL")
    dataset = load(places.data_dir, config.data.name)
    place = settings.shown(remote.push(dataset, places.data_url))
    told = {"name": dataset.manifest.name, "digest": dataset.manifest.digest, "place": place}
    output.as_json(told) if json else typer.echo(place)


@app.command(epilog=example("pulmo doctor"))
def doctor(json: AsJson = False) -> None:
    """Examine this machine and installation.

    Every finding comes with its fix. Exit code 1: something that is needed is broken.
    """
    from pulmo.config import settings
    from pulmo.jobs.doctor import examine
    from pulmo.wiring import open_registry

    places = settings.load()
    findings = examine(places, lambda: open_registry(places, read_only=True))
    if json:
        output.as_json(findings)
    else:
        rows = [(x.severity, x.name, x.detail) for x in findings]
        output.table(("", "what", "found"), rows)
        for one in findings:
            if one.fix is not None:
                typer.echo(f"{one.severity}: {one.name}: {one.fix}")
    if any(one.severity == "error" for one in findings):
        raise typer.Exit(1)


def _short(line: "Line") -> tuple[str, str]:
    """Digests cut, metrics without their interval where it is the same."""

    def cut(text: str) -> str:
        return text.partition(" ")[0] if " " in text else text[:SHOWN]

    short = cut(line.recorded), cut(line.reproduced)
    return short if line.same or short[0] != short[1] else (line.recorded, line.reproduced)
