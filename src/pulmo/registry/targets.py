"""Who is told of moved aliases: the worker on this machine, GitHub, and signed webhooks."""

import http.client
import time
from typing import Protocol
from urllib.parse import urlsplit

from pulmo.config.hooks import GITHUB, LOCAL, HookSettings, plain
from pulmo.config.settings import shown
from pulmo.core.events import Event, asked_by_pulmo, dispatch
from pulmo.core.ports import JobQueue
from pulmo.core.signatures import sign
from pulmo.errors import ConfigError, PulmoError
from pulmo.registry.outward import TIMEOUT_S, Answer, check_url, post

API_VERSION = "2022-11-28"

_PASSING = {408, 409, 425, 429}


class UndeliveredError(Exception):
    """A target did not take an event; `final` where trying again would change nothing."""

    def __init__(self, reason: str, *, final: bool = False, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.final, self.wait_s = final, wait_s


class Target(Protocol):
    """Somewhere that events go; `send` returns when the event is there."""

    name: str

    def send(self, event: Event) -> None:
        """Hand an event over. Raises UndeliveredError."""


class Local:
    """The worker on this machine: tests of what was staged become a job, once an event."""

    name = LOCAL

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue

    def send(self, event: Event) -> None:
        """Enqueue what the event asks for, if anything."""
        asked = asked_by_pulmo(event.body, LOCAL)
        if asked is not None:
            self._queue.enqueue(asked.key, asked.ref.name, asked.payload)


class Webhook:
    """Any receiver that knows our secret."""

    def __init__(
        self, url: str, secret: str, private_hosts: frozenset[str], timeout_s: float = TIMEOUT_S
    ) -> None:
        self._url = check_url(url, private_hosts).geturl()
        self.name = shown(self._url)  # it lies in the database and is listed
        self._secret, self._hosts, self._timeout_s = secret, private_hosts, timeout_s

    def send(self, event: Event) -> None:
        """Sign the event, with the time of this attempt, and send it."""
        headers = sign(self._secret, event.id, int(time.time()), event.body)
        _ask(self._url, event.body, headers, self._hosts, self._timeout_s, self._secret)


class GitHub:
    """A repository whose workflows listen to `repository_dispatch`."""

    def __init__(
        self,
        repository: str,
        token: str,
        api: str,
        private_hosts: frozenset[str],
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self.url = f"{api.rstrip('/')}/repos/{repository}/dispatches"
        check_url(self.url, private_hosts)
        self.name = f"{GITHUB}:{repository}"
        self._token, self._hosts, self._timeout_s = token, private_hosts, timeout_s

    def send(self, event: Event) -> None:
        """Dispatch the event to the repository's workflows."""
        headers = {
            "Accept": "application/vnd.github+json",
            "Authorization": f"Bearer {self._token}",
            "X-GitHub-Api-Version": API_VERSION,
        }
        try:
            body = dispatch(event)
        except PulmoError as error:
            raise UndeliveredError(str(error), final=True) from error
        _ask(self.url, body, headers, self._hosts, self._timeout_s, self._token)


def make_targets(
    chosen: HookSettings, queue: JobQueue, *, shared: bool, timeout_s: float = TIMEOUT_S
) -> list[Target]:
    """The targets of the settings. Raises ConfigError that names what is missing.

    `shared` is whether other machines can read this registry: GitHub's could not test a model that
    lies on this one alone.
    """
    hosts = frozenset(chosen.private_hosts)
    targets: list[Target] = []
    for word in dict.fromkeys(chosen.targets):
        if word == LOCAL:
            targets.append(Local(queue))
        elif word == GITHUB:
            targets.append(_github(chosen, hosts, shared, timeout_s))
        else:
            targets.append(_webhook(chosen, word, hosts, timeout_s))
    return targets


def is_shared(registry_url: str, files_url: str) -> bool:
    """Whether a registry can be read from other machines: its database and its files."""
    local_files = "://" not in files_url or files_url.startswith(("file://", "local://"))
    return not registry_url.startswith("sqlite") and not local_files


def _github(chosen: HookSettings, hosts: frozenset[str], shared: bool, timeout_s: float) -> GitHub:
    if chosen.github_repository is None or chosen.github_token is None:
        raise ConfigError(
            "to tell GitHub, set PULMO_HOOKS_GITHUB_REPOSITORY to owner/name and "
            "PULMO_HOOKS_GITHUB_TOKEN to a token that may write its contents"
        )
    if not shared:
        raise ConfigError(
            "GitHub is not told: this registry lies on this machine alone, where no runner of "
            "GitHub can read it. Set PULMO_REGISTRY_URL to a server's database and "
            "PULMO_FILES_URL to an object store, or take github out of PULMO_HOOKS_TARGETS"
        )
    token = chosen.github_token.get_secret_value()
    return GitHub(chosen.github_repository, token, chosen.github_api, hosts, timeout_s)


def _webhook(chosen: HookSettings, url: str, hosts: frozenset[str], timeout_s: float) -> Webhook:
    if not urlsplit(url).scheme:
        raise ConfigError(
            f"PULMO_HOOKS_TARGETS: '{shown(url)}' is neither local nor github nor an address "
            "(https://…)"
        )
    if not chosen.secret:
        raise ConfigError(
            f"to tell {shown(url)}, set PULMO_HOOKS_SECRET, which signs what it is told"
        )
    return Webhook(url, plain(chosen.secret)[0], hosts, timeout_s)


def _ask(
    url: str,
    body: bytes,
    headers: dict[str, str],
    hosts: frozenset[str],
    timeout_s: float,
    secret: str,
) -> None:
    """Post; what the other side says of it is kept, but for the secret, should it repeat it."""
    try:
        answer = post(url, body, headers, private_hosts=hosts, timeout_s=timeout_s)
    except ConfigError as error:
        raise UndeliveredError(str(error), final=True) from error
    except (OSError, http.client.HTTPException) as error:
        raise UndeliveredError(f"no answer ({str(error) or type(error).__name__})") from error
    if not 200 <= answer.status < 300:
        whole = shown(answer.body.decode("utf-8", "replace").replace(secret, "***"))
        said = _printable(whole[:200])
        raise UndeliveredError(
            f"answered {answer.status}: {said}", final=_is_final(answer), wait_s=answer.wait_s
        )


def _printable(text: str) -> str:
    """What somebody else said, fit for a terminal, a log and a database."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _is_final(answer: Answer) -> bool:
    """A mistake of ours, not a moment of theirs; GitHub says 403 also for too many requests."""
    passing = answer.status >= 500 or answer.status in _PASSING
    return not passing and not (answer.status == 403 and answer.wait_s > 0)
