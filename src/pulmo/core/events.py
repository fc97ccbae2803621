"""Events about aliases: what Pulmo tells of a move, and what W&B, GitHub and Pulmo ask for."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field, ValidationError

from pulmo.core.ports import STAGING, ModelRef, Version
from pulmo.errors import ConfigError, DataError, InvalidError

STAGED, MOVED = "staged_model", "alias_moved"  # what GitHub workflows listen to
DISPATCH_KEYS, DISPATCH_CHARACTERS = 10, 65_535  # GitHub's limits of a client_payload

# What is entered as the payload of a W&B automation; W&B puts values in the place of variables.
WANDB_PAYLOAD = {
    "event_type": "${event_type}",
    "event_author": "${event_author}",
    "alias": "${alias}",
    "artifact_version": "${artifact_version}",
    "artifact_version_string": "${artifact_version_string}",
    "artifact_collection_name": "${artifact_collection_name}",
    "project_name": "${project_name}",
    "entity_name": "${entity_name}",
    "model_digest": "${artifact_metadata.model_digest}",
}
# The same for an automation that starts the GitHub workflow itself.
WANDB_DISPATCH = {
    "event_type": STAGED,
    "client_payload": {
        "name": "${artifact_collection_name}",
        "alias": "${alias}",
        "model_digest": "${artifact_metadata.model_digest}",
    },
}

_DIGEST = re.compile(r"[0-9a-f]{64}")
_NUMBER = re.compile(r"v(0|[1-9][0-9]{0,8})")
_VARIABLE = re.compile(r"\$\{([a-z_.]+)\}")

Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Word = Annotated[str, Field(max_length=512)]

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Event:
    """One move of an alias, as it stands in the outbox."""

    id: str
    name: str
    payload: Mapping[str, Any]

    @property
    def body(self) -> bytes:
        """What is signed and sent; the same bytes at every attempt."""
        return json.dumps(self.payload, sort_keys=True, separators=(",", ":")).encode()


@dataclass(frozen=True)
class Asked:
    """A version that shall be tested; one event has one key, however often it is told.

    `artifact` is how W&B writes it, None where the event does not say or comes from elsewhere.
    """

    key: str
    ref: ModelRef
    source: str
    artifact: str | None = None

    @property
    def payload(self) -> dict[str, str]:
        """What a worker needs to know."""
        told = {"ref": str(self.ref), "alias": STAGING, "source": self.source}
        return told if self.artifact is None else {**told, "artifact": self.artifact}


class _Told(BaseModel):
    id: Id
    name: Word
    alias: Word
    after: int | None
    model_digest: Digest


class _ClientPayload(BaseModel):
    id: Id | None = None
    name: Word
    alias: Word = STAGING
    model_digest: Digest


class _Dispatched(BaseModel):
    action: Word
    client_payload: dict[str, Any] | None = None


class _Automated(BaseModel):
    event_type: Word
    alias: Word = ""
    artifact_version: Word = ""
    artifact_version_string: Word = ""
    artifact_collection_name: Word
    project_name: Word = ""
    entity_name: Word = ""
    model_digest: Word = ""


def asked_by_pulmo(body: bytes, source: str = "pulmo") -> Asked | None:
    """What one of our own events asks for: tests of what `staging` points at, else nothing.

    Raises DataError for what is no JSON, InvalidError for what is no such event.
    """
    told = _read(_Told, body)
    if told.alias != STAGING or told.after is None:
        return None
    return Asked(f"event:{told.id}", _exact(told.name, told.model_digest), source)


def asked_by_github(event: str, body: bytes) -> Asked | None:
    """What a webhook of GitHub asks for: a `repository_dispatch` of a staged model.

    `event` is the header X-GitHub-Event. A body without an event's id is known by its digest: the
    header X-GitHub-Delivery is not signed.
    """
    if event != "repository_dispatch":
        return None
    dispatched = _read(_Dispatched, body)
    if dispatched.action != STAGED:
        return None
    told = _read(_ClientPayload, json.dumps(dispatched.client_payload).encode())
    if told.alias != STAGING:
        return None
    key = f"event:{told.id}" if told.id else f"github:{hashlib.sha256(body).hexdigest()}"
    return Asked(key, _exact(told.name, told.model_digest), "github")


def asked_by_wandb(body: bytes) -> Asked | None:
    """What a webhook of W&B asks for, in the form of `WANDB_PAYLOAD`.

    W&B tells no id and no time: event, artifact and alias make the key.
    """
    told = _read(_Automated, body)
    name, _, last = told.artifact_version_string.rpartition(":")
    if STAGING not in (told.alias, last):
        return None
    if _DIGEST.fullmatch(told.model_digest):
        ref = _exact(told.artifact_collection_name, told.model_digest)
    else:
        number = last if _NUMBER.fullmatch(last) else STAGING
        ref = _parse(f"{told.artifact_collection_name}:{number}")
    artifact = (told.entity_name, told.project_name, told.artifact_version, name, last, str(ref))
    known = json.dumps([told.event_type, told.alias, *artifact])
    key = f"wandb:{hashlib.sha256(known.encode()).hexdigest()}"
    return Asked(key, ref, "wandb", told.artifact_version_string or None)


def dispatch(event: Event) -> bytes:
    """The body of a `repository_dispatch`. Raises InvalidError where GitHub would refuse it."""
    told = event.payload
    payload = {
        key: told[key] for key in ("id", "move", "name", "alias", "action", "model_digest", "at")
    }
    number = told["before"] if told["after"] is None else told["after"]
    payload["version"] = f"v{number}"
    staged = told["alias"] == STAGING and told["after"] is not None
    return checked_dispatch({"event_type": STAGED if staged else MOVED, "client_payload": payload})


def checked_dispatch(document: Mapping[str, Any]) -> bytes:
    """A dispatch as JSON, within GitHub's limits. Raises InvalidError."""
    payload = document["client_payload"]
    length = len(json.dumps(payload))
    if len(payload) > DISPATCH_KEYS or length > DISPATCH_CHARACTERS:
        raise InvalidError(
            f"GitHub takes {DISPATCH_KEYS} keys and {DISPATCH_CHARACTERS:,} characters, not "
            f"{len(payload)} and {length:,}"
        )
    return json.dumps(document, separators=(",", ":")).encode()


