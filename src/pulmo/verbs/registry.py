"""`registry …`: versions, aliases, their history, and the verbs that move them."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from pulmo.verbs import output, registry_download, registry_signing, registry_upkeep
from pulmo.verbs.options import ASKED, AsJson, Overrides, Reason, actor, example

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pulmo.config.schema import Config
    from pulmo.config.settings import Settings
    from pulmo.core.ports import Move, Registry, Verdict, Version

app = typer.Typer(
    help="Registered models: what there is, and what serves.",
    no_args_is_help=True,
)
app.add_typer(registry_download.app)
app.add_typer(registry_upkeep.app)
app.add_typer(registry_signing.app)

Name = Annotated[str, typer.Argument(metavar="NAME", help="A model's name.")]
Ref = Annotated[str, typer.Argument(metavar="REF", help="name:alias, name:v3 or name@digest.")]


@app.command("list", epilog=example("pulmo registry list"))
def list_models(json: AsJson = False) -> None:
    """Every model with its newest version and what is in production."""
    registry, _ = _open(read_only=True)
    found = {name: registry.versions(name) for name in registry.names()}
    aliases = {
        name: {alias: version.number for version in versions for alias in version.aliases}
        for name, versions in found.items()
    }
    if json:
        output.as_json(
            [{"name": n, "versions": len(v), "aliases": aliases[n]} for n, v in found.items()]
        )
        return
    rows = [
        (name, len(versions), [f"{a}=v{n}" for a, n in sorted(aliases[name].items())])
        for name, versions in found.items()
    ]
    output.table(("model", "versions", "aliases"), rows)


@app.command(
    epilog=example(
        "pulmo registry show phantom-demo", "pulmo registry show phantom-demo:production --json"
    )
)
def show(ref: Ref, json: AsJson = False) -> None:
    """The versions of a model, or all about one of them.

    One version is shown with its origins and verdicts.
    """
    from pulmo.core.bundle import Lineage
    from pulmo.core.ports import ModelRef
    from pulmo.jobs.lineage import unreproducible

    registry, _ = _open(read_only=True)
    if ":" not in ref and "@" not in ref:
        _show_versions(registry.versions(ref), json)
        return
    version = registry.get(ModelRef.parse(ref))
    lineages = registry.lineages(version)
    verdicts = registry.verdicts(version.name, version.model_digest)
    if json:
        output.as_json({"version": version, "lineages": lineages, "verdicts": verdicts})
        return
    _show_versions([version], json)
    for lineage in lineages:
        output.table(
            ("origin", "value"), sorted((k, v) for k, v in lineage.items() if k != "configuration")
        )
        if reason := unreproducible(Lineage.model_validate(lineage)):
            typer.echo(f"warning: this model can never be reproduced: {reason}")
    for verdict in verdicts:
        show_verdict(verdict)


@app.command(epilog=example("pulmo registry history phantom-demo"))
def history(name: Name, json: AsJson = False) -> None:
    """Every move of a model's aliases: when, who and why."""
    registry, _ = _open(read_only=True)
    moves = registry.history(name)
    output.as_json(moves) if json else _show_moves(moves)


