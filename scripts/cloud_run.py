"""Tasks of Cloud Run: an image pushed, a revision deployed, checked and given traffic, and back."""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from invoke.context import Context
from invoke.tasks import task

from scripts.tools import FAILED, REFUSED, USAGE, Tools, container_engine, end, require_login

if TYPE_CHECKING:
    from pulmo.config.cloud import CloudSettings
    from pulmo.serving.limits import Limits

IMAGE = "pulmo-api"  # as `invoke build` names it on this machine, with the model digest as its tag
FORMER = "former"  # the tag of the revision that had traffic before
MIB = 2**20
STEP_MIB = 256  # what memory is rounded up to
REQUEST_S = 60  # after which Cloud Run gives a request up
MODEL = "name@digest, or what the registry resolves: name:production; else MODEL of the environment"
DRY = "print every command as it would be run, and run none"
HELP = {"model": MODEL, "dry_run": DRY}


@task(help=HELP)
def push(context: Context, model: str = "", dry_run: bool = False) -> None:
    """Push the image of a model to Artifact Registry; its tag is the model digest."""
    cloud, digest, tools = _settings(), digest_of(model), Tools(dry_run)
    engine, target = container_engine(), image(cloud, digest)
    require_login(tools)
    tools.run("gcloud", "auth", "configure-docker", target.partition("/")[0], "--quiet")
    tools.run(engine, "tag", f"{IMAGE}:{digest}", target)
    tools.run(engine, "push", target)


@task(help=HELP)
def deploy(context: Context, model: str = "", dry_run: bool = False) -> None:
    """Deploy a pushed model without traffic, check it, and only then move traffic to it."""
    cloud, digest, tools = _settings(), digest_of(model), Tools(dry_run)
    require_login(tools)
    before = service(cloud, tools)
    tools.run(*deployment(cloud, digest, first=before is None))
    now = service(cloud, tools)
    headers = credentials(cloud, now.url if now else "", tools)
    tag = tag_of(digest)
    if not dry_run:
        _check(now, digest, headers, before)
    tools.run(*traffic(cloud, tag, before.in_traffic if before else None))
    if not dry_run:
        print(f"{cloud.service} answers with {digest[:12]}; back: uv run invoke rollback")


@task(
    help={"model": "the model to go back to; else the one that had traffic before", "dry_run": DRY}
)
def rollback(context: Context, model: str = "", dry_run: bool = False) -> None:
    """Move traffic back to the former revision, or to that of a model deployed earlier."""
    cloud, tools = _settings(), Tools(dry_run)
    asked = model or os.environ.get("MODEL", "")
    tag = tag_of(digest_of(asked)) if asked else FORMER
    require_login(tools)
    now = service(cloud, tools)
    if not dry_run:
        there = now.tagged(tag) if now else None
        if there is None:
            end(
                FAILED,
                f"no revision of {cloud.service} is tagged {tag}: nothing to go back to",
            )
        if now and there["revisionName"] == now.in_traffic:
            end(FAILED, f"{tag} has the traffic already: name another model with --model")
    tools.run(*traffic(cloud, tag, None))


@dataclass(frozen=True)
class Service:
    """A service as Cloud Run tells it: its address, and its revisions with a tag or traffic."""

    url: str
    targets: tuple[dict[str, Any], ...]

    @property
    def in_traffic(self) -> str | None:
        """The revision that has most of the traffic."""
        most = max(self.targets, key=lambda one: one.get("percent", 0), default={})
        return most["revisionName"] if most.get("percent") else None

    def tagged(self, tag: str) -> dict[str, Any] | None:
        """The target with a tag."""
        return next((one for one in self.targets if one.get("tag") == tag), None)


def digest_of(model: str) -> str:
    """The model digest that a reference names; the registry is asked only where it must be."""
    asked = model or os.environ.get("MODEL", "")
    if found := re.fullmatch(r"([a-z0-9][a-z0-9._-]{0,62}@)?([0-9a-f]{64})", asked):
        return found[2]
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,62}[:@][a-z0-9][a-z0-9._-]{0,62}", asked):
        end(USAGE, f"'{asked}' names no model: give --model name@digest or name:production")
    show = ["uv", "run", "main.py", "registry", "show", asked, "--json"]
    told = subprocess.run(show, stdout=subprocess.PIPE, check=False)
    if told.returncode:
        sys.exit(told.returncode)
    return str(json.loads(told.stdout)["version"]["model_digest"])


def image(cloud: "CloudSettings", digest: str) -> str:
    """Where the image of a model lies in Artifact Registry."""
    return f"{cloud.region}-docker.pkg.dev/{cloud.project}/{cloud.repository}/{IMAGE}:{digest}"


def tag_of(digest: str) -> str:
    """The tag of a model's revision: a short word, for its address begins with it."""
    return f"m{digest[:12]}"


def service(cloud: "CloudSettings", tools: Tools) -> Service | None:
    """The service as it is now, None where there is none yet."""
    words = ("list", f"--filter=metadata.name={cloud.service}", "--format=json")
    told = json.loads(tools.read(*_services(cloud, *words), unread=_UNREAD))
    if not told:
        return None
    return Service(told[0]["status"]["url"], tuple(told[0]["status"].get("traffic", ())))


