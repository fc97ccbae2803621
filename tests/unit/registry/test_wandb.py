import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pulmo.config.hooks import HookSettings
from pulmo.config.settings import Settings
from pulmo.core.bundle import Bundle, verify
from pulmo.core.ports import Check, ModelRef, Verdict, Version
from pulmo.errors import ConfigError, ModelError, NotFoundError, RegistryError
from pulmo.registry.delivery import Sender
from pulmo.registry.signing import Keys, make_keys
from pulmo.registry.wandb import WandbRegistry
from pulmo.registry.wandb_artifacts import Artifacts
from pulmo.registry.wandb_mirror import WandbAliases, open_wandb

BY = {"actor": "ada", "reason": "because"}


@dataclass(frozen=True)
class House:
    """A registry with W&B, and W&B."""

    wandb: Any
    registry: WandbRegistry
    sender: Sender
    aliases: WandbAliases
    folder: Path

    def shown(self) -> dict[str, int]:
        """What W&B says of aliases, by its own numbers."""
        collection = self.wandb.collection("toy")
        return {
            alias: version.number
            for version in collection.committed
            for alias, at in collection.aliases.items()
            if at == version.id
        }


@pytest.fixture
def house(wandb_house: Any, tmp_path: Path) -> Iterator[House]:
    registry, sender, aliases = open_wandb(settings(tmp_path), HookSettings(), Keys())
    yield House(wandb_house, registry, sender, aliases, tmp_path)
    wandb_house.protected.clear()
    registry.close()
    assert wandb_house.refused == []


def settings(folder: Path, files: str = "copies") -> Settings:
    return Settings(
        registry="wandb",
        registry_url=f"sqlite:///{folder}/registry.db",
        files_url=str(folder / files),
    )


@pytest.fixture
def put(house: House, a_bundle: Callable[..., Bundle]) -> Callable[..., Version]:
    def register(number: int, **changes: Any) -> Version:
        return house.registry.register(a_bundle(number, **changes).path, actor="ada")

    return register


Put = Callable[..., Version]


def test_an_artifact_says_what_is_in_it(house: House, a_bundle: Callable[..., Bundle]) -> None:
    bundle = a_bundle(1, score=0.9)
    house.registry.register(bundle.path, actor="ada")
    collection = house.wandb.collection("toy")
    (version,) = collection.committed
    about = json.loads(version.metadata)
    assert collection.kind == "model"
    assert about["model_digest"] == bundle.info.model_digest
    assert about["bundle_digest"] == bundle.digest
    assert about["metrics"]["val"]["auroc"] == {"value": 0.9, "low": 0.85, "high": 1.0}
    (kept,) = Artifacts().versions("toy")
    assert kept.digest == version.digest
    assert kept.path == f"clinic/{house.wandb.project}/toy:v0"


def test_aliases_follow_the_ledger_and_history_is_kept(house: House, put: Put) -> None:
    first, second = put(1, score=0.9), put(2, score=0.8)
    assert house.shown() == {"latest": 1, "best": 0}
    house.registry.set_alias("toy", "team", first.number, expected=None, **BY)
    house.registry.set_alias("toy", "team", second.number, expected=0, **BY)
    assert house.shown() == {"latest": 1, "best": 0, "team": 1}
    house.registry.remove_alias("toy", "team", expected=1, **BY)
    assert house.shown() == {"latest": 1, "best": 0}
    assert [move.action for move in house.registry.history("toy") if move.alias == "team"] == [
        "set",
        "set",
        "remove",
    ]


def test_promotions_and_rollbacks_are_shown(house: House, put: Put) -> None:
    champion = None
    for version in (put(1), put(2)):
        passed = (Check("floor", True, ""),)
        verdict = Verdict("toy", version.model_digest, "suite", champion, True, passed, "0" * 64)
        house.registry.record_verdict(verdict)
        house.registry.promote("toy", version.number, suite_digest="suite", **BY)
        assert house.shown()["production"] == version.number
        champion = version.model_digest
    house.registry.rollback("toy", to=None, **BY)
    assert house.shown()["production"] == 0
    assert [m.action for m in house.registry.history("toy") if m.alias == "production"] == [
        "promote",
        "promote",
        "rollback",
    ]