def github_body(dispatched: bytes, repository: str) -> bytes:
    """What GitHub's webhook `repository_dispatch` sends after a dispatch was taken."""
    document = json.loads(dispatched)
    told = {
        "action": document["event_type"],
        "branch": "main",
        "client_payload": document["client_payload"],
        "repository": {"full_name": repository},
        "sender": {"login": "pulmo", "type": "User"},
    }
    return json.dumps(told, separators=(",", ":")).encode()


def wandb_variables(version: Version, alias: str, entity: str, author: str) -> dict[str, str]:
    """The variables of W&B's automations for a version whose alias was set, with their values."""
    project = "wandb-registry-model"
    return {
        "event_type": "ADD_ARTIFACT_ALIAS",
        "event_author": author,
        "alias": alias,
        "artifact_version": f"wandb-artifact://_id/{version.model_digest[:24]}",
        "artifact_version_string": f"{entity}/{project}/{version.name}:v{version.number}",
        "artifact_collection_name": version.name,
        "project_name": project,
        "entity_name": entity,
        "artifact_metadata.model_digest": version.model_digest,
    }


def rendered(template: Mapping[str, Any], variables: Mapping[str, str]) -> bytes:
    """A payload with values in the place of its variables, as JSON."""

    def fill(match: re.Match[str]) -> str:
        return json.dumps(variables.get(match[1], ""))[1:-1]

    return _VARIABLE.sub(fill, json.dumps(template)).encode()


def _read(kind: type[M], body: bytes) -> M:
    try:
        return kind.model_validate_json(body, strict=True)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        if first["type"] == "json_invalid":
            raise DataError(f"the body is no JSON: {first['msg']}") from error
        where = ".".join(map(str, first["loc"])) or "the body"
        raise InvalidError(f"{where}: {first['msg']}") from error


def _exact(name: str, digest: str) -> ModelRef:
    return _parse(f"{name}@{digest}")


def _parse(text: str) -> ModelRef:
    try:
        return ModelRef.parse(text)
    except ConfigError as error:
        raise InvalidError(str(error)) from error
