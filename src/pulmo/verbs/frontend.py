"""`ui`: the pages for people, in a process of their own, beside the API that they ask."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pulmo.verbs.options import example

if TYPE_CHECKING:
    import subprocess

app = typer.Typer()

OWN = ("127.0.0.1", 8000)  # where `serve` listens unless told otherwise
NEEDED = ("streamlit", "httpx")
_ENDING_SECONDS = 20  # a server finishes what it was asked


@app.command(epilog=example("pulmo ui", "pulmo ui --api https://pulmo.example.org --port 9000"))
def ui(
    api: Annotated[
        str | None,
        typer.Option(
            envvar="PULMO_API_URL",
            help="The API's address. Else this machine's own, which is started if none answers.",
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="The pages' address.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="The pages' port.")] = 8501,
) -> None:
    """Show the pages for people in a browser: pictures, model, registry.

    They ask the API and nothing else. Ends on SIGTERM or Ctrl-C.
    """
    page = _page()
    with _api(api) as address:
        typer.echo(f"pages at http://{f'[{host}]' if ':' in host else host}:{port}", err=True)
        options = ("--server.address", host, "--server.port", str(port))
        command = ("-m", "streamlit", "run", str(page), *options)
        with _process(*command, PULMO_API_URL=address) as pages:
            raise typer.Exit(pages.wait())


def _page() -> Path:
    """The pages' entry. Raises ConfigError where they, or what they need, are not installed."""
    from importlib.util import find_spec

    import pulmo
    from pulmo.errors import ConfigError

    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise ConfigError(
            f"the pages need {' and '.join(missing)}: `uv sync --inexact --group frontend` "
            "installs them"
        )
    package = Path(pulmo.__file__).parent
    for folder in (package / "frontend", package.parents[1] / "frontend"):
        if (folder / "app.py").is_file():
            return folder / "app.py"
    raise ConfigError("the pages are not installed: reinstall pulmo")


@contextlib.contextmanager
def _api(asked: str | None) -> Iterator[str]:
    """The API's address; this machine's own is started if nobody listens there."""
    if asked:
        from urllib.parse import urlsplit

        if urlsplit(asked).scheme not in ("http", "https") or not urlsplit(asked).hostname:
            raise typer.BadParameter(f"'{asked}' is no address: give http://host:port")
        yield asked
        return
    address = f"http://{OWN[0]}:{OWN[1]}"
    if _listens():
        yield address
        return
    program = "from pulmo.main import run; run()"
    host, port = OWN
    with _process("-c", program, "serve", "--wait", "--host", host, "--port", str(port)):
        yield address


def _listens() -> bool:
    import socket

    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex(OWN) == 0


@contextlib.contextmanager
def _process(*command: str, **environment: str) -> "Iterator[subprocess.Popen[bytes]]":
    """A Python process that ends with the block, whatever ends the block."""
    import os
    import subprocess
    import sys

    with subprocess.Popen([sys.executable, *command], env={**os.environ, **environment}) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(_ENDING_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
