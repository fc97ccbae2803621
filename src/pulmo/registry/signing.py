"""Signatures of bundles by a key: OpenSSF model signing v1.0, made and checked offline.

`model.sig` is a Sigstore bundle (JSON) with a DSSE envelope; inside lies an in-toto statement that
names every file of the bundle, SHA256SUMS too, with its SHA-256.
https://github.com/ossf/model-signing-spec, https://github.com/secure-systems-lab/dsse
"""

import base64
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pulmo.core.bundle import SIGNATURE, SUMS, Bundle, sha256
from pulmo.errors import ConfigError, ModelError, RegistryError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import (
        EllipticCurvePrivateKey,
        EllipticCurvePublicKey,
    )
    from cryptography.hazmat.primitives.hashes import HashAlgorithm

PRIVATE, PUBLIC = "signing.key", "signing.pub"

_MEDIA = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD = "application/vnd.in-toto+json"
_STATEMENT = "https://in-toto.io/Statement/v1"
_PREDICATE = "https://model_signing/signature/v1.0"
_CURVES = ("secp256r1", "secp384r1", "secp521r1")


@dataclass(frozen=True)
class Keys:
    """Files of the keys that sign new bundles and check bundles before they are used, as PEM."""

    signing: Path | None = None
    public: Path | None = None

    def sign(self, bundle: Bundle) -> bytes | None:
        """The signature of a verified bundle, None without a key. Raises ConfigError."""
        return None if self.signing is None else _sign(bundle, _private_key(self.signing))

    def check(self, bundle: Bundle) -> Bundle:
        """The bundle if its `model.sig` vouches for it; without a public key any bundle.

        Raises ModelError for a bundle that is not signed by this key, ConfigError for a key that
        is none.
        """
        if self.public is None:
            return bundle
        key, signature = _public_key(self.public), bundle.signature
        if signature is None:
            raise ModelError(
                f"{bundle.path} is not signed, and PULMO_PUBLIC_KEY asks for signed bundles: "
                "`pulmo registry sign` signs a registered one"
            )
        try:
            signed = _signed_digests(signature, key)
        # Whatever hostile JSON does to a reader: a missing key, a wrong kind, a bad encoding.
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise _refusal(bundle, self.public, str(error) or type(error).__name__) from error
        if signed != _digests(bundle):
            raise _refusal(bundle, self.public, "it signs other files")
        return bundle


def make_keys(folder: Path) -> tuple[Path, Path]:
    """A new pair in `folder`: the private key, for its owner alone to read, and the public one.

    Raises RegistryError where one is there already or cannot be written.
    """
    with_cryptography()
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    key = ec.generate_private_key(ec.SECP256R1())
    private, public = folder / PRIVATE, folder / PUBLIC
    try:
        folder.mkdir(parents=True, exist_ok=True)
        private.touch(mode=0o600, exist_ok=False)
        private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        public.write_bytes(_pem(key.public_key()))
    except OSError as error:
        raise RegistryError(f"no keys were made in {folder}: {error.strerror}") from error
    return private, public


def with_cryptography() -> None:
    """Raise ConfigError where the package that knows keys is not installed."""
    try:
        import cryptography  # noqa: F401 - only whether it is there
    except ImportError as error:
        raise ConfigError(
            "signatures of bundles need a package that is not installed: `uv sync --group signing`"
        ) from error


def _sign(bundle: Bundle, key: "EllipticCurvePrivateKey") -> bytes:
    from cryptography.hazmat.primitives.asymmetric import ec

    payload = json.dumps(_statement(bundle)).encode()
    signature = key.sign(_encoded(payload), ec.ECDSA(_hash(key.public_key())))
    hint = sha256(_pem(key.public_key()))
    document = {
        "mediaType": _MEDIA,
        "verificationMaterial": {"publicKey": {"hint": hint}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": _PAYLOAD,
            "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
        },
    }
    return json.dumps(document).encode()


