"""`runs …` and `config show`: what ran, and what would run."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pulmo.verbs import output
from pulmo.verbs.options import AsJson, Overrides, example

if TYPE_CHECKING:
    from pulmo.jobs.runs import Run

runs = typer.Typer(help="Training runs.", no_args_is_help=True)
config = typer.Typer(help="The configuration.", no_args_is_help=True)

Verb = Literal[
    "quickstart", "data", "train", "evaluate", "export", "test-staged", "stage", "promote"
]

QUICKSTART_DATA = "data=phantom"


@runs.callback()
def _runs() -> None:
    """Training runs."""


@config.callback()
def _config() -> None:
    """The configuration."""


@runs.command("list", epilog=example("pulmo runs list"))
def list_runs(overrides: Overrides = None, json: AsJson = False) -> None:
    """Every run below `run.root`, newest first."""
    from pathlib import Path

    from pulmo.config.compose import compose
    from pulmo.jobs.runs import find

    found = find(Path(compose(overrides or []).run.root))
    if json:
        output.as_json(found)
        return
    heads = ("created", "name", "status", "recipe", "auroc", "model", "folder", "note")
    output.table(heads, [_row(run) for run in found])


@runs.command(
    "compare",
    epilog=example("pulmo runs compare 20260101-120000-phantom-demo 20260102-120000-phantom-demo"),
)
def compare_runs(
    first: Annotated[str, typer.Argument(metavar="RUN", help="A run's folder or its name.")],
    second: Annotated[str, typer.Argument(metavar="RUN", help="Another one.")],
    overrides: Overrides = None,
    json: AsJson = False,
) -> None:
    """What two runs were configured otherwise, and what came out.

    Names are looked for below `run.root`; the metrics are those of the validation split.
    """
    from pathlib import Path

    from pulmo.config.compose import compose
    from pulmo.jobs.runs import compare

    found = compare(first, second, Path(compose(overrides or []).run.root))
    if json:
        output.as_json(found)
        return
    for what, differences in (("setting", found.configuration), ("val", found.metrics)):
        rows = [(one.name, one.first, one.second) for one in differences]
        output.table((what, *(run.dir.name for run in found.runs)), rows)
        typer.echo()


@config.command("show", epilog=example("pulmo config show train model=small_cnn recipe=finetune"))
def show_config(
    verb: Annotated[Verb, typer.Argument(help="The verb that would run.", show_default=False)],
    overrides: Overrides = None,
    json: AsJson = False,
) -> None:
    """What a verb would run with.

    Every line is written as an override.
    """
    import shlex

    from pulmo.config import settings
    from pulmo.config.compose import compose

    places = settings.load()
    composed = compose(for_quickstart(overrides) if verb == "quickstart" else overrides or [])
    document = composed.document()
    folder = str(places.data_dir / composed.data.name)
    if json:
        output.as_json(
            {"verb": verb, "config": document, "dataset": folder, "settings": places.public()}
        )
        return
    typer.echo(f"# data set: {folder}")
    for name, value in places.public().items():
        typer.echo(f"# PULMO_{name.upper()}={value}")
    for line in override_lines(document):
        typer.echo(shlex.quote(line))


def for_quickstart(overrides: list[str] | None) -> list[str]:
    """The overrides of a quickstart: drawn pictures, unless other data are named."""
    given = overrides or []
    named = any(text.lstrip("+").startswith("data=") for text in given)
    return given if named else [QUICKSTART_DATA, *given]


def _row(run: "Run") -> tuple[object, ...]:
    digest = run.model_digest[:12] if run.model_digest else None
    score = run.score("auroc")
    return run.created_at, run.name, run.status, run.recipe, score, digest, run.dir, run.note


def override_lines(document: dict[str, Any], prefix: str = "") -> list[str]:
    """A configuration as overrides, one a value."""
    from json import dumps

    found = []
    for key, value in document.items():
        if isinstance(value, dict) and value:
            found += override_lines(value, f"{prefix}{key}.")
        else:
            text = value if isinstance(value, str) else dumps(value, ensure_ascii=False)
            found.append(f"{prefix}{key}={text}")
    return found
