"""Sign and verify webhooks over the raw bytes of their bodies, in constant time.

Three senders: Pulmo itself (the scheme of Standard Webhooks: HMAC-SHA256 over id, timestamp and
body), GitHub (`X-Hub-Signature-256: sha256=` and hex) and W&B (`X-Wandb-Signature` in base64, as
its documentation shows, or in hex, as some of its receivers read it).
"""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence

from pulmo.errors import ForgedError

WINDOW_S = 300  # how far a sender's clock may be off
ID, TIMESTAMP, SIGNATURE = "webhook-id", "webhook-timestamp", "webhook-signature"
GITHUB_SIGNATURE = "x-hub-signature-256"
WANDB_SIGNATURE = "x-wandb-signature"

PREFIX = "whsec_"  # before a secret that is written in base64
_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_SECONDS = re.compile(r"[1-9][0-9]{0,11}")
_HEX = re.compile(r"[0-9a-f]{64}")
_FORGED = "the signature does not belong to this body: is the secret the same on both sides?"


def sign(secret: str, id: str, timestamp: int, body: bytes) -> dict[str, str]:  # noqa: A002
    """The three headers that prove a body of ours; `timestamp` in seconds since 1970."""
    mac = base64.b64encode(_ours(secret, id, str(timestamp), body)).decode()
    return {ID: id, TIMESTAMP: str(timestamp), SIGNATURE: f"v1,{mac}"}


def verify(secrets: Sequence[str], headers: Mapping[str, str], body: bytes, now: float) -> str:
    """The id of a body that one of `secrets` signed within five minutes of `now`.

    `headers` have lower-case names. Raises ForgedError.
    """
    id_, timestamp = headers.get(ID, ""), headers.get(TIMESTAMP, "")
    if not _ID.fullmatch(id_) or not _SECONDS.fullmatch(timestamp):
        raise ForgedError(f"the headers {ID}, {TIMESTAMP} and {SIGNATURE} are needed")
    found = [_base64(one[3:]) for one in headers.get(SIGNATURE, "").split(" ") if one[:3] == "v1,"]
    expected = [_ours(secret, id_, timestamp, body) for secret in secrets]
    _require(found[:4], expected)
    if abs(now - int(timestamp)) > WINDOW_S:
        raise ForgedError(
            f"the message is more than {WINDOW_S} s old or new: send it again, check the clocks"
        )
    return id_


def sign_github(secret: str, body: bytes) -> dict[str, str]:
    """The header that GitHub sends with a body."""
    return {GITHUB_SIGNATURE: f"sha256={_mac(secret.encode(), body).hex()}"}


def verify_github(secrets: Sequence[str], headers: Mapping[str, str], body: bytes) -> None:
    """Raise ForgedError unless one of `secrets` signed the body as GitHub does."""
    told = headers.get(GITHUB_SIGNATURE, "")
    found = [_hex(told.removeprefix("sha256="))] if told.startswith("sha256=") else []
    _require(found, [_mac(secret.encode(), body) for secret in secrets])


def sign_wandb(secret: str, body: bytes, token: str | None = None) -> dict[str, str]:
    """The headers that W&B sends with a body."""
    headers = {WANDB_SIGNATURE: base64.b64encode(_mac(secret.encode(), body)).decode()}
    return headers if token is None else {**headers, "authorization": f"Bearer {token}"}


def verify_wandb(
    secrets: Sequence[str], headers: Mapping[str, str], body: bytes, tokens: Sequence[str] = ()
) -> None:
    """Raise ForgedError unless one of `secrets` signed the body as W&B does.

    With `tokens` one of them must be the bearer token.
    """
    told = headers.get(WANDB_SIGNATURE, "")
    _require([_hex(told) or _base64(told)], [_mac(secret.encode(), body) for secret in secrets])
    scheme, _, bearer = headers.get("authorization", "").partition(" ")
    given = bearer.encode() if scheme.lower() == "bearer" else b""
    if tokens and True not in [hmac.compare_digest(given, token.encode()) for token in tokens]:
        raise ForgedError("the access token is missing or not the one that is expected")


def _require(found: Sequence[bytes], expected: Sequence[bytes]) -> None:
    # All are compared, so that the time it takes does not tell which one was right.
    if True not in [hmac.compare_digest(one, good) for one in found for good in expected]:
        raise ForgedError(_FORGED)


def _ours(secret: str, id_: str, timestamp: str, body: bytes) -> bytes:
    return _mac(key(secret), f"{id_}.{timestamp}.".encode() + body)


def key(secret: str) -> bytes:
    """The bytes of a secret; none for one that begins like base64 and is not."""
    return _base64(secret.removeprefix(PREFIX)) if secret.startswith(PREFIX) else secret.encode()


def _mac(secret: bytes, message: bytes) -> bytes:
    return hmac.new(secret, message, hashlib.sha256).digest()


def _base64(text: str) -> bytes:
    """The bytes of canonical base64, nothing for anything else: a MAC has one spelling."""
    try:
        raw = base64.b64decode(text.encode(), validate=True)
    except (binascii.Error, ValueError):
        return b""
    return raw if base64.b64encode(raw).decode() == text else b""


def _hex(text: str) -> bytes:
    return bytes.fromhex(text) if _HEX.fullmatch(text) else b""
