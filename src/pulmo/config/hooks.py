"""Who is told of moved aliases, and who may ask for tests: read from PULMO_HOOKS_…"""

from typing import Annotated

from pydantic import BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from pulmo.core.signatures import PREFIX, key
from pulmo.errors import ConfigError

LOCAL, GITHUB, WANDB = "local", "github", "wandb"  # the last where the registry is at W&B
SHORTEST = 16  # characters of a secret
_ROTATING = 2


def is_secret(text: str) -> bool:
    """Whether a secret is long enough, and base64 where it says so."""
    if len(text) < SHORTEST:
        return False
    return not text.startswith(PREFIX) or len(key(text)) >= SHORTEST


def _split(value: object) -> object:
    return tuple(value.replace(",", " ").split()) if isinstance(value, str) else value


def _secrets(value: object) -> object:
    """One secret, or the new and the old one during a rotation, separated by a space."""
    found = value.split() if isinstance(value, str) else value
    if isinstance(found, list):
        if len(found) > _ROTATING or any(not is_secret(one) for one in found):
            raise ValueError(
                f"write one secret of at least {SHORTEST} characters (after whsec_, of base64), "
                "or the new and the old one separated by a space"
            )
        return tuple(SecretStr(one) for one in found)
    return value


def _token(value: object) -> object:
    """A token as it goes into a header: what a file ends with is no part of it."""
    found = value.strip() if isinstance(value, str) else value
    if isinstance(found, str) and not (found.isascii() and found.isprintable() and found):
        raise ValueError("a token is one word of visible characters")
    return found


Token = Annotated[SecretStr, BeforeValidator(_token)]
Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
Secrets = Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(_secrets)]


class HookSettings(BaseSettings):
    """`targets` are told of every move: `local`, `github` or addresses of webhooks. Only
    `private_hosts` may have addresses that are not public, and loopback among them plain http.

    `secret` signs what we send and proves what other Pulmos send; `github_secret`, `wandb_secret`
    and `wandb_token` prove what GitHub and W&B send. `github_token` may dispatch events to
    `github_repository` at `github_api`.
    """

    model_config = SettingsConfigDict(env_prefix="PULMO_HOOKS_", frozen=True, env_ignore_empty=True)

    targets: Words = (LOCAL,)
    private_hosts: Words = ()
    secret: Secrets = ()
    github_secret: Secrets = ()
    wandb_secret: Secrets = ()
    wandb_token: Secrets = ()
    github_token: Token | None = None
    github_repository: str | None = Field(
        default=None, pattern=r"^[A-Za-z0-9-]{1,39}/[A-Za-z0-9._-]{1,100}$"
    )
    github_api: str = Field(default="https://api.github.com", pattern=r"^https?://")


def load() -> HookSettings:
    """The settings of this process's environment. Raises ConfigError, which tells no secret."""
    try:
        return HookSettings()
    except ValidationError as error:
        fault = error.errors(include_input=False)[0]
        name = f"PULMO_HOOKS_{fault['loc'][0]}".upper()
        raise ConfigError(f"the environment variable {name} is wrong: {fault['msg']}") from None


def plain(secrets: tuple[SecretStr, ...]) -> tuple[str, ...]:
    """The secrets themselves, for whoever signs and verifies."""
    return tuple(secret.get_secret_value() for secret in secrets)
