"""What jobs and serving expect of the outside world, and the values that cross those seams."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Protocol

from pulmo.errors import ConfigError

PRODUCTION = "production"
STAGING = "staging"
LATEST = "latest"
BEST = "best"
AUTOMATIC_ALIASES = (LATEST, BEST)  # moved by `register` alone

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")
_ALIAS = re.compile(r"[a-z](?:[a-z0-9_-]{0,62})")
_VERSION = re.compile(r"v(0|[1-9][0-9]{0,8})")
_DIGEST = re.compile(r"[0-9a-f]{12,64}")


@dataclass(frozen=True)
class ModelRef:
    """One registered model: `name:alias`, `name:v3` or `name@digest` (12 to 64 hex digits)."""

    name: str
    alias: str | None = None
    version: int | None = None
    digest: str | None = None

    @classmethod
    def parse(cls, text: str, *, bare: str = LATEST) -> "ModelRef":
        """Read a reference; a bare `name` means its alias `bare`. Raises ConfigError."""
        name, at, digest = text.partition("@")
        if at:
            if _NAME.fullmatch(name) and _DIGEST.fullmatch(digest):
                return cls(name, digest=digest)
            raise ConfigError(_bad_reference(text))
        name, _, word = text.partition(":")
        word = word or bare
        if not _NAME.fullmatch(name):
            raise ConfigError(_bad_reference(text))
        if match := _VERSION.fullmatch(word):
            return cls(name, version=int(match[1]))
        if text.endswith(":") or not is_alias(word):
            raise ConfigError(_bad_reference(text))
        return cls(name, alias=word)

    def __str__(self) -> str:
        if self.digest is not None:
            return f"{self.name}@{self.digest}"
        return f"{self.name}:{self.alias if self.alias is not None else f'v{self.version}'}"


def _bad_reference(text: str) -> str:
    return (
        f"'{text}' names no model: write name:alias (my-task:production), name:v3 or "
        "name@digest with at least 12 hex digits"
    )


def is_name(text: str) -> bool:
    """Whether `text` can name a model: lower case letters, digits, '.', '_' and '-'."""
    return _NAME.fullmatch(text) is not None


def is_alias(text: str) -> bool:
    """Whether `text` can be an alias; words that look like a version (`v3`) cannot."""
    return _ALIAS.fullmatch(text) is not None and _VERSION.fullmatch(text) is None


@dataclass(frozen=True)
class Version:
    """One immutable registered model. Digests are 64 hex digits of SHA-256."""

    name: str
    number: int
    model_digest: str
    bundle_digest: str
    score: float  # the validation metric that `best` ranks by, higher is better
    metric: str  # its name
    created_at: datetime
    created_by: str
    aliases: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """How people write it: `my-task:v3`."""
        return f"{self.name}:v{self.number}"


@dataclass(frozen=True)
class Move:
    """One line of the append-only history of aliases; versions are numbers, None is "nowhere"."""

    id: int
    name: str
    alias: str
    action: Literal["register", "set", "promote", "rollback", "remove"]
    before: int | None
    after: int | None
    actor: str
    reason: str
    evidence: Mapping[str, Any]
    at: datetime


@dataclass(frozen=True)
class Check:
    """One staged test or gate rule: what it is called, whether it passed, and why."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True)
class Verdict:
    """What the staged tests and the gate said of one candidate, beside one champion.

    `champion_digest` is the model digest of the version that was in production when the tests ran,
    None where there was none. `suite_digest` covers the tests and their limits.
    """

    name: str
    model_digest: str
    suite_digest: str
    champion_digest: str | None
    passed: bool
    checks: Sequence[Check]
    data_digest: str
    id: int | None = None
    at: datetime | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Capabilities:
    """What an adapter of the registry can promise: whose moves `expected` holds back, and whether
    its aliases are also shown where other hands may move them (`pulmo.core.elsewhere`).
    """

    compare_and_swap: Literal["everyone", "pulmo"]
    shown_elsewhere: bool


