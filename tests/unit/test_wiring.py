from collections.abc import Callable
from pathlib import Path

import pytest

from pulmo.config.settings import Settings
from pulmo.core.bundle import Bundle
from pulmo.errors import ConfigError, ModelError, NotFoundError
from pulmo.serving.models import Following, Pinned
from pulmo.wiring import open_bundle, open_registry, open_source


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        registry_url=f"sqlite:///{tmp_path / 'registry.db'}", files_url=str(tmp_path / "files")
    )


def test_the_registry_lies_where_the_settings_say(
    settings: Settings, toy_bundle: Bundle, tmp_path: Path
) -> None:
    version = open_registry(settings).register(toy_bundle.path, actor="me")
    assert version.label == "toy:v0"
    assert (tmp_path / "registry.db").is_file()
    assert open_registry(settings, read_only=True).names() == ["toy"]


def test_a_bundle_is_opened_by_reference_by_folder_and_by_run(
    settings: Settings, make_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    made = make_bundle(tmp_path / "run" / "bundle")
    open_registry(settings).register(made.path, actor="me")
    assert open_bundle(settings, str(made.path)).digest == made.digest
    assert open_bundle(settings, str(tmp_path / "run")).digest == made.digest
    assert open_bundle(settings, "toy:v0").digest == made.digest


def test_what_names_no_bundle_is_refused(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is no folder"):
        open_bundle(settings, str(tmp_path / "nowhere"))
    with pytest.raises(ModelError, match="is no bundle"):
        open_bundle(settings, str(tmp_path))
    open_registry(settings).names()
    with pytest.raises(ConfigError, match="names no model"):
        open_bundle(settings, "No Model")
    with pytest.raises(NotFoundError):
        open_bundle(settings, "toy:v0")


def test_an_alias_is_followed_and_all_else_stays(settings: Settings, toy_bundle: Bundle) -> None:
    version = open_registry(settings).register(toy_bundle.path, actor="me")
    assert isinstance(open_source(settings, "toy:latest"), Following)
    for target in ("toy:v0", f"toy@{version.model_digest}", str(toy_bundle.path)):
        source = open_source(settings, target)
        assert isinstance(source, Pinned)
        assert source.newest(None).name.digest == version.model_digest
