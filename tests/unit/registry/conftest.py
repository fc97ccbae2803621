"""An empty registry, bundles to put into it, and verdicts on them."""

import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from services import BUCKET

from pulmo.config.hooks import HookSettings
from pulmo.config.settings import Settings
from pulmo.core import bundle as bundles
from pulmo.core.bundle import GRAPH, WEIGHTS, Bundle
from pulmo.core.ports import Check, Verdict, Version
from pulmo.registry.local import LocalRegistry, open_registry
from pulmo.registry.signing import Keys
from pulmo.registry.wandb_mirror import open_wandb


@dataclass(frozen=True)
class Places:
    """Where a registry lies."""

    database: str
    files: str
    cache: Path
    wandb: bool = False

    def open(self, *, read_only: bool = False) -> LocalRegistry:
        if self.wandb:
            settings = Settings(registry_url=self.database, files_url=self.files, registry="wandb")
            return open_wandb(settings, None if read_only else HookSettings(), Keys())[0]
        return open_registry(self.database, self.files, read_only=read_only, cache=self.cache)


@pytest.fixture(
    params=["sqlite, folder", "postgres, folder", "sqlite, gcs", "postgres, gcs", "sqlite, wandb"]
)
def places(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Places:
    """Every database with every store of files, and W&B: one suite holds them all."""
    database, files = request.param.split(", ")
    url, folder = f"sqlite:///{tmp_path}/registry.db", str(tmp_path / "bundles")
    if database == "postgres":
        url = request.getfixturevalue("postgres").emptied()
    if files == "gcs":
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", request.getfixturevalue("gcs"))
        folder = f"gs://{BUCKET}/{uuid.uuid4().hex}"
    if files == "wandb":
        request.getfixturevalue("wandb_house")
    return Places(url, folder, tmp_path / "cache", files == "wandb")


@pytest.fixture
def registry(places: Places) -> Iterator[LocalRegistry]:
    opened = places.open()
    yield opened
    opened.close()


@pytest.fixture
def a_bundle(tmp_path: Path, make_bundle: Callable[..., Bundle]) -> Callable[..., Bundle]:
    """`a_bundle(2, score=0.7, seed=1)`: models differ by number, origins by seed."""

    def build(
        number: int, *, name: str = "toy", score: float | None = 0.9, seed: int = 0
    ) -> Bundle:
        folder = tmp_path / f"made-{name}-{number}-{score}-{seed}"
        if folder.exists():
            return bundles.verify(folder / "whole")
        weights = b"weights %d" % number
        plain = make_bundle(folder / "plain", name=name, weights=weights, score=score or 0.5)
        document = json.loads(plain.info.model_dump_json())
        document["lineage"]["seed"] = seed
        if score is None:
            document["metrics"] = {}
        return bundles.write(
            folder / "whole",
            graph=(plain.path / GRAPH).read_bytes(),
            weights=(plain.path / WEIGHTS).read_bytes(),
            reference=plain.reference(),
            members=plain.members(),
            info=bundles.BundleInfo.model_validate(document),
            card="# toy\n",
        )

    return build


@pytest.fixture
def put(registry: LocalRegistry, a_bundle: Callable[..., Bundle]) -> Callable[..., Version]:
    """`put(2, score=0.7)`: build and register."""

    def register(number: int, **changes: Any) -> Version:
        return registry.register(a_bundle(number, **changes).path, actor="ada")

    return register


def verdict_on(
    version: Version,
    champion: Version | None = None,
    *,
    suite: str = "suite",
    passed: bool = True,
    checks: tuple[Check, ...] = (Check("floor", True, "0.9 ≥ 0.8"),),
    **changes: Any,
) -> Verdict:
    return Verdict(
        name=version.name,
        model_digest=version.model_digest,
        suite_digest=suite,
        champion_digest=None if champion is None else champion.model_digest,
        passed=passed,
        checks=checks,
        data_digest="0" * 64,
        **changes,
    )


@pytest.fixture
def judge(registry: LocalRegistry) -> Callable[..., Verdict]:
    """`judge(version, champion, passed=False)`: store a verdict."""

    def record(version: Version, champion: Version | None = None, **changes: Any) -> Verdict:
        return registry.record_verdict(verdict_on(version, champion, **changes))

    return record


@pytest.fixture
def promote(registry: LocalRegistry, judge: Callable[..., Verdict]) -> Callable[[Version], None]:
    """Judge a version beside the present champion, passing, and promote it."""

    def move(version: Version) -> None:
        versions = registry.versions(version.name)
        champion = next((one for one in versions if "production" in one.aliases), None)
        judge(version, champion)
        registry.promote(
            version.name, version.number, suite_digest="suite", actor="ada", reason="better"
        )

    return move
