"""The verbs of the loop: quickstart, data, train, export and the tests.

A verb imports its job only after its configuration stands: a misspelt key answers at once.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pulmo.verbs import output
from pulmo.verbs.options import ASKED, AsJson, Overrides, example
from pulmo.verbs.registry import configured, show_verdict
from pulmo.verbs.show import for_quickstart
from pulmo.verbs.staging import show_staged, stage_now

if TYPE_CHECKING:
    from pulmo.jobs.train import Trained

app = typer.Typer()


@app.command(epilog=example("pulmo quickstart"))
def quickstart(overrides: Overrides = None, json: AsJson = False) -> None:
    """Run the whole loop once, from data to a rollback."""
    from pulmo.config import settings
    from pulmo.config.compose import compose
    from pulmo.wiring import open_registry, open_tracker

    config, places = compose(for_quickstart(overrides)), settings.load()
    tracker = open_tracker(config.tracking)
    from pulmo.jobs.quickstart import quickstart as run
    from pulmo.logs import get_logger

    say = get_logger("pulmo").info
    summary = run(config, places, open_registry(places), say, tracker)
    if json:
        output.as_json(summary)
        return
    typer.echo(f"in production  {summary.production.label}")
    typer.echo(f"refused        {summary.refused.label}")
    typer.echo(f"retrained      {summary.retrained.label}")
    typer.echo(f"report         {summary.report}")
    typer.echo(f"heat maps      {summary.overlays}")
    typer.echo("Next:")
    for line in summary.lines:
        typer.echo(f"  {line}")


@app.command(
    epilog=example("pulmo data data=folder data.root=/path/to/pictures registry.name=my-task")
)
def data(overrides: Overrides = None, json: AsJson = False) -> None:
    """Collect, check and split the configured data set."""
    from pulmo.config import settings
    from pulmo.config.compose import compose

    config, places = compose(overrides or []), settings.load()
    from pulmo.jobs.data import prepare

    prepared = prepare(config, places.data_dir)
    dataset, report = prepared.dataset, prepared.report
    if json:
        told = {"folder": dataset.folder, "report": report, "before": prepared.before}
        output.as_json({**told, "changes": prepared.changes})
        return
    classes = dataset.manifest.classes
    rows = [
        (split, *(found.get(name, 0) for name in classes), sum(found.values()))
        for split, found in report.counts.items()
    ]
    output.table(("split", *classes, "all"), rows)
    for finding in report.findings:
        typer.echo(f"{finding.severity}: {finding.message}")
    if prepared.before is not None:
        differ = "; ".join(prepared.changes) or "the same class counts"
        typer.echo(f"other pictures than {prepared.before[:12]}: {differ}")
    typer.echo(f"{report.name} {report.digest[:12]} in {dataset.folder}")


@app.command(
    epilog=example(
        "pulmo train model=small_cnn recipe=finetune trainer.max_epochs=3",
        "pulmo train --stage",
        "pulmo train --resume run.dir=runs/mine",
    )
)
def train(
    overrides: Overrides = None,
    stage: Annotated[
        bool, typer.Option("--stage", help="Register the model, test it, promote it if it passes.")
    ] = False,
    whole: Annotated[
        Path | None,
        typer.Option("--config", help="A whole configuration as JSON instead of KEY=VALUE."),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with run.dir, or the newest run of these overrides."),
    ] = False,
    many: Annotated[bool, typer.Option("-m", "--multirun", hidden=True)] = False,
    json: AsJson = False,
) -> None:
    """Train a model and write its run folder and bundle."""
    from pulmo.config import settings
    from pulmo.config.compose import compose, read_file
    from pulmo.wiring import open_tracker

    if many:
        raise typer.BadParameter("several values are searched by `pulmo sweep`: see its --help")
    if whole and overrides:
        raise typer.BadParameter("--config is the whole configuration: leave KEY=VALUE out")
    config, places = read_file(whole) if whole else compose(overrides or []), settings.load()
    from pulmo.jobs import ranks
    from pulmo.jobs import train as job
    from pulmo.jobs.run_folder import begun, recorded

    named = whole is None and all(word.startswith("run.") for word in overrides or [])
    if resume and named and config.run.dir is not None and begun(Path(config.run.dir)):
        config = recorded(Path(config.run.dir))
    if not ranks.team().first:
        ranks.assist(config, places.data_dir)
        return
    ranks.check(config)
    tracker = open_tracker(config.tracking)
    trained = (job.resume if resume else job.train)(config, places.data_dir, tracker)
    if not json:
        _show_trained(trained)
    staged = stage_now(places, str(trained.run_dir), config, ASKED) if stage else None
    if json:
        info, verdict = trained.bundle.info, staged.verdict if staged else None
        told: dict[str, object] = {"run": trained.run_dir, "name": info.name}
        told["model_digest"] = info.model_digest
        told |= {"tracking": trained.seen_at, "metrics": info.metrics, "verdict": verdict}
        output.as_json(told)
    elif staged is not None:
        show_staged(staged)


def _show_trained(trained: "Trained") -> None:
    info = trained.bundle.info
    typer.echo(f"run    {trained.run_dir}")
    typer.echo(f"model  {info.name}@{info.model_digest[:12]}")
    typer.echo(f"val    {info.score_metric} {info.score:.4f}")
    if trained.seen_at is not None:
        typer.echo(f"track  {trained.seen_at}")


@app.command(
    epilog=example(
        "pulmo export --run runs/20260101-120000-phantom-demo",
        "pulmo export --int8 --run runs/mine",
        "pulmo registry stage runs/mine/bundle-int8",
    )
)
def export(
    overrides: Overrides = None,
    run: Annotated[
        Path | None, typer.Option(help="A run folder; else the newest finished run.")
    ] = None,
    int8: Annotated[
        bool,
        typer.Option("--int8", help="Also a faster model in whole numbers; 3 if it is no match."),
    ] = False,
    json: AsJson = False,
) -> None:
    """Make the bundle of a run that has only its weights."""
    from pulmo.config import settings
    from pulmo.config.compose import compose
    from pulmo.jobs.run_folder import latest

    if run is None:
        config = compose(overrides or [])
        run = latest(Path(config.run.root), config.registry.name)
    if int8:
        from pulmo.jobs.rounding import to_int8 as make
    else:
        from pulmo.jobs.train import export as make

    bundle = make(run, settings.load().data_dir)
    told = {"bundle": bundle.path, "digest": bundle.digest, "model": bundle.info.model_digest}
    output.as_json(told) if json else typer.echo(f"{bundle.path}  {bundle.info.model_digest[:12]}")


@app.command("test-staged", epilog=example("pulmo test-staged phantom-demo:latest"))
def judge(
    ref: Annotated[str, typer.Argument(metavar="REF", help="name:alias, name:v3 or name@digest.")],
    overrides: Overrides = None,
    json: AsJson = False,
) -> None:
    """Judge a registered model by the staged tests; move nothing."""
    from pulmo.config import settings
    from pulmo.core.ports import ModelRef
    from pulmo.errors import RefusedError
    from pulmo.jobs import release
    from pulmo.wiring import open_registry

    places = settings.load()
    registry = open_registry(places)
    version = registry.get(ModelRef.parse(ref))
    verdict = release.judge(registry, version, configured(ref, overrides), places)
    output.as_json(verdict) if json else show_verdict(verdict)
    if not verdict.passed:
        raise RefusedError(f"{version.label} does not pass the staged tests")


@app.command("test", epilog=example("pulmo test"))
def run_tests() -> None:
    """Run the project's quick tests (in a checkout)."""
    import subprocess
    import sys

    from pulmo.errors import ConfigError

    root = Path(__file__).resolve().parents[3]
    if not (root / "tests").is_dir():
        raise ConfigError("an installed package has no tests: run this in a checkout of Pulmo")
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "tests"], cwd=root, check=False)
    raise typer.Exit(done.returncode)
