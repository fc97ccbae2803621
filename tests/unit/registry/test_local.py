import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pulmo.core.bundle import GRAPH, Bundle
from pulmo.core.ports import ModelRef, Registry, Version
from pulmo.errors import ModelError, NotFoundError, RegistryError
from pulmo.registry.local import LocalRegistry, open_registry

Put = Callable[..., Version]
BY = {"actor": "ada", "reason": "because"}


def test_the_adapter_fits_the_port(registry: LocalRegistry) -> None:
    port: Registry = registry
    assert port.names() == []


def test_a_registered_bundle_is_fetched_whole(registry: LocalRegistry, toy_bundle: Bundle) -> None:
    registry.register(toy_bundle.path, actor="ada")
    folder = registry.fetch(ModelRef.parse("toy:latest"))
    assert (folder / GRAPH).read_bytes() == toy_bundle.graph


def test_a_damaged_bundle_is_not_registered(
    registry: LocalRegistry, make_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    bundle = make_bundle(tmp_path / "made")
    (bundle.path / GRAPH).write_bytes(b"foreign")
    with pytest.raises(ModelError, match="does not match its digest"):
        registry.register(bundle.path, actor="ada")
    assert registry.names() == []
    assert not (tmp_path / "bundles").exists()


def test_a_name_that_no_reference_could_name_is_refused(
    registry: LocalRegistry, make_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    bundle = make_bundle(tmp_path / "made", name="Not A Name")
    with pytest.raises(RegistryError, match="'Not A Name', which cannot name a model"):
        registry.register(bundle.path, actor="ada")
    assert registry.names() == []


def test_no_row_names_files_that_were_not_stored(toy_bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "bundles").write_text("a file where the folder belongs")
    registry = open_registry(f"sqlite:///{tmp_path}/registry.db", str(tmp_path / "bundles"))
    with pytest.raises(RegistryError, match="cannot be read or written"):
        registry.register(toy_bundle.path, actor="ada")
    assert registry.names() == []


@pytest.mark.parametrize(
    "ask",
    [
        lambda r: r.versions("toi"),
        lambda r: r.history("toi"),
        lambda r: r.verdicts("toi"),
        lambda r: r.rollback("toi", to=None, **BY),
        lambda r: r.delete("toi", 0, **BY),
        lambda r: r.promote("toi", 0, suite_digest="suite", **BY),
        lambda r: r.remove_alias("toi", "team", expected=0, **BY),
    ],
)
def test_every_verb_names_an_unknown_model(
    registry: LocalRegistry, put: Put, ask: Callable[[LocalRegistry], object]
) -> None:
    put(1)
    with pytest.raises(NotFoundError, match=r"no model 'toi' \(toy\)"):
        ask(registry)


def test_the_origins_of_a_deleted_version_are_not_found(registry: LocalRegistry, put: Put) -> None:
    version = put(1)
    registry.delete("toy", 0, **BY)
    with pytest.raises(NotFoundError, match="no toy:v0"):
        registry.lineages(version)


def test_a_reader_sees_everything_and_changes_nothing(
    registry: LocalRegistry, put: Put, places: Any
) -> None:
    version = put(1)
    reader = places.open(read_only=True)
    assert reader.versions("toy") == [version]
    assert reader.fetch(ModelRef.parse("toy")) == registry.fetch(ModelRef.parse("toy"))
    with pytest.raises(RegistryError, match="opened for reading alone"):
        reader.set_alias("toy", "team", 0, expected=None, **BY)
    registry.set_alias("toy", "team", 0, expected=None, **BY)
    assert reader.get(ModelRef.parse("toy:team")).aliases == ("best", "latest", "team")
    reader.close()


def test_relative_places_stay_where_they_were_when_opened(
    toy_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    registry = open_registry("sqlite:///models/registry.db", "models/bundles")
    monkeypatch.chdir(tmp_path)
    registry.register(toy_bundle.path, actor="ada")
    assert registry.fetch(ModelRef.parse("toy")).parent == tmp_path / "here/models/bundles"
    registry.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here"]


def test_importing_the_registry_stays_light_and_makes_nothing(tmp_path: Path) -> None:
    code = (
        "import sys, pulmo.registry.local\n"
        "heavy = {'torch', 'hydra', 'pytorch_lightning', 'timm', 'alembic', 'fsspec'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
    assert list(tmp_path.iterdir()) == []