def test_equal_bytes_are_one_artifact(house: House, put: Put) -> None:
    assert put(1) == put(1)
    assert len(house.wandb.collection("toy").committed) == 1


def test_another_machine_fetches_from_wandb_by_alias_number_and_digest(
    house: House, put: Put, a_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    version = put(1)
    refs = ("toy:best", "toy:v0", f"toy@{version.model_digest[:16]}")
    for number, ref in enumerate(refs):
        other = open_wandb(settings(tmp_path, f"other-{number}"), None, Keys())[0]
        folder = other.fetch(ModelRef.parse(ref))
        assert folder.parent == tmp_path / f"other-{number}"
        assert verify(folder).digest == a_bundle(1).digest
        other.close()


def test_a_damaged_copy_is_mended_from_wandb(house: House, put: Put) -> None:
    version = put(1)
    copy = house.folder / "copies" / version.bundle_digest / "model.onnx"
    copy.write_bytes(b"damaged")
    assert verify(house.registry.fetch(ModelRef.parse("toy:v0"))).digest == version.bundle_digest


def test_other_bytes_than_the_digest_names_are_refused(
    house: House, put: Put, tmp_path: Path
) -> None:
    first, second = put(1), put(2)
    kept = house.wandb.collection("toy").find("v1")
    about = json.loads(kept.metadata)
    other = house.wandb.collection("toy").find("v0")
    other.metadata, kept.metadata = kept.metadata, other.metadata
    assert about["model_digest"] == second.model_digest
    reader = open_wandb(settings(tmp_path, "other"), None, Keys())[0]
    with pytest.raises(ModelError, match=f"not {first.bundle_digest}"):
        reader.fetch(ModelRef.parse("toy:v0"))
    reader.close()


def test_what_is_no_bundle_is_not_downloaded(house: House, put: Put, tmp_path: Path) -> None:
    put(1)
    kept = house.wandb.collection("toy").find("v0")
    manifest = json.loads(kept.manifest)
    entry = next(iter(manifest["contents"].values()))
    manifest["contents"]["../evil"] = entry
    house.wandb.blobs[f"manifest/{kept.id}"] = json.dumps(manifest).encode()
    with pytest.raises(ModelError, match=r"holds no bundle: its files are \.\./evil"):
        Artifacts().download(f"clinic/{house.wandb.project}/toy:v0", tmp_path / "folder")
    del manifest["contents"]["../evil"]
    entry["ref"] = "file:///etc/passwd"
    house.wandb.blobs[f"manifest/{kept.id}"] = json.dumps(manifest).encode()
    with pytest.raises(ModelError, match="lies elsewhere or is larger"):
        Artifacts().download(f"clinic/{house.wandb.project}/toy:v0", tmp_path / "folder")


def test_what_wandb_refuses_is_told_again_later(
    house: House, put: Put, caplog: pytest.LogCaptureFixture
) -> None:
    version = put(1)
    house.wandb.protected.add("staging")
    house.registry.set_alias("toy", "staging", version.number, expected=None, **BY)
    assert house.registry.get(ModelRef.parse("toy:staging")).number == 0
    assert "staging" not in house.shown()
    assert house.aliases.untold("toy") == {"staging"}
    (waiting,) = [d for d in house.sender.deliveries() if d.target == "wandb"]
    assert "W&B did not do what was asked" in (waiting.error or "")


def test_a_click_in_wandb_is_seen_and_what_is_there_is_taken(house: House, put: Put) -> None:
    put(1)
    put(2)
    house.wandb.click("toy", "staging", 0)
    seen = house.aliases.shown("toy")["staging"]
    assert seen.artifact.endswith("toy:v0")
    version = house.aliases.take(seen, "toy", actor="ada")
    assert (version.number, version.model_digest) == (0, seen.model_digest)
    with pytest.raises(ModelError, match="holds a model named toy"):
        house.aliases.take(seen, "other", actor="ada")
    house.wandb.collection("toy").find("v0").metadata = json.dumps({"model_digest": "0" * 64})
    wrong = house.aliases.shown("toy")["staging"]
    with pytest.raises(ModelError, match="its metadata says 0000"):
        house.aliases.take(wrong, "toy", actor="ada")


def test_a_server_needs_neither_key_nor_package_for_what_lies_here(
    house: House, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(1)
    monkeypatch.delenv("WANDB_API_KEY")
    reader = open_wandb(settings(house.folder), None, Keys())[0]
    assert verify(reader.fetch(ModelRef.parse("toy:v0"))).info.name == "toy"
    reader.close()


def test_without_a_key_it_says_so_in_one_sentence(
    wandb_house: Any,
    tmp_path: Path,
    a_bundle: Callable[..., Bundle],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    registry = open_wandb(settings(tmp_path), HookSettings(), Keys())[0]
    with pytest.raises(ConfigError, match=r"^W&B needs a key: set WANDB_API_KEY[^\n]*$"):
        registry.register(a_bundle(1).path, actor="ada")
    assert registry.names() == []
    registry.close()


def test_a_wrong_key_is_told_and_not_shown(
    wandb_house: Any, tmp_path: Path, a_bundle: Callable[..., Bundle]
) -> None:
    wrong = "local-" + "1" * 40
    code = (
        "import pathlib, sys\n"
        "from pulmo.config.settings import load\n"
        "from pulmo.wiring import open_registry\n"
        "try:\n"
        "    open_registry(load()).register(pathlib.Path(sys.argv[1]), actor='ada')\n"
        "except Exception as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    # In a process of its own: the SDK keeps the key of the first one that asked.
    done = subprocess.run(
        [sys.executable, "-c", code, str(a_bundle(1).path)],
        env={
            **os.environ,
            **settings(tmp_path).environment(),
            "WANDB_API_KEY": wrong,
            "WANDB_INIT_TIMEOUT": "20",
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.startswith("RegistryError W&B did not do what was asked"), done.stderr
    assert "\n" not in done.stdout.strip()
    assert wrong not in done.stdout + done.stderr


def test_offline_a_run_is_kept_and_the_ledger_goes_on(
    wandb_house: Any,
    tmp_path: Path,
    a_bundle: Callable[..., Bundle],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "kept"))
    (tmp_path / "kept").mkdir()
    registry, _, aliases = open_wandb(settings(tmp_path), HookSettings(), Keys())
    version = registry.register(a_bundle(1).path, actor="ada")
    registry.set_alias("toy", "team", version.number, expected=None, **BY)
    assert registry.get(ModelRef.parse("toy:team")) == registry.get(ModelRef.parse("toy:v0"))
    assert "`wandb sync` sends it to W&B" in caplog.text
    (kept,) = (tmp_path / "kept").glob("wandb/offline-run-*")
    with pytest.raises(RegistryError, match="not asked while WANDB_MODE=offline"):
        aliases.shown("toy")
    assert wandb_house.asked == []
    registry.close()
    monkeypatch.delenv("WANDB_MODE")
    command = [sys.executable, "-m", "wandb", "sync", str(kept)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (sent,) = wandb_house.collection("toy").committed
    assert json.loads(sent.metadata)["bundle_digest"] == version.bundle_digest
    assert wandb_house.refused == []


def test_a_version_that_wandb_lost_is_told(house: House, put: Put, tmp_path: Path) -> None:
    put(1)
    collection = house.wandb.collection("toy")
    collection.versions[0].number = None
    reader = open_wandb(settings(tmp_path, "other"), None, Keys())[0]
    with pytest.raises(NotFoundError, match="neither PULMO_FILES_URL nor W&B has bundle"):
        reader.fetch(ModelRef.parse("toy:v0"))
    reader.close()


def test_a_signature_travels_in_the_metadata(
    wandb_house: Any, tmp_path: Path, a_bundle: Callable[..., Bundle]
) -> None:
    pytest.importorskip("cryptography")
    private, public = make_keys(tmp_path / "keys")
    registry = open_wandb(settings(tmp_path), HookSettings(), Keys(private))[0]
    registry.register(a_bundle(1).path, actor="ada")
    reader = open_wandb(settings(tmp_path, "other"), None, Keys(None, public))[0]
    folder = reader.fetch(ModelRef.parse("toy:v0"))
    assert verify(folder).signature == verify(tmp_path / "copies" / folder.name).signature
    private, public = make_keys(tmp_path / "others")
    stranger = open_wandb(settings(tmp_path, "third"), None, Keys(None, public))[0]
    with pytest.raises(ModelError, match="does not hold"):
        stranger.fetch(ModelRef.parse("toy:v0"))
    for one in (registry, reader, stranger):
        one.close()