def _statement(bundle: Bundle) -> dict[str, Any]:
    digests = _digests(bundle)
    resources = [
        {"name": name, "algorithm": "sha256", "digest": digests[name]} for name in sorted(digests)
    ]
    return {
        "_type": _STATEMENT,
        "subject": [{"name": bundle.info.name, "digest": {"sha256": _root(resources)}}],
        "predicateType": _PREDICATE,
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": [SIGNATURE],
            },
            "resources": resources,
        },
    }


def _signed_digests(signature: bytes, key: "EllipticCurvePublicKey") -> dict[str, str]:
    """The digest of each signed file; whatever is raised says that nothing is proven."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import ec

    envelope = json.loads(signature)["dsseEnvelope"]
    (signed,) = envelope["signatures"]
    payload = base64.b64decode(envelope["payload"], validate=True)
    proof = base64.b64decode(signed["sig"], validate=True)
    try:
        key.verify(proof, _encoded(payload), ec.ECDSA(_hash(key)))
    except InvalidSignature:
        raise ValueError("it was made by another key, or changed since") from None
    # From here on the words are those of the key's owner.
    statement = json.loads(payload)
    resources = statement["predicate"]["resources"]
    (subject,) = statement["subject"]
    kinds = statement["_type"], statement["predicateType"], subject["digest"]["sha256"]
    if kinds != (_STATEMENT, _PREDICATE, _root(resources)):
        raise ValueError("it is no statement about a model's files")
    if any(one["algorithm"] != "sha256" for one in resources):
        raise ValueError("it names digests other than SHA-256")
    return {one["name"]: one["digest"] for one in resources}


def _digests(bundle: Bundle) -> dict[str, str]:
    """SHA-256 of every file of a verified bundle, as SHA256SUMS told when it was verified."""
    sums = (bundle.path / SUMS).read_bytes()
    if sha256(sums) != bundle.digest:
        raise ModelError(f"{bundle.path} changed after it was verified: fetch it again")
    lines = (line.split("  ") for line in sums.decode().splitlines())
    return {name: digest for digest, name in lines} | {SUMS: bundle.digest}


def _root(resources: list[dict[str, str]]) -> str:
    return hashlib.sha256(b"".join(bytes.fromhex(one["digest"]) for one in resources)).hexdigest()


def _encoded(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: what is signed names its own kind and length."""
    return b"DSSEv1 %d %s %d %s" % (len(_PAYLOAD), _PAYLOAD.encode(), len(payload), payload)


def _private_key(path: Path) -> "EllipticCurvePrivateKey":
    with_cryptography()
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    parse = partial(load_pem_private_key, password=None)
    return cast("EllipticCurvePrivateKey", _read_key(path, "PULMO_SIGNING_KEY", parse))


def _public_key(path: Path) -> "EllipticCurvePublicKey":
    with_cryptography()
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    return cast("EllipticCurvePublicKey", _read_key(path, "PULMO_PUBLIC_KEY", load_pem_public_key))


def _read_key(path: Path, variable: str, parse: Callable[[bytes], object]) -> object:
    """A key that signs by an elliptic curve of NIST. Raises ConfigError, which shows no bytes."""
    try:
        key = parse(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{variable}: {path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError):  # no PEM, or a key behind a password
        key = None
    if getattr(getattr(key, "curve", None), "name", None) not in _CURVES:
        raise ConfigError(
            f"{variable}: {path} holds no such key as PEM, without a password, on the curve "
            "P-256, P-384 or P-521: `pulmo registry keygen` makes a pair"
        )
    return key


def _hash(key: "EllipticCurvePublicKey") -> "HashAlgorithm":
    from cryptography.hazmat.primitives import hashes

    return {256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}[key.curve.key_size]


def _pem(key: "EllipticCurvePublicKey") -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _refusal(bundle: Bundle, key: Path, why: str) -> ModelError:
    return ModelError(
        f"the signature of {bundle.path} does not hold with {key} (PULMO_PUBLIC_KEY), {why}: "
        "take the bundle from whoever signed it, or sign it anew with `pulmo registry sign`"
    )
