"""Staging from the command line: tested here and now, or told to others and left to them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from pulmo.verbs import output
from pulmo.verbs.options import actor

if TYPE_CHECKING:
    from pulmo.config.schema import Config
    from pulmo.config.settings import Settings
    from pulmo.core.ports import Verdict


@dataclass(frozen=True)
class Staged:
    """What came of staging: a verdict, or who was told and tests it elsewhere or later."""

    label: str
    verdict: "Verdict | None"
    told: tuple[str, ...]


def stage_now(places: "Settings", target: str, config: "Config", reason: str) -> Staged:
    """Stage a candidate and wait for its verdict, unless it is tested elsewhere."""
    from pulmo.config import hooks
    from pulmo.jobs import hooks as job
    from pulmo.jobs import release
    from pulmo.verbs.hooks import open_workplace
    from pulmo.wiring import open_sender

    chosen = hooks.load()
    sender = open_sender(places, chosen)
    place = open_workplace(places, [], lambda name: config)
    version = release.resolve(place.registry, target, actor=place.actor)
    here = hooks.LOCAL in chosen.targets
    verdict = job.stage(place, sender, version, here=here, reason=reason)
    return Staged(version.label, verdict, chosen.targets)


def stage_later(places: "Settings", target: str, reason: str) -> Staged:
    """Stage a candidate; its event waits in the outbox."""
    from pulmo.jobs import release
    from pulmo.wiring import open_registry

    registry = open_registry(places)
    version = release.resolve(registry, target, actor=actor())
    release.point(registry, version, actor=actor(), reason=reason)
    return Staged(version.label, None, ())


def show_staged(staged: Staged, json: bool = False) -> None:
    """Print a verdict, or who has the model now."""
    from pulmo.verbs.registry import show_verdict

    if json:
        output.as_json(staged if staged.verdict is None else staged.verdict)
    elif staged.verdict is not None:
        show_verdict(staged.verdict)
    elif staged.told:
        typer.echo(f"{staged.label} is staged, and {', '.join(staged.told)} told of it")
    else:
        typer.echo(f"{staged.label} is staged: `pulmo hooks work` tests it")
