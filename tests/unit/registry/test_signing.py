import base64
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pulmo.core.bundle import FILES, SIGNATURE, SUMS, Bundle, verify
from pulmo.core.ports import ModelRef
from pulmo.errors import ConfigError, ModelError, RegistryError
from pulmo.registry import signing
from pulmo.registry.local import open_registry
from pulmo.registry.signing import Keys, make_keys

pytest.importorskip("cryptography", reason="the group `signing` is not installed")


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(*make_keys(tmp_path_factory.mktemp("keys")))


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(*make_keys(tmp_path_factory.mktemp("other")))


@pytest.fixture
def signed(toy_bundle: Bundle, keys: Keys, tmp_path: Path) -> Bundle:
    folder = Path(shutil.copytree(toy_bundle.path, tmp_path / "signed"))
    (folder / SIGNATURE).write_bytes(keys.sign(toy_bundle) or b"")
    return verify(folder)


def resigned(keys: Keys, statement: object, **envelope: object) -> bytes:
    """A signature by the right key over any words at all."""
    from cryptography.hazmat.primitives.asymmetric import ec

    payload = statement if isinstance(statement, bytes) else json.dumps(statement).encode()
    key = signing._private_key(keys.signing)
    proof = key.sign(signing._encoded(payload), ec.ECDSA(signing._hash(key.public_key())))
    inner = {
        "payload": base64.b64encode(payload).decode(),
        "signatures": [{"sig": base64.b64encode(proof).decode(), "keyid": ""}],
    }
    return json.dumps({"dsseEnvelope": inner | envelope}).encode()


def test_what_a_key_signed_holds_with_its_public_half(signed: Bundle, keys: Keys) -> None:
    assert Keys(public=keys.public).check(signed) == signed


def test_without_a_public_key_nothing_is_asked(toy_bundle: Bundle) -> None:
    assert Keys().check(toy_bundle) == toy_bundle
    assert Keys().sign(toy_bundle) is None


def test_an_unsigned_bundle_is_refused_with_what_to_do(toy_bundle: Bundle, keys: Keys) -> None:
    with pytest.raises(ModelError, match=r"is not signed, .* `pulmo registry sign`"):
        keys.check(toy_bundle)


def test_another_key_does_not_vouch(signed: Bundle, other: Keys) -> None:
    with pytest.raises(ModelError, match="by another key, or changed since"):
        other.check(signed)


def test_the_signature_of_another_bundle_does_not_vouch(
    signed: Bundle, keys: Keys, make_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    foreign = make_bundle(tmp_path / "foreign", weights=b"other")
    shutil.copy(signed.path / SIGNATURE, foreign.path)
    with pytest.raises(ModelError, match="it signs other files"):
        keys.check(verify(foreign.path))


def test_every_flipped_bit_of_a_signature_is_noticed_or_means_nothing(
    signed: Bundle, keys: Keys
) -> None:
    path = signed.path / SIGNATURE
    whole = path.read_bytes()
    envelope = json.loads(whole)["dsseEnvelope"]
    for text in (envelope["payload"], envelope["signatures"][0]["sig"]):
        begin = whole.index(text.encode())
        # The last characters of base64 may carry bits that decode to nothing.
        for position in range(begin, begin + len(text) - 3, 7):
            damaged = bytearray(whole)
            damaged[position] ^= 1
            path.write_bytes(damaged)
            with pytest.raises(ModelError):
                keys.check(signed)


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\xff\xfe",
        b"null",
        b"[]",
        b"{}",
        b"[" * 60_000,
        b'{"dsseEnvelope": {"signatures": []}}',
        b'{"dsseEnvelope": {"signatures": [{"sig": "AA=="}], "payload": 1}}',
        b'{"dsseEnvelope": {"signatures": [{"sig": "AA=="}, {"sig": "AA=="}], "payload": ""}}',
        b'{"dsseEnvelope": {"signatures": [{"sig": "*"}], "payload": "AA=="}}',
    ],
)
def test_a_file_that_is_no_signature_proves_nothing(
    signed: Bundle, keys: Keys, garbage: bytes
) -> None:
    (signed.path / SIGNATURE).write_bytes(garbage)
    with pytest.raises(ModelError, match="does not hold"):
        keys.check(signed)


def test_only_a_whole_statement_about_these_files_counts(signed: Bundle, keys: Keys) -> None:
    right = signing._statement(signed)
    resources = right["predicate"]["resources"]
    fewer = {**right, "predicate": {"resources": resources[1:]}}
    weak = {"resources": [{**one, "algorithm": "md5"} for one in resources]}
    wrong: list[Any] = [
        [],
        b"no json",
        {**right, "_type": "another"},
        {**right, "predicateType": "https://model_signing/Digests/v0.1"},
        {**right, "subject": []},
        {**right, "subject": right["subject"] * 2},
        fewer,
        {**fewer, "subject": [{"digest": {"sha256": signing._root(resources[1:])}}]},
        {**right, "predicate": weak},
    ]
    for statement in wrong:
        (signed.path / SIGNATURE).write_bytes(resigned(keys, statement))
        with pytest.raises(ModelError, match="does not hold"):
            keys.check(signed)
    (signed.path / SIGNATURE).write_bytes(resigned(keys, right))
    keys.check(signed)


def test_a_bundle_that_changes_after_it_was_verified_is_refused(signed: Bundle, keys: Keys) -> None:
    (signed.path / SUMS).write_text("")
    with pytest.raises(ModelError, match="changed after it was verified"):
        keys.check(signed)


