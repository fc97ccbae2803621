import pytest
from sqlalchemy import make_url

from pulmo.errors import ConfigError, RegistryError
from pulmo.store import postgres
from pulmo.store.database import open_database
from pulmo.store.postgres import with_driver, words


@pytest.mark.parametrize("name", ["postgres", "postgresql"])
@pytest.mark.parametrize("driver", ["pg8000", "psycopg"])
def test_a_plain_url_takes_the_driver_that_is_installed(
    monkeypatch: pytest.MonkeyPatch, name: str, driver: str
) -> None:
    monkeypatch.setattr(postgres, "find_spec", lambda one: object() if one == driver else None)
    target = with_driver(make_url(f"{name}://ada:secret@host/models?application_name=pulmo"))
    assert target.drivername == f"postgresql+{driver}"
    assert (target.host, target.password) == ("host", "secret")


def test_a_named_driver_stays_and_other_databases_are_left_alone() -> None:
    pytest.importorskip("pg8000", reason="the group `postgres` is not installed")
    for url in ("postgresql+pg8000://host/models", "sqlite:///models.db", "mysql://host/models"):
        assert with_driver(make_url(url)) == make_url(url)


@pytest.mark.parametrize("url", ["postgres://u:secret@h/m", "postgresql+pg8000://u:secret@h/m"])
def test_a_missing_driver_is_told_with_the_command_that_brings_one(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setattr(postgres, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"\(pg8000\): `uv sync --group postgres`") as told:
        open_database(url)
    assert "secret" not in str(told.value)


def test_the_server_s_message_is_taken_from_its_fields() -> None:
    assert words(ValueError({"S": "FATAL", "M": "no such database"})) == "no such database"
    assert words(ValueError("first\nsecond")) == "first"
    assert words(ValueError("")) == words(ValueError()) == "ValueError"


def test_a_server_that_is_not_there_is_told_with_what_to_check() -> None:
    pytest.importorskip("pg8000", reason="the group `postgres` is not installed")
    with pytest.raises(RegistryError, match="cannot be reached: check the address"):
        open_database("postgres://ada@127.0.0.1:1/models")
