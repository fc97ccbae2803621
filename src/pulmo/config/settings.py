"""Places and secrets, read from the environment (PULMO_…); choices of an experiment never are."""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from pulmo.errors import ConfigError

_HOST = r"(?:[a-z0-9.-]+|\[[0-9a-f:.]+\])"
_ORIGIN = r"https?://[a-z0-9.:\[\]-]+"  # every word for itself: `*` would let everyone in
_USERINFO = re.compile(r"(?<=://)\S*@")  # too much rather than too little
_SECRET = re.compile(r"(?i)(?<=[?&])([a-z_-]*(?:passw|secret|token|key|sig)[a-z_-]*)=[^&\s'\"]*")


def _place(text: str) -> str:
    """A folder or an address; a misspelt address must not become a folder with a password in it."""
    if "://" not in text and "//" in text.lstrip("/"):
        raise ValueError("write a folder, or an address as in gs://bucket/folder")
    return text


Place = Annotated[str, AfterValidator(_place)]


class Settings(BaseSettings):
    """Where things lie. `data_dir` holds made data sets, one folder each; `registry_url` is an
    SQLAlchemy URL, `files_url` a directory or any fsspec URL for registered bundles, `registry`
    says whether those are also at W&B (`wandb`: WANDB_API_KEY and its kin say where); `data_url`
    one where other machines find data sets by their digest. `log_url` is the database for receipts
    of predictions, or `stdout` for lines of JSON there; with `log_embeddings` they also hold what
    drift is judged by. `log_format` is how a server writes its log. `sweep_url` is the database of
    searches; left out, each has its own in its folder.
    `signing_key` is the file of a key that signs what is registered, `public_key` that of one that
    every bundle must be signed by before it is used.

    Of a server: `keys_dir` keeps API keys, `api_keys` gives more of them (`Key.line`), and
    `allow_anonymous` lets it be reached from other machines though nobody is asked for a key.
    `hosts` are the names it goes by and `cors_origins` the pages elsewhere that may ask it, both
    separated by commas. `rate_limit` is what each key, or each address without one, may ask.
    `engine` is what runs the graph: `auto` the faster one that is installed, by measurement.
    """

    model_config = SettingsConfigDict(env_prefix="PULMO_", frozen=True, env_ignore_empty=True)

    data_dir: Path = Path("data")
    registry_url: str = Field(default="sqlite:///models/registry.db", pattern=r"^[a-z0-9+]+://")
    files_url: Place = Field(default="models/bundles", min_length=1)
    registry: Literal["local", "wandb"] = "local"
    data_url: Place | None = Field(default=None, min_length=1)
    signing_key: Path | None = None
    public_key: Path | None = None
    log_url: str = Field(default="sqlite:///models/log.db", pattern=r"^([a-z0-9+]+://|stdout$)")
    log_embeddings: bool = False
    sweep_url: str | None = Field(default=None, pattern=r"^[a-z0-9+]+://")
    log_format: Literal["text", "json"] = "text"
    keys_dir: Path = Path("models/keys")
    api_keys: str = ""
    allow_anonymous: bool = False
    hosts: str = Field(default="", pattern=rf"^({_HOST}(,{_HOST})*)?$")
    cors_origins: str = Field(default="", pattern=rf"^({_ORIGIN}(,{_ORIGIN})*)?$")
    engine: Literal["auto", "onnxruntime", "openvino"] = "auto"
    rate_limit: str = Field(
        default="100/second", pattern=r"^(off|[1-9]\d*/([1-9]\d*)?(second|minute|hour|day))$"
    )

    def environment(self) -> dict[str, str]:
        """The variables that give another process these settings."""
        return {f"PULMO_{name.upper()}": value for name, value in self._given().items()}

    def public(self) -> dict[str, str]:
        """Every setting as text that may be shown: user names, passwords and keys are hidden."""
        told = {name: shown(value) for name, value in self._given().items()}
        return told | ({"api_keys": "***"} if self.api_keys else {})

    def _given(self) -> dict[str, str]:
        return {k: str(value) for k, value in self.model_dump().items() if value is not None}


def shown(text: str) -> str:
    """Text that may be printed: user names, passwords and tokens in its URLs are hidden."""
    return _SECRET.sub(r"\1=***", _USERINFO.sub("***@", text))


def load() -> Settings:
    """The settings of this process's environment. Raises ConfigError."""
    try:
        return Settings()
    except ValidationError as error:
        fault = error.errors()[0]
        name = f"PULMO_{fault['loc'][0]}".upper()
        reason = fault["msg"].removeprefix("Value error, ")
        told = f"the environment variable {name} is wrong: {reason}"
        raise ConfigError(told) from None  # the cause quotes the value, which may hold a password
