"""The command line: verbs, and the one table that turns an error into an exit code."""

import contextlib
import logging
import signal
import sys
from collections.abc import Iterator
from typing import Annotated, NoReturn

import typer

from pulmo import __version__, errors, logs
from pulmo.verbs import (
    datasets,
    drift,
    evaluation,
    frontend,
    hooks,
    keys,
    loop,
    predictions,
    receipts,
    registry,
    search,
    serving,
    show,
    upkeep,
)

DONE, TERMINATED = 0, 143

# What the group `train` brings and Pulmo imports; a server is installed without.
TRAINING = frozenset(
    {
        *("filelock", "hydra", "matplotlib", "omegaconf", "onnx", "onnxscript", "pytest"),
        *("pytorch_lightning", "safetensors", "timm", "torch"),
    }
)

# The most precise class counts. Typer itself ends wrong usage with 2 and an interrupt with 130.
EXIT_CODES: dict[type[Exception], int] = {
    errors.PulmoError: 1,
    errors.ConfigError: 2,
    errors.DataError: 1,
    errors.ModelError: 1,
    errors.UntrainableError: 1,
    errors.RegistryError: 1,
    errors.NotFoundError: 1,
    errors.ConflictError: 1,
    errors.RefusedError: 3,
    errors.ServingError: 1,
    errors.ForgedError: 1,
    errors.TooLargeError: 1,
    errors.MediaTypeError: 1,
    errors.InvalidError: 1,
    errors.TooSlowError: 1,
    errors.BusyError: 1,
    errors.UnauthorizedError: 1,
    errors.ForbiddenError: 1,
    errors.TooManyError: 1,
    OSError: 1,
}

app = typer.Typer(
    name="pulmo",
    help="From a folder of labelled images to a tested, watched, replaceable classifier.",
    epilog="Exit codes: 0 done, 1 failed, 2 usage, 3 a gate or check said no, 130 and 143 stopped.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # plain help costs half the time
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(loop.app)
app.add_typer(search.app)
app.add_typer(evaluation.app)
app.add_typer(drift.app)
app.add_typer(predictions.app)
app.add_typer(serving.app)
app.add_typer(frontend.app)
app.add_typer(receipts.app)
app.add_typer(upkeep.app)
app.add_typer(datasets.app)
app.add_typer(registry.app, name="registry")
app.add_typer(hooks.app, name="hooks")
app.add_typer(keys.app, name="keys")
app.add_typer(show.runs, name="runs")
app.add_typer(show.config, name="config")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"pulmo {__version__}")
        raise typer.Exit(DONE)


@app.callback()
def _begin(
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Say where messages and errors come from.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    logs.setup(verbose)


def run() -> NoReturn:
    """Run the verb of this process's arguments and exit with its code."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        with _installed():
            app()
    except tuple(EXIT_CODES) as error:
        if logging.getLogger("pulmo").isEnabledFor(logging.DEBUG):
            raise
        message = str(error).replace("\n", " ")
        typer.echo(f"error: {message or type(error).__name__}", err=True)
        sys.exit(exit_code(error))
    sys.exit(DONE)


@contextlib.contextmanager
def _installed() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in TRAINING:
            raise
        raise errors.PulmoError(
            f"this needs {error.name}, which is not installed: `uv sync` brings all that trains"
        ) from error


def exit_code(error: Exception) -> int:
    """The code of an error's most precise class in `EXIT_CODES`."""
    return next(EXIT_CODES[kind] for kind in type(error).__mro__ if kind in EXIT_CODES)


def _terminate(*_: object) -> NoReturn:
    raise SystemExit(TERMINATED)