@app.command(epilog=example("pulmo registry stage phantom-demo:latest"))
def stage(
    target: Annotated[
        str, typer.Argument(metavar="TARGET", help="A reference, a bundle folder or a run folder.")
    ],
    overrides: Overrides = None,
    reason: Reason = ASKED,
    later: Annotated[
        bool, typer.Option("--later", help="Move the alias alone: `hooks work` does the rest.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Test a candidate and promote it only if it passes.

    A folder is registered first. A refusal ends with exit code 3 and leaves production as it is.
    """
    from pulmo.verbs.staging import show_staged, stage_later, stage_now

    _, settings = _open()
    if later:
        staged = stage_later(settings, target, reason)
    else:
        staged = stage_now(settings, target, configured(target, overrides), reason)
    show_staged(staged, json)


@app.command(
    epilog=example('pulmo registry promote phantom-demo:v3 --reason "after the night\'s review"')
)
def promote(
    ref: Ref, overrides: Overrides = None, reason: Reason = ASKED, json: AsJson = False
) -> None:
    """Move `production` to a version whose stored verdict passes."""
    from pulmo.core.ports import ModelRef
    from pulmo.jobs import release

    registry, _ = _open()
    version = registry.get(ModelRef.parse(ref))
    config = configured(ref, overrides)
    _show_move(release.promote(registry, version, config, actor=actor(), reason=reason), json)


@app.command(epilog=example("pulmo registry rollback phantom-demo --to v1"))
def rollback(
    name: Name,
    to: Annotated[
        str | None, typer.Option(help="A version that was in production; else the one before.")
    ] = None,
    reason: Reason = ASKED,
    json: AsJson = False,
) -> None:
    """Move `production` back to the version that held it before."""
    from pulmo.core.ports import ModelRef

    registry, _ = _open()
    number = None if to is None else registry.get(ModelRef.parse(f"{name}:{to}")).number
    _show_move(registry.rollback(name, to=number, actor=actor(), reason=reason), json)


@app.command(epilog=example("pulmo registry delete phantom-demo:v2"))
def delete(ref: Ref, reason: Reason = ASKED, json: AsJson = False) -> None:
    """Forget a version that no alias points at."""
    from pulmo.core.ports import ModelRef

    registry, _ = _open()
    version = registry.get(ModelRef.parse(ref))
    registry.delete(version.name, version.number, actor=actor(), reason=reason)
    output.as_json({"deleted": version.label}) if json else typer.echo(f"deleted {version.label}")


def configured(target: str, overrides: list[str] | None) -> "Config":
    """The configuration that judges the model of a reference, bundle folder or run folder."""
    from pulmo.config.compose import compose_for_model
    from pulmo.core.ports import ModelRef
    from pulmo.wiring import folder_named, open_bundle_folder

    folder = folder_named(target)
    name = open_bundle_folder(folder).info.name if folder else ModelRef.parse(target).name
    return compose_for_model(name, overrides or [])


def show_verdict(verdict: "Verdict") -> None:
    """Print every check of a verdict and its sum."""
    output.table(
        ("check", "passed", "detail"),
        [(one.name, "yes" if one.passed else "NO", one.detail) for one in verdict.checks],
    )
    against = verdict.champion_digest[:12] if verdict.champion_digest else "no champion"
    word = "passed" if verdict.passed else "refused"
    typer.echo(f"{verdict.name}@{verdict.model_digest[:12]} {word} (against {against})")


def _open(*, read_only: bool = False) -> tuple["Registry", "Settings"]:
    from pulmo.config.settings import load
    from pulmo.wiring import open_registry

    settings = load()
    return open_registry(settings, read_only=read_only), settings


def _show_versions(versions: "list[Version]", json: bool) -> None:
    if json:
        output.as_json(versions)
        return
    rows = [
        (v.label, v.metric, v.score, v.model_digest[:12], v.created_at, v.created_by, v.aliases)
        for v in versions
    ]
    output.table(("version", "metric", "score", "digest", "created", "by", "aliases"), rows)


def _show_moves(moves: "list[Move]") -> None:
    rows = [
        (m.at, m.alias, m.action, _number(m.before), _number(m.after), m.actor, m.reason)
        for m in moves
    ]
    output.table(("when", "alias", "action", "from", "to", "who", "why"), rows)


def _show_move(move: "Move", json: bool) -> None:
    output.as_json(move) if json else _show_moves([move])


def _origin(lineage: "Mapping[str, Any]") -> list[tuple[str, object]]:
    return [(name, value) for name, value in lineage.items() if name != "configuration"]


def _number(version: int | None) -> str | None:
    return None if version is None else f"v{version}"
