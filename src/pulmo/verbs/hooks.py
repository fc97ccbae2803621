"""`hooks …`: events of moved aliases on their way, the jobs they ask for, and a rehearsal."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pulmo.verbs import output
from pulmo.verbs.options import AsJson, Overrides, actor, example

if TYPE_CHECKING:
    from pulmo.config.schema import Config
    from pulmo.config.settings import Settings
    from pulmo.core.ports import Job, ModelRef, Registry
    from pulmo.jobs.hooks import Workplace
    from pulmo.jobs.rehearsal import Post, Step

WATCH_S = 1.0
WORKFLOWS = Path(".github/workflows")

app = typer.Typer(
    help="Events of moved aliases: told to others, taken from others, worked at.",
    no_args_is_help=True,
)

Watch = Annotated[bool, typer.Option("--watch", help="Go on for ever, instead of once.")]


@app.command(epilog=example("pulmo hooks deliver", "pulmo hooks deliver --watch"))
def deliver(watch: Watch = False, json: AsJson = False) -> None:
    """Tell the targets (PULMO_HOOKS_TARGETS) what was moved, as far as it is due."""
    from pulmo.config import hooks, settings
    from pulmo.wiring import open_sender

    sender = open_sender(settings.load(), hooks.load())
    for _ in _rounds(watch):
        tally = sender.deliver()
        if tally.arrived or tally.failed or not watch:
            told = f"{tally.arrived} delivered, {tally.failed} failed"
            output.as_json(tally) if json else typer.echo(told)


@app.command(epilog=example("pulmo hooks work", "pulmo hooks work --watch"))
def work(overrides: Overrides = None, watch: Watch = False, json: AsJson = False) -> None:
    """Test what was staged, and promote what passes.

    Tests run in a process of their own, with the data on this machine.
    """
    from pulmo.config import hooks, settings
    from pulmo.jobs.hooks import work as run
    from pulmo.wiring import open_sender

    places = settings.load()
    place = open_workplace(places, overrides)
    sender = open_sender(places, hooks.load())
    for _ in _rounds(watch):
        sender.deliver(hooks.LOCAL)
        for job in run(place):
            output.as_json(_told(job)) if json else typer.echo(f"{job.state}: {job.detail}")


@app.command(epilog=example("pulmo hooks reconcile"))
def reconcile(overrides: Overrides = None, json: AsJson = False) -> None:
    """Look where every alias points; queue what is staged and not tested.

    Senders may skip an event. What was moved by other means is told and never followed.
    """
    from pulmo.config import settings
    from pulmo.jobs.hooks import reconcile as run

    found = list(run(open_workplace(settings.load(), overrides)))
    if json:
        output.as_json(found)
        return
    output.table(("model", "alias", "seen"), [(one.model, one.alias, one.told) for one in found])


@app.command("list", epilog=example("pulmo hooks list", "pulmo hooks list --all --json"))
def list_events(
    everything: Annotated[
        bool, typer.Option("--all", help="Also what has arrived and what is done.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Events that have not arrived, dead ones among them, and jobs that are not done."""
    from pulmo.config import settings
    from pulmo.wiring import open_outbox, open_queue

    places = settings.load()
    deliveries = open_outbox(places).deliveries(everything=everything)
    jobs = [
        job
        for job in open_queue(places).jobs()
        if everything or not job.ended or job.state == "failed"
    ]
    if json:
        output.as_json({"deliveries": deliveries, "jobs": [_told(job) for job in jobs]})
        return
    output.table(
        ("event", "model", "alias", "target", "state", "attempts", "last error"),
        [(d.event, d.model, d.alias, d.target, d.state, d.attempts, d.error) for d in deliveries],
    )
    output.table(
        ("job", "model", "state", "attempts", "detail"),
        [(job.key, job.payload["ref"], job.state, job.attempts, job.detail) for job in jobs],
    )


