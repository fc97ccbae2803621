"""Overrides and the files of `configs/` to one configuration: the only place that knows Hydra."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pulmo.config import vocabulary
from pulmo.config.schema import Config
from pulmo.errors import ConfigError

_OVERRIDE = re.compile(
    r"(?P<sign>\+{0,2}|~)(?P<key>[A-Za-z_][\w.-]*)(?:=(?P<value>.*))?", re.DOTALL
)
_SELECTORS = ("experiment", "debug", "profiler")  # parts of differences: they leave no key behind
_NOTHING = tuple(f"{part}=null" for part in _SELECTORS)  # the default, which Hydra cannot be told


def find_configs() -> Path:
    """The folder `configs`: inside an installed package, else beside the checkout's `src`."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "configs", package.parents[1] / "configs"):
        if (folder / "config.yaml").is_file():
            return folder
    raise ConfigError(f"no configs/config.yaml beside {package}: install Pulmo again")


def config_folders() -> list[Path]:
    """Pulmo's own folder `configs`, then the one in the current directory, which may add to it."""
    own, here = find_configs(), Path("configs").resolve()
    return [own, here] if here.is_dir() and here != own else [own]


def compose(overrides: Sequence[str] = ()) -> Config:
    """The configuration of `configs/config.yaml` changed by Hydra overrides (`key=value`).

    Keys and options are checked against the schema before Hydra is imported. A text value is
    taken literally (no quotes needed within it). Raises ConfigError that names the nearest key
    or option, or the field, what was given and what is allowed.
    """
    configs = config_folders()
    checked = [_check(text, configs) for text in overrides]
    document = _compose(configs, [text for text in checked if text not in _NOTHING])
    for name in _SELECTORS:
        document.pop(name, None)
    return recorded(document)


def recorded(document: Any) -> Config:
    """The configuration that `Config.document` wrote down, whole. Raises ConfigError."""
    try:
        return Config.model_validate(document)
    except ValidationError as error:
        raise ConfigError(_explain(error)) from error


def read_file(path: Path) -> Config:
    """The configuration in a JSON file, exactly as it stands there. Raises ConfigError."""
    try:
        return recorded(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} holds no configuration that can be read: {error}") from error


def compose_for_model(name: str, overrides: Sequence[str] = ()) -> Config:
    """The configuration that models called `name` are judged by.

    Without a `data=` override, the data set is the one whose `registry.name` is `name`. Raises
    ConfigError where no file of `configs/data` declares it.
    """
    rest = [text for text in overrides if not text.lstrip("+").startswith("registry.name=")]
    if not any(text.lstrip("+").startswith("data=") for text in rest):
        rest.append(f"data={_data_of(name)}")
    return compose([*rest, f"registry.name={name}"])


def compose_for_sweep(overrides: Sequence[str] = ()) -> Config:
    """The configuration of a search: without a `sweep=` override, the space of the recipe."""
    if any(text.startswith("sweep=") for text in overrides):
        return compose(overrides)
    plain = [text for text in overrides if not text.lstrip("+").startswith("sweep.")]
    return compose([*overrides, f"sweep={compose(plain).recipe.kind}"])


def _data_of(name: str) -> str:
    from omegaconf import OmegaConf

    folders = config_folders()
    for path in (found for one in folders for found in sorted(one.glob("data/*.yaml"))):
        if OmegaConf.select(OmegaConf.load(path), "registry.name") == name:
            return path.stem
    where = " or ".join(f"{one}/data" for one in folders)
    raise ConfigError(
        f"no data set in {where} declares registry.name: {name}; say which one the model was "
        "trained on, for example data=folder data.root=/path/to/pictures"
    )


def _check(text: str, configs: Sequence[Path]) -> str:
    """One override, known and written so that Hydra takes it as the user meant it."""
    match = _OVERRIDE.fullmatch(text)
    if match is None or (match["value"] is None) != (match["sign"] == "~"):
        raise ConfigError(f"'{text}' is no override: write key=value, as in trainer.max_epochs=3")
    sign, key, value = match["sign"], match["key"], match["value"]
    parts = vocabulary.options(configs, _SELECTORS)
    if key in parts and sign != "~":
        return _check_option(key, value, parts[key])
    kind = vocabulary.kind_of(key)
    if kind is None:
        near = vocabulary.nearest_key(key, parts)
        raise ConfigError(f"unknown key '{key}' in '{text}': did you mean '{near}'?")
    if sign == "~":
        if vocabulary.kind_of(key.rpartition(".")[0]) not in ("table", "texts"):
            raise ConfigError(f"'{key}' cannot be taken away: it always has a value")
        return text
    return f"++{key}={_literal(value) if kind == 'text' else value}"


def _check_option(part: str, value: str, known: list[str]) -> str:
    option = value.strip("'\"")
    if option in known or (option == "null" and part in _SELECTORS):
        return f"{part}={option}"
    if not known:
        raise ConfigError(f"'{part}={value}': configs/{part} has no files to choose from")
    near = vocabulary.nearest(option, known)
    raise ConfigError(
        f"unknown option '{part}={value}': did you mean '{part}={near}'? "
        f"There are {', '.join(known)}"
    )


def _literal(value: str) -> str:
    """A text quoted for Hydra's grammar; null, empty and already quoted texts as they are."""
    from hydra.core.override_parser.types import Quote, QuotedString

    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    if quoted or value in ("", "null"):
        return value
    return str(QuotedString(text=value, quote=Quote.single).with_quotes())


def _compose(configs: Sequence[Path], overrides: list[str]) -> dict[str, Any]:
    import hydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        with hydra.initialize_config_dir(str(configs[0]), version_base="1.3"):
            further = [_literal(f"file://{folder}") for folder in configs[1:]]
            where = [f"hydra.searchpath=[{','.join(further)}]"] if further else []
            composed = hydra.compose("config", overrides=[*where, *overrides])
        document = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException) as error:
        cause = str(error).strip("\"'\n ").splitlines()[0]
        raise ConfigError(f"{cause} (given: {' '.join(overrides)})") from error
    assert isinstance(document, dict)
    return {str(key): value for key, value in document.items()}


def _explain(error: ValidationError) -> str:
    """Every fault of a configuration: the field, what was given, what is allowed."""
    return "; ".join(dict.fromkeys(_explain_one(fault) for fault in error.errors()))


def _explain_one(fault: Any) -> str:
    path = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        return f"unknown key '{path}': did you mean '{vocabulary.nearest_key(path)}'?"
    where = vocabulary.known_part(fault["loc"])
    if fault["type"] == "missing":
        return f"{path} has no value: set it with {path}=…"
    message = fault["msg"].removeprefix("Value error, ")
    if not where:
        return str(message)
    return f"{where}={fault['input']}: {message[0].lower()}{message[1:]}"
