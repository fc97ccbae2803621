"""API keys: made at random, kept as digests in one small file each, compared in constant time.

A key is 256 random bits, which nobody can guess from its SHA-256: a slow hash, made for what people
think up, would only cost every request its time. The key's text begins with the id of its file, so
that a secret is compared once, and is found by tools that look for leaked secrets.
"""

import contextlib
import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from pulmo.errors import ConfigError, NotFoundError

_TEXT = re.compile(r"pulmo_([0-9a-f]{8})_[A-Za-z0-9_-]{43}")
_LINE = re.compile(r"([0-9a-f]{8}):(predict|admin):([0-9a-f]{64})(:any-version)?")
_NO_DIGEST = "0" * 64
_NEVER = datetime(1, 1, 1, tzinfo=UTC)


class Key(BaseModel):
    """A key as it is kept: who has it and what it opens, never the key itself.

    `any_version` lets it ask versions of a model beside the one that is served.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(pattern="^[0-9a-f]{8}$")
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._@-]{0,63}$")
    role: Literal["predict", "admin"]
    any_version: bool = False
    digest: str = Field(pattern="^[0-9a-f]{64}$")
    created_at: AwareDatetime | None = None
    created_by: str = ""
    revoked_at: AwareDatetime | None = None
    revoked_by: str = ""

    def line(self) -> str:
        """The key as one word of PULMO_API_KEYS."""
        return ":".join((self.id, self.role, self.digest) + ("any-version",) * self.any_version)


def create(
    folder: Path, name: str, role: Literal["predict", "admin"], *, any_version: bool, actor: str
) -> tuple[str, Key]:
    """A new key: its text, which is kept nowhere, and what is kept. Raises ConfigError."""
    number = secrets.token_hex(4)
    text = f"pulmo_{number}_{secrets.token_urlsafe(32)}"
    try:
        key = Key(
            id=number,
            name=name,
            role=role,
            any_version=any_version,
            digest=_digest(text),
            created_at=datetime.now(UTC),
            created_by=actor,
        )
    except ValidationError as error:
        raise ConfigError(
            f"'{name}' cannot name a key: use up to 64 letters, digits, spaces and . _ @ -"
        ) from error
    _write(folder, key)
    return text, key


def revoke(folder: Path, number: str, *, actor: str) -> Key:
    """Let a key open nothing any more; its file stays, to tell. Raises NotFoundError."""
    known = {key.id: key for key in load(folder)}
    if number not in known:
        raise NotFoundError(f"no key in {folder} has the id '{number}': see `pulmo keys list`")
    key = known[number]
    if key.revoked_at is None:
        key = key.model_copy(update={"revoked_at": datetime.now(UTC), "revoked_by": actor})
        _write(folder, key)
    return key


def load(folder: Path) -> list[Key]:
    """Every key of a folder, revoked ones too, oldest first; none where there is no folder.

    Raises ConfigError.
    """
    found = []
    try:
        for path in _files(folder):
            found.append(Key.model_validate_json(path.read_bytes()))
    except ValidationError as error:
        raise ConfigError(f"{path} is no key: remove it, or restore it from a backup") from error
    except OSError as error:
        raise ConfigError(f"the keys in {folder} cannot be read: {error.strerror}") from error
    return sorted(found, key=lambda key: (key.created_at or _NEVER, key.id))


def listed(words: str) -> list[Key]:
    """The keys in a text of `Key.line`s, as PULMO_API_KEYS has them. Raises ConfigError."""
    return [_from_line(word) for word in re.split(r"[\s,]+", words) if word]


def _from_line(word: str) -> Key:
    match = _LINE.fullmatch(word)
    if match is None:
        raise ConfigError(
            "the environment variable PULMO_API_KEYS is wrong: write id:role:sha256 as "
            "`pulmo keys create --json` tells it, separated by commas"
        )
    number, role, digest, wide = match.groups()
    told = {"id": number, "name": number, "role": role, "digest": digest}
    return Key.model_validate({**told, "any_version": wide is not None})


def by_id(keys: Iterable[Key]) -> Mapping[str, Key]:
    """Keys by their ids; of equal ids the later one counts, and a revoked one always."""
    found: dict[str, Key] = {}
    for key in keys:
        if key.id not in found or found[key.id].revoked_at is None:
            found[key.id] = key
    return found


def opened(keys: Mapping[str, Key], text: str) -> Key | None:
    """The key that `text` is, None where it is none of `keys` or was revoked."""
    match = _TEXT.fullmatch(text)
    key = keys.get(match[1]) if match else None
    same = hmac.compare_digest(_digest(text), key.digest if key else _NO_DIGEST)
    return key if key is not None and same and key.revoked_at is None else None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _files(folder: Path) -> list[Path]:
    """The files of keys. A glob would show nothing where a folder may not be read."""
    try:
        return [path for path in folder.iterdir() if path.suffix == ".json"]
    except FileNotFoundError:
        return []


def _write(folder: Path, key: Key) -> None:
    """Write a key's file whole or not at all, for its owner alone to read."""
    part = folder / f".{key.id}.{secrets.token_hex(4)}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(key.model_dump_json(indent=2, exclude_defaults=True) + "\n")
            file.flush()
            os.fsync(file.fileno())
        part.replace(folder / f"{key.id}.json")
        if os.name != "nt":  # a revoked key must not come back after a loss of power
            names = os.open(folder, os.O_RDONLY)
            os.fsync(names)
            os.close(names)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise ConfigError(f"{folder} cannot keep a key: {error.strerror}") from error
