import traceback
from pathlib import Path

import pytest
from pydantic import ValidationError

from pulmo.config import settings
from pulmo.errors import ConfigError


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.load().data_dir == Path("data")
    monkeypatch.setenv("PULMO_DATA_DIR", "/elsewhere")
    assert settings.load().data_dir == Path("/elsewhere")


def test_a_wrong_setting_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PULMO_REGISTRY_URL", "models/registry.db")
    with pytest.raises(ConfigError, match="PULMO_REGISTRY_URL"):
        settings.load()


def test_settings_never_change() -> None:
    with pytest.raises(ValidationError):
        settings.load().data_dir = Path("x")  # type: ignore[misc]


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PULMO_REGISTRY_URL", "postgresql://me:secret@host:5432/db")
    shown = settings.load().public()
    assert shown["registry_url"] == "postgresql://***@host:5432/db"
    assert "secret" not in str(shown)


def test_the_environment_of_settings_gives_them_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PULMO_FILES_URL", "memory://x")
    monkeypatch.setenv("PULMO_DATA_URL", "memory://y")
    first = settings.load()
    for name, value in first.environment().items():
        monkeypatch.setenv(name, value)
    assert settings.load() == first


def test_what_is_not_set_is_neither_shown_nor_passed_on() -> None:
    assert "data_url" not in settings.load().public()
    assert "PULMO_DATA_URL" not in settings.load().environment()


def test_what_is_shown_of_an_url_names_nobody_and_no_password() -> None:
    told = settings.shown("gs://ann:secret@host/place cannot be reached; see s3://bob@x")
    assert told == "gs://***@host/place cannot be reached; see s3://***@x"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://team:pa/ss-word@host/db",
        "postgresql://team:a?b#c'd\"ss-word@host/db",
        "postgresql://host/db?user=a&password=pa-ss-word",
        "https://host/place?access_token=pa-ss-word&x=1",
    ],
)
def test_no_password_is_shown_wherever_it_stands(url: str) -> None:
    told = settings.shown(f"cannot reach {url} : try again")
    assert "ss-word" not in told
    assert told.endswith(" : try again")
    assert "host" in told


def test_a_wrong_value_is_not_repeated_by_its_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PULMO_REGISTRY_URL", "postgresql//me:pass-word@host/db")
    with pytest.raises(ConfigError) as told:
        settings.load()
    assert "pass-word" not in "".join(traceback.format_exception(told.value))


@pytest.mark.parametrize("name", ["PULMO_FILES_URL", "PULMO_DATA_URL"])
def test_a_misspelt_address_is_no_folder(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "gs//me:pass-word@bucket/x")
    with pytest.raises(ConfigError, match=f"{name} is wrong.*gs://bucket/folder") as told:
        settings.load()
    assert "pass-word" not in str(told.value)
    for place in ("models/bundles", "/srv/bundles", "gs://bucket/x", "memory://x"):
        monkeypatch.setenv(name, place)
        assert place in settings.load().public().values()


def test_keys_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PULMO_API_KEYS", "something")
    assert settings.load().public()["api_keys"] == "***"


def test_an_empty_variable_is_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PULMO_DATA_URL", "PULMO_FILES_URL", "PULMO_REGISTRY_URL"):
        monkeypatch.setenv(name, "")
    assert settings.load() == settings.Settings()