@pytest.mark.parametrize("curve", ["SECP256R1", "SECP384R1", "SECP521R1"])
@pytest.mark.filterwarnings("ignore")
def test_the_reference_implementation_agrees_both_ways(
    toy_bundle: Bundle, tmp_path: Path, curve: str
) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
    from model_signing import hashing, verifying
    from model_signing import signing as reference

    key = ec.generate_private_key(getattr(ec, curve)())
    ours = Keys(tmp_path / "key", tmp_path / "pub")
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "key").write_bytes(pem)
    (tmp_path / "pub").write_bytes(signing._pem(key.public_key()))
    folder = Path(shutil.copytree(toy_bundle.path, tmp_path / "bundle"))

    (folder / SIGNATURE).write_bytes(ours.sign(toy_bundle) or b"")
    theirs = verifying.Config().use_elliptic_key_verifier(public_key=ours.public)
    theirs.verify(folder, folder / SIGNATURE)

    (folder / SIGNATURE).unlink()
    config = hashing.Config().set_ignored_paths(paths=[folder / SIGNATURE])
    reference.Config().use_elliptic_key_signer(private_key=ours.signing).set_hashing_config(
        config
    ).sign(folder, folder / SIGNATURE)
    ours.check(verify(folder))


def test_keys_are_made_once_and_the_private_one_is_private(tmp_path: Path) -> None:
    private, public = make_keys(tmp_path / "keys")
    assert private.stat().st_mode & 0o777 == 0o600
    assert b"PRIVATE" not in public.read_bytes()
    before = private.read_bytes()
    with pytest.raises(RegistryError, match="no keys were made"):
        make_keys(tmp_path / "keys")
    assert private.read_bytes() == before


def test_a_key_that_is_none_is_told_without_its_bytes(
    toy_bundle: Bundle, signed: Bundle, tmp_path: Path
) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        PrivateFormat,
    )

    locked = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"word")
    )
    curve = ec.generate_private_key(ec.SECP256K1()).public_key()
    edwards = ed25519.Ed25519PrivateKey.generate().public_key()
    path = tmp_path / "key"
    for content in (b"secret", locked):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"PULMO_SIGNING_KEY: .*keygen") as told:
            Keys(signing=path).sign(toy_bundle)
        assert "secret" not in str(told.value)
    for content in (b"secret", signing._pem(curve), signing._pem(edwards)):  # type: ignore[arg-type]
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"PULMO_PUBLIC_KEY: .*keygen"):
            Keys(public=path).check(signed)
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        Keys(public=tmp_path / "nowhere").check(signed)


def test_without_the_package_one_sentence_says_how_to_get_it(
    signed: Bundle, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(ConfigError, match="`uv sync --group signing`"):
        keys.check(signed)


def test_nothing_is_loaded_before_a_key_asks_for_it() -> None:
    code = "import sys, pulmo.registry.signing; print('cryptography' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "False\n"


@pytest.mark.parametrize("place", ["{}/bundles", "local://{}/bundles"])
def test_a_registry_signs_what_it_takes_and_checks_what_it_gives(
    toy_bundle: Bundle, make_bundle: Callable[..., Bundle], keys: Keys, tmp_path: Path, place: str
) -> None:
    def opened(keys: Keys | None = None):
        files = place.format(tmp_path)
        url = f"sqlite:///{tmp_path}/registry.db"
        return open_registry(url, files, cache=tmp_path / "cache", keys=keys)

    plain, trusting = opened(), opened(Keys(public=keys.public))
    toy = ModelRef.parse("toy:v0")
    plain.register(toy_bundle.path, actor="ada")
    plain.fetch(toy)
    with pytest.raises(ModelError, match="is not signed"):
        trusting.fetch(toy)
    with pytest.raises(ConfigError, match="let PULMO_SIGNING_KEY name its file"):
        plain.sign(toy)
    assert opened(keys).sign(toy).label == "toy:v0"
    assert trusting.fetch(toy) == plain.fetch(toy)
    assert verify(trusting.fetch(toy)).digest == toy_bundle.digest

    second = make_bundle(tmp_path / "second", weights=b"second")
    opened(keys).register(second.path, actor="ada")
    assert sorted(p.name for p in trusting.fetch(ModelRef.parse("toy:v1")).iterdir()) == sorted(
        (*FILES, SUMS, SIGNATURE)
    )


def test_a_signature_travels_with_its_bundle_and_gives_way_only_to_a_new_one(
    signed: Bundle, keys: Keys, other: Keys, toy_bundle: Bundle, tmp_path: Path
) -> None:
    def opened(keys: Keys):
        return open_registry(
            f"sqlite:///{tmp_path}/registry.db", str(tmp_path / "bundles"), keys=keys
        )

    toy, trusting = ModelRef.parse("toy"), opened(Keys(public=keys.public))
    trusting.register(toy_bundle.path, actor="ada")
    trusting.register(signed.path, actor="ada")
    trusting.fetch(toy)
    # Whoever may register cannot take a signature away.
    (signed.path / SIGNATURE).write_bytes(other.sign(toy_bundle) or b"")
    trusting.register(signed.path, actor="eve")
    trusting.register(toy_bundle.path, actor="eve")
    trusting.fetch(toy)
    opened(other).sign(toy)
    with pytest.raises(ModelError, match="another key"):
        trusting.fetch(toy)
    opened(Keys(public=other.public)).fetch(toy)
