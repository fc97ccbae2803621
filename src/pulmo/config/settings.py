"""Places and secrets, read from the environment (PULMO_…); choices of an experiment never are."""

import re
from pathlib import Path

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from pulmo.errors import ConfigError

_USERINFO = re.compile(r"(?<=://)[^/@]*@")


class Settings(BaseSettings):
    """Where things lie. `data_dir` holds made data sets, one folder each; `registry_url` is an
    SQLAlchemy URL, `files_url` a directory or any fsspec URL for registered bundles, `data_url`
    one where other machines find data sets by their digest. `allow_anonymous` lets a server be
    reached from other machines though nobody is asked for a key.
    """

    model_config = SettingsConfigDict(env_prefix="PULMO_", frozen=True)

    data_dir: Path = Path("data")
    registry_url: str = Field(default="sqlite:///models/registry.db", pattern=r"^[a-z0-9+]+://")
    files_url: str = Field(default="models/bundles", min_length=1)
    data_url: str | None = Field(default=None, min_length=1)
    allow_anonymous: bool = False

    def environment(self) -> dict[str, str]:
        """The variables that give another process these settings."""
        return {f"PULMO_{name.upper()}": value for name, value in self._given().items()}

    def public(self) -> dict[str, str]:
        """Every setting as text that may be shown: user names and passwords in URLs are hidden."""
        return {name: shown(value) for name, value in self._given().items()}

    def _given(self) -> dict[str, str]:
        return {k: str(value) for k, value in self.model_dump().items() if value is not None}


def shown(text: str) -> str:
    """Text that may be printed: user names and passwords in its URLs are hidden."""
    return _USERINFO.sub("***@", text)


def load() -> Settings:
    """The settings of this process's environment. Raises ConfigError."""
    try:
        return Settings()
    except ValidationError as error:
        fault = error.errors()[0]
        name = f"PULMO_{fault['loc'][0]}".upper()
        raise ConfigError(f"the environment variable {name} is wrong: {fault['msg']}") from error