class Registry(Protocol):
    """Named models with immutable versions, movable aliases and an append-only history.

    Every method raises NotFoundError where the model, version or alias is not there. `actor` says
    who asks, `reason` why.
    """

    capabilities: Capabilities

    def register(self, bundle: Path, *, actor: str) -> Version:
        """Store a verified bundle folder; a known model digest returns its version."""

    def get(self, ref: ModelRef) -> Version:
        """The version that a reference points at now."""

    def fetch(self, ref: ModelRef) -> Path:
        """A local folder with the bundle, every file checked against its digest."""

    def names(self) -> list[str]:
        """All model names, sorted."""

    def versions(self, name: str) -> list[Version]:
        """All versions of a model, oldest first, with their aliases."""

    def lineages(self, version: Version) -> list[Mapping[str, Any]]:
        """Every recorded origin of a version, oldest first (equal bytes trained twice: two)."""

    def history(self, name: str) -> list[Move]:
        """All alias moves of a model, oldest first."""

    def set_alias(
        self, name: str, alias: str, number: int, *, expected: int | None, actor: str, reason: str
    ) -> Move:
        """Point an alias at a version if it points at `expected` now, else ConflictError.

        `production` is refused (RefusedError): only `promote` and `rollback` move it. `latest`
        and `best` are refused too: they follow by themselves.
        """

    def remove_alias(
        self, name: str, alias: str, *, expected: int, actor: str, reason: str
    ) -> Move:
        """Take an alias away; `production`, `latest` and `best` are refused."""

    def record_verdict(self, verdict: Verdict) -> Verdict:
        """Store a verdict, passing or not, and return it with its id and time."""

    def verdicts(self, name: str, model_digest: str | None = None) -> list[Verdict]:
        """Stored verdicts, oldest first."""

    def promote(
        self, name: str, number: int, *, suite_digest: str, actor: str, reason: str
    ) -> Move:
        """Point `production` at a version, in one transaction with the check of its evidence.

        Refused (RefusedError) unless the newest stored verdict for this model digest, this suite
        digest and the present champion's digest passes.
        """

    def rollback(self, name: str, *, to: int | None, actor: str, reason: str) -> Move:
        """Point `production` at the version that held it before, or at `to` if it ever held it."""

    def delete(self, name: str, number: int, *, actor: str, reason: str) -> None:
        """Forget a version that no alias points at (`latest` and `best` fall back by themselves).

        Its number is never used again; its files stay until they are collected.
        """


@dataclass(frozen=True)
class Job:
    """One version to be tested, asked for by an event; a key is done once.

    It ends as done (tested and promoted), refused (by tests or gate), superseded (`staging` points
    elsewhere by now) or failed (what is asked cannot be done, `detail` says why).
    """

    id: int
    key: str
    name: str
    payload: Mapping[str, Any]
    state: Literal["waiting", "running", "done", "refused", "superseded", "failed"]
    attempts: int
    created_at: datetime
    ended_at: datetime | None = None
    detail: str | None = None
    claim: str | None = None  # of the worker that is at it

    @property
    def ended(self) -> bool:
        """Whether nobody will work at it any more, unless it is sent again."""
        return self.state not in ("waiting", "running")


class JobQueue(Protocol):
    """What events ask for, kept until it is done, also when a worker is killed."""

    def enqueue(self, key: str, name: str, payload: Mapping[str, Any]) -> tuple[Job, bool]:
        """The job of a key and whether it is new: a key that is known changes nothing."""

    def claim(self, key: str | None = None) -> Job | None:
        """A job that is due, or that of `key` if it is; nobody else gets it while it is held."""

    def hold(self, job: Job) -> bool:
        """Keep a claimed job a little longer; whether it is still ours."""

    def finish(self, job: Job, state: str, detail: str) -> None:
        """End a claimed job."""

    def retry(self, job: Job, error: str) -> None:
        """Give a claimed job back, to be tried later; after too many attempts it has failed."""

    def get(self, key: str) -> Job:
        """The job of a key. Raises NotFoundError."""

    def jobs(self) -> list[Job]:
        """All jobs, oldest first."""
