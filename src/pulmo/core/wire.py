"""What crosses the network: requests, answers and problems, for server and clients alike."""

import base64
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
)

PROBLEM_TYPE = "application/problem+json"
MAX_PICTURES = 16  # in one request
NAME = "^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$"  # of a model
VERSION = "^v(0|[1-9][0-9]{0,8})$"
ALIAS = "^[a-z][a-z0-9_-]{0,62}$"


def unpack(text: str) -> bytes:
    """Base64 text (RFC 4648, 4) to bytes. Raises ValueError for what is not in the alphabet,
    which Pydantic's own type skips.
    """
    return base64.b64decode(text, validate=True)


def _unpacked(value: Any) -> Any:
    return unpack(value) if isinstance(value, str) else value


def pack(data: bytes) -> str:
    """Bytes as base64 text."""
    return base64.b64encode(data).decode("ascii")


Packed = Annotated[
    bytes,
    BeforeValidator(_unpacked),
    PlainSerializer(pack, return_type=str),
    WithJsonSchema({"type": "string", "format": "byte", "contentEncoding": "base64"}),
]


class _Wire(BaseModel):
    model_config = ConfigDict(frozen=True)


class ModelName(_Wire):
    """Which model answered. `version` is `v3`, or null for a bundle that came from no registry."""

    name: str
    version: str | None = None
    digest: str = Field(description="Model digest, SHA-256.", pattern="^[0-9a-f]{64}$")

    def __str__(self) -> str:
        return f"{self.name}{':' + self.version if self.version else ''}@{self.digest[:12]}"


class Answer(_Wire):
    """The answer for one picture.

    A picture unlike those the model knows gets no diagnosis: `prediction` and `class_index` are
    null, and `probability` is that of the class the model leans to.
    """

    id: str
    prediction: str | None
    class_index: int | None = Field(ge=0)
    probability: float = Field(ge=0, le=1)
    probabilities: dict[str, float] = Field(description="Class name to probability.")
    decision: Literal["accept", "refer"] = Field(description="`refer`: a human should look.")
    reasons: tuple[str, ...]
    model: ModelName
    input_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    image_png: str | None = Field(
        default=None, description="`explain`: the picture under its heat map, base64 PNG."
    )
    heatmap_png: str | None = Field(
        default=None, description="`explain`: the heat map alone, base64 PNG with transparency."
    )


class Answers(_Wire):
    """One answer a picture, in the order they were sent, all by the same model."""

    answers: tuple[Answer, ...]


class OnePicture(_Wire):
    """A picture as JSON: an encoded file in base64."""

    model_config = ConfigDict(extra="forbid")

    image: Packed


class ManyPictures(_Wire):
    """Several pictures as JSON: encoded files in base64."""

    model_config = ConfigDict(extra="forbid")

    images: tuple[Packed, ...] = Field(min_length=1, max_length=MAX_PICTURES)


class Problem(_Wire):
    """What went wrong, by RFC 9457; `instance` names the request.

    `error` is `detail` again, where clients of the Open Inference Protocol look for it.
    """

    type: str = "about:blank"
    title: str
    status: int = Field(ge=400, le=599)
    detail: str
    instance: str
    error: str


class Health(_Wire):
    """Whether the server answers, and with which model; `reason` says why it does not."""

    status: Literal["ok", "unavailable"]
    model: ModelName | None = None
    reason: str | None = None


class RegisteredModel(_Wire):
    """A registered model; `aliases` says which version each points at."""

    name: str
    versions: int
    aliases: dict[str, str]


class RegisteredVersion(_Wire):
    """An immutable registered version; `score` is null where its metric is undefined."""

    name: str
    version: str
    model_digest: str
    bundle_digest: str
    metric: str
    score: float | None
    created_at: datetime
    created_by: str
    aliases: tuple[str, ...]


class StoredCheck(_Wire):
    """One staged test or rule of the gate: whether it passed, and why."""

    name: str
    passed: bool
    detail: str


class StoredVerdict(_Wire):
    """What the staged tests said of a version beside the champion of that time."""

    passed: bool
    at: datetime | None
    champion_digest: str | None
    suite_digest: str
    data_digest: str
    checks: tuple[StoredCheck, ...]


class VersionRecord(_Wire):
    """A version with its origins and verdicts, oldest first."""

    version: RegisteredVersion
    lineages: tuple[dict[str, Any], ...]
    verdicts: tuple[StoredVerdict, ...]


class AliasMove(_Wire):
    """A line of history: an alias went from one version to another, null is nowhere."""

    id: int
    name: str
    alias: str
    action: Literal["register", "set", "promote", "rollback", "remove"]
    before: str | None
    after: str | None
    actor: str
    reason: str
    evidence: dict[str, Any]
    at: datetime


class _Asked(_Wire):
    model_config = ConfigDict(extra="forbid")

    reason: str = Field(default="asked over HTTP", max_length=500, description="For the history.")


class Staging(_Asked):
    """Which version is to be tested."""

    version: str = Field(pattern=VERSION)


class Promotion(_Asked):
    """Which version is to go to production."""

    version: str = Field(pattern=VERSION)


class Rollback(_Asked):
    """Which version production goes back to; null is the one before."""

    to: str | None = Field(default=None, pattern=VERSION)
