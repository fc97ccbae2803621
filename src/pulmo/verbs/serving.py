"""`serve`: a model behind HTTP, until a signal ends it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from pulmo.verbs.options import example

if TYPE_CHECKING:
    from pulmo.config.settings import Settings
    from pulmo.serving.models import Present, Source

QUOTA = Path("/sys/fs/cgroup/cpu.max")  # microseconds of processor time in a period, cgroup v2

app = typer.Typer()


@app.command(
    epilog=example(
        "pulmo serve --model phantom-demo:production",
        "pulmo serve --model runs/my-run --port 9000 --reload",
    )
)
def serve(
    model: Annotated[
        str | None,
        typer.Option(
            envvar="PULMO_MODEL",
            help="name:alias is followed (a name alone: what it has in production); name@digest, "
            "name:v3, a bundle or a run folder stays. Else the only one in production.",
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="The address; only this machine's own without further ado.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, envvar="PORT", help="The port.")] = 8000,
    admin: Annotated[
        bool, typer.Option("--admin", help="Let admin keys stage, promote and roll back.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Begin without a model; take it once it is there.")
    ] = False,
    reload: Annotated[
        bool, typer.Option("--reload", help="Begin anew when code or bundle change; to develop.")
    ] = False,
) -> None:
    """Answer pictures over HTTP; /docs tells how to ask.

    Ends on SIGTERM, after what was accepted is answered.
    """
    if reload:
        _supervise(model)
    from pulmo.config import hooks, settings
    from pulmo.serving.access import known_hosts
    from pulmo.serving.app import create_app
    from pulmo.serving.keyring import Keyring
    from pulmo.serving.limits import Limits
    from pulmo.serving.receipts import Receipts
    from pulmo.serving.server import listen, make_server
    from pulmo.verbs.predictions import in_production
    from pulmo.wiring import open_desk, open_receipts, open_receiver

    places = settings.load()
    _be_heard(places)
    hosts = known_hosts(places, host, keyed=Keyring(places).asked_for)
    target = model if wait else model or in_production(places)
    present = _present(places, target, wait=wait)
    desk = open_desk(places, target, admin=admin)
    receipts = Receipts(open_receipts(places), details=places.log_embeddings)
    receiver = open_receiver(places, hooks.load())
    limits = Limits(workers=_cores())
    application = create_app(places, present, limits, hosts, receipts, desk=desk, receiver=receiver)
    make_server(application, limits).run([listen(host, port)])


def _present(places: "Settings", target: str | None, *, wait: bool) -> "Present":
    """The model that is served; with `wait` none yet, and where it will come from."""
    from pulmo.serving.models import Awaited, Present
    from pulmo.verbs.predictions import in_production
    from pulmo.wiring import open_source

    def find() -> "Source":
        return open_source(places, target or in_production(places))

    if wait:
        return Present(Awaited(find), waits=True)
    present = Present(find())
    present.refresh()
    return present


def _be_heard(places: "Settings") -> None:
    """Log as the settings say, and end with 130 on Ctrl-C whoever started the process."""
    import signal

    from pulmo import logs

    if places.log_format == "json":
        logs.as_json()
    # A shell has SIGINT ignored for what it starts in the background; a server hears it anyway.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _supervise(model: str | None) -> NoReturn:
    """Run this very command without --reload, anew after every change, until a signal ends it."""
    import sys

    import pulmo
    from pulmo.serving.reloading import supervise
    from pulmo.wiring import folder_named

    folder = folder_named(model) if model else None
    watched = [Path(pulmo.__file__).parent, *([folder] if folder else [])]
    program = "from pulmo.main import run; run()"
    rest = [word for word in sys.argv[1:] if word != "--reload"]
    supervise([sys.executable, "-c", program, *rest], watched)


def _cores(quota: Path = QUOTA) -> int:
    """The cores that this process may use; a container may have fewer than its machine."""
    import math
    import os

    known = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cores = known or 1
    try:
        time, period = map(int, quota.read_text(encoding="ascii").split())
        return max(1, min(cores, math.ceil(time / period)))
    except (OSError, ValueError, ZeroDivisionError):  # no quota ("max"), or none to be read
        return cores