@app.command(epilog=example("pulmo hooks resend --all"))
def resend(
    event: Annotated[
        str | None,
        typer.Argument(metavar="EVENT", help="A dead event, or the key of a failed job."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that is dead or failed.")] = False,
    json: AsJson = False,
) -> None:
    """Try again what was given up."""
    from pulmo.config import settings
    from pulmo.errors import NotFoundError
    from pulmo.wiring import open_outbox, open_queue

    if (event is None) != everything:
        raise typer.BadParameter("name one EVENT, or say --all")
    places = settings.load()
    told = {"deliveries": 0, "jobs": open_queue(places).again(event)}
    try:
        told["deliveries"] = open_outbox(places).resend(event)
    except NotFoundError:
        if not told["jobs"]:
            raise
    message = f"{told['deliveries']} deliveries and {told['jobs']} jobs will be tried again"
    output.as_json(told) if json else typer.echo(message)


@app.command(epilog=example("pulmo hooks rehearse --model phantom-demo:latest"))
def rehearse(
    model: Annotated[str, typer.Option(help="name:alias, name:v3 or name@digest.")],
    overrides: Overrides = None,
    json: AsJson = False,
) -> None:
    """Play the chain of a staged model with the bytes that W&B and GitHub would send.

    All of it happens on a copy of the registry's ledger: no alias is moved.
    """
    import secrets
    import tempfile

    from pulmo.config import settings
    from pulmo.core.ports import ModelRef
    from pulmo.jobs.rehearsal import Secrets
    from pulmo.jobs.rehearsal import rehearse as run
    from pulmo.wiring import copy_ledger, open_registry

    with tempfile.TemporaryDirectory() as folder:
        real = settings.load()
        _bring(open_registry(real, read_only=True), ModelRef.parse(model))
        places = copy_ledger(real, Path(folder))
        shared = Secrets(*(secrets.token_urlsafe(32) for _ in range(3)))
        with _receiving(places, model, shared) as post:
            ref = ModelRef.parse(model)
            place = open_workplace(places, overrides)
            steps = run(place, ref, shared, post, WORKFLOWS)
            if json:
                output.as_json(list(steps))
            else:
                for number, step in enumerate(steps, start=1):
                    _show_step(number, step)


def open_workplace(
    places: "Settings",
    overrides: list[str] | None,
    configure: "Callable[[str], Config] | None" = None,
) -> "Workplace":
    """What a worker needs; configurations are composed unless `configure` gives them."""
    from pulmo.jobs.hooks import Workplace
    from pulmo.wiring import open_elsewhere, open_queue, open_registry

    def compose(name: str) -> "Config":
        from pulmo.config.compose import compose_for_model

        return compose_for_model(name, overrides or [])

    return Workplace(
        open_registry(places),
        open_queue(places),
        places,
        configure or compose,
        actor(),
        open_elsewhere(places),
    )


def _bring(registry: "Registry", ref: "ModelRef") -> None:
    """Let the bytes of a model and of its champion lie on this machine before a rehearsal."""
    from pulmo.core.ports import PRODUCTION, ModelRef
    from pulmo.errors import NotFoundError

    registry.fetch(ref)
    with suppress(NotFoundError):
        registry.fetch(ModelRef(ref.name, alias=PRODUCTION))


@contextmanager
def _receiving(places: "Settings", model: str, shared: Any) -> "Iterator[Post]":
    """A server on loopback that takes webhooks for a rehearsal, and what posts to it."""
    import json
    import threading

    from pulmo.config.hooks import HookSettings
    from pulmo.registry.outward import post
    from pulmo.serving.app import create_app
    from pulmo.serving.limits import Limits
    from pulmo.serving.models import Pinned, Present
    from pulmo.serving.server import listen, make_server
    from pulmo.wiring import open_bundle, open_receiver

    chosen = HookSettings.model_validate(
        {
            "wandb_secret": shared.wandb,
            "wandb_token": shared.token,
            "github_secret": shared.github,
        }
    )
    present = Present(Pinned(open_bundle(places, model)))
    limits, listener = Limits(linger_s=0), listen("127.0.0.1", 0)
    receiver = open_receiver(places, chosen)
    server = make_server(create_app(places, present, limits, receiver=receiver), limits)
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    base = f"http://127.0.0.1:{listener.getsockname()[1]}"

    def send(path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, Any]:
        answer = post(base + path, body, headers, private_hosts=frozenset({"127.0.0.1"}))
        return answer.status, json.loads(answer.body)

    try:
        yield send
    finally:
        server.should_exit = True
        thread.join()


def _rounds(watch: bool) -> Iterator[None]:
    import time

    yield
    while watch:
        time.sleep(WATCH_S)
        yield


def _told(job: "Job") -> dict[str, Any]:
    return {name: value for name, value in vars(job).items() if name != "claim"}


def _show_step(number: int, step: "Step") -> None:
    from pulmo.core.ports import Verdict
    from pulmo.verbs.registry import show_verdict

    typer.echo(f"{number}  {step.title}")
    for name, value in step.told.items():
        if isinstance(value, Verdict):
            show_verdict(value)
        elif isinstance(value, Mapping):
            for key, text in value.items():
                typer.echo(f"     {key}: {text}")
        elif isinstance(value, list):
            typer.echo(f"   {name}")
            for line in value:
                typer.echo(f"     $ {line}")
        else:
            typer.echo(f"   {name}: {value}")