_UNREAD = json.dumps(
    [{"status": {"url": "SERVICE_URL", "traffic": [{"revisionName": "REVISION", "percent": 100}]}}]
)


def deployment(cloud: "CloudSettings", digest: str, *, first: bool) -> tuple[str, ...]:
    """The command that makes a revision. Cloud Run gives the first one of a service all traffic."""
    from pulmo.serving.limits import Limits

    together, memory = sizes(cloud, Limits(workers=cloud.cpu))
    values = {"PULMO_LOG_URL": "stdout", "PULMO_LOG_FORMAT": "json"}
    if cloud.api_keys is None:  # Google has asked who it is
        values["PULMO_ALLOW_ANONYMOUS"] = "1"
    keys = f"--set-secrets=PULMO_API_KEYS={cloud.api_keys}" if cloud.api_keys else "--clear-secrets"
    return (
        *("gcloud", "run", "deploy", cloud.service, *_place(cloud)),
        f"--image={image(cloud, digest)}",
        f"--service-account={cloud.service_account}",
        "--allow-unauthenticated" if cloud.public else "--no-allow-unauthenticated",
        *(() if first else ("--no-traffic",)),
        f"--tag={tag_of(digest)}",
        "--execution-environment=gen2",
        f"--cpu={cloud.cpu}",
        f"--memory={memory}Mi",
        f"--concurrency={together}",
        f"--timeout={REQUEST_S}",
        f"--min-instances={cloud.least}",
        f"--max-instances={cloud.most}",
        "--cpu-boost",
        "--startup-probe=httpGet.path=/readyz,periodSeconds=2,failureThreshold=60,timeoutSeconds=2",
        "--liveness-probe=httpGet.path=/livez,periodSeconds=10,failureThreshold=3,timeoutSeconds=5",
        "--set-env-vars=" + ",".join(f"{name}={value}" for name, value in values.items()),
        keys,
        "--quiet",
    )


def sizes(cloud: "CloudSettings", limits: "Limits") -> tuple[int, int]:
    """How many requests an instance is sent at a time, and its memory in MiB.

    A core answers one request after another, so each of `n` waits for up to `n - 1` answers. Memory
    holds the server, the bodies of all of them, and one decoded picture a core, twice: a turned or
    converted one lies beside the first.
    """
    from pulmo.core.preprocess import MAX_PIXELS

    waiting = max(1, cloud.wait_ms // cloud.answer_ms)
    together = min(waiting * limits.workers, limits.workers + limits.waiting)
    bodies = min(together * limits.body_bytes, limits.memory_bytes)
    pictures = limits.workers * 2 * 3 * MAX_PIXELS
    needed = cloud.resident_mib + (bodies + pictures) / MIB
    least = 512 * limits.workers  # less is not given to so many cores
    return together, max(least, -(-int(needed + 1) // STEP_MIB) * STEP_MIB)


def credentials(cloud: "CloudSettings", url: str, tools: Tools) -> dict[str, str]:
    """The headers that let the check in: a token for Google, a key for the server. Never shown."""
    headers = {}
    if not cloud.public:
        words = (f"--impersonate-service-account={cloud.invoker}", f"--audiences={url}")
        token = tools.read("gcloud", "auth", "print-identity-token", *words, unread="")
        headers["X-Serverless-Authorization"] = f"Bearer {token}"
    if cloud.check_key is not None:
        name, _, version = cloud.check_key.partition(":")
        asked = ("gcloud", "secrets", "versions", "access", version)
        where = (f"--secret={name}", f"--project={cloud.project}")
        headers["X-API-Key"] = tools.read(*asked, *where, unread="")
    return headers


def traffic(cloud: "CloudSettings", tag: str, former: str | None) -> tuple[str, ...]:
    """The command that gives the revision with `tag` all traffic and remembers the former one."""
    tags = [f"--update-tags={FORMER}={former}"] if former else []
    return _services(
        cloud, "update-traffic", cloud.service, f"--to-tags={tag}=100", *tags, "--quiet"
    )


def _services(cloud: "CloudSettings", *words: str) -> tuple[str, ...]:
    return ("gcloud", "run", "services", *words, *_place(cloud))


def _place(cloud: "CloudSettings") -> tuple[str, str]:
    return f"--project={cloud.project}", f"--region={cloud.region}"


def _check(
    now: Service | None, digest: str, headers: dict[str, str], before: Service | None
) -> None:
    """End the task with a no unless the new revision answers as it should."""
    from scripts.smoke import WrongError, check

    new = now.tagged(tag_of(digest)) if now else None
    if new is None:
        end(FAILED, f"Cloud Run tells of no revision with the tag {tag_of(digest)}")
    try:
        check(new["url"], digest, headers)
    except WrongError as wrong:
        stays = (
            f"{before.in_traffic} keeps the traffic" if before else "nothing was there before it"
        )
        end(REFUSED, f"{new['revisionName']} does not answer as it should: {wrong}; {stays}")


def _settings() -> "CloudSettings":
    from pulmo.config.cloud import load
    from pulmo.errors import ConfigError

    try:
        return load()
    except ConfigError as error:
        end(USAGE, str(error))
