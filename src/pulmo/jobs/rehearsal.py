"""The whole chain of a staged model, played on a copy of the ledger: nothing real is moved."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pulmo.core import events, signatures
from pulmo.core.ports import PRODUCTION, STAGING, ModelRef, Version
from pulmo.errors import NotFoundError, RegistryError
from pulmo.jobs import release
from pulmo.jobs.hooks import Workplace, work

REASON = "a rehearsal"
REPOSITORY = "owner/repository"

# A body and its headers to a path of the receiver; the status and what it says.
Post = Callable[[str, bytes, Mapping[str, str]], tuple[int, Any]]


@dataclass(frozen=True)
class Secrets:
    """What the senders and the receiver of a rehearsal share."""

    wandb: str
    token: str
    github: str


@dataclass(frozen=True)
class Step:
    """One step of the chain: what it is, and what was seen."""

    title: str
    told: Mapping[str, Any]


def rehearse(
    place: Workplace, ref: ModelRef, secrets: Secrets, post: Post, workflows: Path
) -> Iterator[Step]:
    """Stage a model, tell it as W&B and GitHub would, receive that, test the model and promote it.

    `place` works on a copy of the registry. Raises RegistryError where the receiver takes what
    it must refuse, or refuses what it must take.
    """
    version = place.registry.get(ref)
    _stage(place, version)
    yield Step("staged, on a copy of the ledger", {"model": version.label, "alias": STAGING})
    variables = events.wandb_variables(version, STAGING, "entity", place.actor)
    body = events.rendered(events.WANDB_PAYLOAD, variables)
    headers = signatures.sign_wandb(secrets.wandb, body, secrets.token)
    yield _sent("W&B sends", post, "/webhooks/wandb", body, headers)
    forged = body.replace(STAGING.encode(), b"staginG", 1)
    _expect(post("/webhooks/wandb", forged, headers), 401)
    _expect(post("/webhooks/wandb", body, headers), 202, "known")
    yield Step("sent again: known; with one letter changed: refused", {})
    yield from _through_github(version, variables, secrets, post)
    yield _workflow(workflows)
    for job in work(place):
        told = {"asked by": job.payload["source"], "state": job.state, "detail": job.detail}
        yield Step("worked", told)
    verdicts = place.registry.verdicts(version.name, version.model_digest)
    yield Step("verdict", {"verdict": verdicts[-1] if verdicts else None})
    yield Step("in production, on the copy", {"model": _in_production(place, version)})


def _stage(place: Workplace, version: Version) -> None:
    """Point `staging` at a version, also where it is: tests answer the newest move."""
    if STAGING in version.aliases:
        place.registry.remove_alias(
            version.name, STAGING, expected=version.number, actor=place.actor, reason=REASON
        )
    release.point(place.registry, version, actor=place.actor, reason=REASON)


def _through_github(
    version: Version, variables: Mapping[str, str], secrets: Secrets, post: Post
) -> Iterator[Step]:
    """W&B may start the workflow itself; GitHub then tells its own webhooks of the dispatch."""
    dispatched = events.checked_dispatch(
        json.loads(events.rendered(events.WANDB_DISPATCH, variables))
    )
    told = {"POST": f"https://api.github.com/repos/{REPOSITORY}/dispatches"}
    yield Step("GitHub is sent", {**told, "body": dispatched.decode()})
    body = events.github_body(dispatched, REPOSITORY)
    headers = {
        "x-github-event": "repository_dispatch",
        "x-github-delivery": f"rehearsal-{version.number}",
        **signatures.sign_github(secrets.github, body),
    }
    yield _sent("GitHub sends", post, "/webhooks/github", body, headers)


def _sent(title: str, post: Post, path: str, body: bytes, headers: Mapping[str, str]) -> Step:
    status, answer = _expect(post(path, body, headers), 202, "queued")
    told = {"POST": path, "headers": _shown(headers), "body": body.decode()}
    return Step(title, {**told, "answer": f"{status} {json.dumps(answer)}"})


def _expect(answered: tuple[int, Any], status: int, word: str | None = None) -> tuple[int, Any]:
    code, document = answered
    if code != status or (word is not None and document.get("status") != word):
        raise RegistryError(
            f"the receiver answered {code} {json.dumps(document)} where {status} was expected"
        )
    return answered


def _shown(headers: Mapping[str, str]) -> dict[str, str]:
    return {key: "Bearer ***" if key == "authorization" else headers[key] for key in headers}


def _workflow(folder: Path) -> Step:
    """The workflows that a dispatch would start, with the commands of their steps."""
    import yaml  # type: ignore[import-untyped]

    found: dict[str, list[str]] = {}
    for path in sorted(folder.glob("*.y*ml")):
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        listens = document.get("on", document.get(True)) or {}  # YAML 1.1 reads `on` as true
        heard = listens.get("repository_dispatch") if isinstance(listens, dict) else None
        if heard and events.STAGED in heard.get("types", []):
            steps = [step for job in document["jobs"].values() for step in job.get("steps", [])]
            found[path.name] = [step["run"].strip() for step in steps if "run" in step]
    if not found:
        return Step(f"no workflow in {folder} listens to {events.STAGED}", {})
    return Step("workflow", found)


def _in_production(place: Workplace, version: Version) -> str | None:
    try:
        return place.registry.get(ModelRef(version.name, alias=PRODUCTION)).label
    except NotFoundError:
        return None
