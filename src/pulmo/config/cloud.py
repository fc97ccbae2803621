"""Where the service runs on Google Cloud: read from PULMO_GCP_…, checked before anything is run."""

from typing import Annotated

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from pulmo.errors import ConfigError

_PROJECT = r"[a-z][a-z0-9-]{4,28}[a-z0-9]"
Account = Annotated[str, Field(pattern=rf"^{_PROJECT}@{_PROJECT}\.iam\.gserviceaccount\.com$")]
Secret = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,255}:(latest|[1-9][0-9]{0,5})$")]


class CloudSettings(BaseSettings):
    """`service` in `region` of `project` runs images of the Artifact Registry `repository`.

    The server runs as `service_account`. Unless it is `public`, Google lets only those in that
    may invoke it; `invoker` is such an account, which asks the new revision before it gets traffic.
    `api_keys` is the secret (`name:version`) whose value is PULMO_API_KEYS of the server, and
    `check_key` the one that holds a key for the check.

    An instance has `cpu` cores, and there are `least` to `most` of them. What an instance takes on
    follows from two measured figures: `answer_ms`, one request on one core, and `resident_mib`, the
    memory of a server that is at rest; and from `wait_ms`, how long a request may wait its turn.
    """

    model_config = SettingsConfigDict(env_prefix="PULMO_GCP_", frozen=True, env_ignore_empty=True)

    project: str = Field(pattern=rf"^{_PROJECT}$")
    region: str = Field(pattern=r"^[a-z]{2,20}-[a-z]{2,20}[1-9][0-9]?$")
    repository: str = Field(default="pulmo", pattern=r"^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$")
    service: str = Field(default="pulmo", pattern=r"^[a-z]([a-z0-9-]{0,28}[a-z0-9])?$")
    service_account: Account
    invoker: Account | None = None
    public: bool = False
    api_keys: Secret | None = None
    check_key: Secret | None = None
    cpu: int = Field(default=1, ge=1, le=8)
    least: int = Field(default=0, ge=0, le=1000)
    most: int = Field(default=4, ge=1, le=1000)
    answer_ms: int = Field(default=100, ge=1, le=10_000)
    wait_ms: int = Field(default=500, ge=1, le=10_000)
    resident_mib: int = Field(default=330, ge=1, le=32_768)

    @model_validator(mode="after")
    def _asked_for_who_they_are(self) -> "CloudSettings":
        if self.public and self.api_keys is None:
            raise ValueError(
                "a public service without keys answers everybody: set PULMO_GCP_API_KEYS"
            )
        if not self.public and self.invoker is None:
            raise ValueError("set PULMO_GCP_INVOKER to an account that may invoke the service")
        if self.api_keys is not None and self.check_key is None:
            raise ValueError("a server that asks for keys is checked with one: PULMO_GCP_CHECK_KEY")
        return self


def load() -> CloudSettings:
    """The settings of this process's environment. Raises ConfigError."""
    try:
        return CloudSettings()
    except ValidationError as error:
        fault = error.errors()[0]
        if not fault["loc"]:
            told = fault["msg"].removeprefix("Value error, ")
            raise ConfigError(f"the settings of the service are wrong: {told}") from error
        name = f"PULMO_GCP_{fault['loc'][0]}".upper()
        if fault["type"] == "missing":
            raise ConfigError(f"set the environment variable {name}; docs/cloud-run.md") from error
        raise ConfigError(f"the environment variable {name} is wrong: {fault['msg']}") from error
