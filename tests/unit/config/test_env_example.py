"""`.env.example` lists every setting that the code reads, with what it is unless it is set."""

import importlib
import pkgutil
import re
from pathlib import Path

import pytest
from pydantic import ValidationError
from pydantic_settings import BaseSettings

import pulmo.config

ROOT = Path(__file__).parents[3]
EXAMPLE = (ROOT / ".env.example").read_text(encoding="utf-8")
LINES = re.findall(r"^# ([A-Z][A-Z0-9_]*)=(.*)$", EXAMPLE, re.MULTILINE)
# What others read, and where that is told.
OF_OTHERS = {
    "PULMO_API_URL": "frontend",
    "PULMO_MODEL": "src",
    "POSTGRES_PASSWORD": "docs",
    "WANDB_API_KEY": "src",
}


def classes() -> list[type[BaseSettings]]:
    names = [module.name for module in pkgutil.iter_modules(pulmo.config.__path__)]
    modules = [importlib.import_module(f"pulmo.config.{name}") for name in names]
    known = {one for module in modules for one in vars(module).values() if isinstance(one, type)}
    found = {one for one in known if issubclass(one, BaseSettings) and one is not BaseSettings}
    return sorted(found, key=lambda one: one.__name__)


def variables(settings: type[BaseSettings]) -> set[str]:
    prefix = settings.model_config.get("env_prefix", "")
    return {f"{prefix}{name}".upper() for name in settings.model_fields}


def test_every_setting_is_listed_once_and_nothing_else_is() -> None:
    names = [name for name, _ in LINES]
    known = set().union(*(variables(one) for one in classes()))
    assert len(classes()) >= 2
    assert len(names) == len(set(names))
    assert set(names) - set(OF_OTHERS) == known


@pytest.mark.parametrize("settings", classes(), ids=lambda one: one.__name__)
def test_what_is_listed_is_what_holds_without_it(
    settings: type[BaseSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    required = {name for name, one in settings.model_fields.items() if one.is_required()}
    for name in variables(settings):
        monkeypatch.delenv(name, raising=False)
    if required:
        with pytest.raises(ValidationError):
            settings()
        return
    without = settings()
    for name, value in LINES:
        if name in variables(settings):
            monkeypatch.setenv(name, value)
    assert settings() == without


@pytest.mark.parametrize(("name", "folder"), OF_OTHERS.items())
def test_what_the_code_does_not_read_somebody_else_reads(name: str, folder: str) -> None:
    files = [path for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".md")]
    assert any(name in path.read_text(encoding="utf-8") for path in files)


def test_nothing_is_set_in_the_example() -> None:
    said = [line for line in EXAMPLE.splitlines() if line and not line.startswith("#")]
    assert said == []
