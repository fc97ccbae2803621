"""Deployments to Cloud Run over real servers: who answers wrong gets no traffic."""

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest
from google_cloud import ACCOUNT, GoogleCloud
from served import serving

from pulmo.core.bundle import Bundle
from pulmo.core.keys import create

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).with_name("cloud_run_commands.txt")
SETTINGS = {
    "PULMO_GCP_PROJECT": "some-project",
    "PULMO_GCP_REGION": "europe-west1",
    "PULMO_GCP_SERVICE_ACCOUNT": "pulmo-run@some-project.iam.gserviceaccount.com",
    "PULMO_GCP_INVOKER": ACCOUNT,
    "PULMO_GCP_API_KEYS": "pulmo-api-keys:3",
    "PULMO_GCP_CHECK_KEY": "pulmo-check-key:latest",
}


class Running(NamedTuple):
    """Models by name with their digests, where each one's revision answers, and a key for them."""

    models: dict[str, str]
    urls: dict[str, str]
    secret: str


class Site:
    """Models A, B …, each answered by a server of its own, and the tasks over them."""

    def __init__(self, cloud: GoogleCloud, models: dict[str, str]) -> None:
        self.cloud, self.models = cloud, models

    def invoke(self, task: str, *words: str, expect: int = 0) -> str:
        """What a task says, on both streams."""
        done = subprocess.run(
            [sys.executable, "-m", "invoke", task, *words],
            cwd=ROOT,
            env=self.cloud.environment(**SETTINGS),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == expect, done.stdout + done.stderr
        return done.stdout + done.stderr

    def model(self, name: str) -> str:
        return f"toy@{self.models[name]}"

    def named(self, text: str) -> str:
        """`text` with names of models instead of their digests."""
        for name, digest in self.models.items():
            text = text.replace(digest, f"<{name}>").replace(digest[:12], f"<{name}>")
        return text

    @property
    def commands(self) -> str:
        """Every command so far, one a line."""
        return self.named("".join(f"{shlex.join(call)}\n" for call in self.cloud.calls))


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory, make_bundle: Callable[..., Bundle]
) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("running")
    secret, key = create(folder / "keys", "check", "predict", any_version=False, actor="test")
    _, other = create(folder / "keys", "other", "predict", any_version=False, actor="test")
    bundles = {n: make_bundle(folder / n, weights=n.encode()) for n in ("A", "B", "C", "D")}
    models = {name: bundle.info.model_digest for name, bundle in bundles.items()}
    # The revision of C answers with B, and that of D does not know the key of the check.
    served = {"A": key, "B": key, "D": other}
    with ExitStack() as stack:
        urls = {}
        for name, known in served.items():
            place = folder / f"server-{name}"
            place.mkdir()
            server = serving(bundles[name].path, place, PULMO_API_KEYS=known.line())
            _, urls[name] = stack.enter_context(server)
        yield Running(models, {**urls, "C": urls["B"]}, secret)


@pytest.fixture
def site(tmp_path: Path, running: Running) -> Site:
    cloud = GoogleCloud(tmp_path / "cloud")
    cloud.secret("pulmo-check-key", running.secret)
    for name, url in running.urls.items():
        cloud.answers(running.models[name], url)
    return Site(cloud, running.models)


def test_traffic_moves_to_what_answers_right_and_back(
    site: Site, tell: Callable[[str], None]
) -> None:
    site.invoke("push", "--model", site.model("A"))
    site.invoke("deploy", "--model", site.model("A"))
    assert site.cloud.in_traffic == "pulmo-00001"
    site.invoke("deploy", "--model", site.model("B"))
    assert site.cloud.in_traffic == "pulmo-00002"

    said = site.invoke("deploy", "--model", site.model("C"), expect=3)
    assert "pulmo-00002 keeps the traffic" in said
    assert site.models["B"] in said
    said = site.invoke("deploy", "--model", site.model("D"), expect=3)
    assert "answered with 401" in said
    assert site.cloud.in_traffic == "pulmo-00002"

    site.invoke("rollback")
    assert site.cloud.in_traffic == "pulmo-00001"
    said = site.invoke("rollback", expect=1)
    assert "name another model" in said
    site.invoke("rollback", "--model", site.model("B"))
    assert site.cloud.in_traffic == "pulmo-00002"

    if os.environ.get("PULMO_GOLDEN"):
        GOLDEN.write_text(site.commands, "utf-8")
    assert site.commands == GOLDEN.read_text("utf-8")
    secret = (site.cloud.folder / "secrets/pulmo-check-key").read_text("utf-8")
    assert secret not in site.commands
    tell(
        f"{len(site.cloud.calls)} commands: 4 deployments, 2 given traffic, "
        "2 refused by the check with traffic where it was, 2 rollbacks"
    )


def test_a_dry_run_prints_what_is_run(site: Site) -> None:
    site.invoke("deploy", "--model", site.model("A"))
    made = len(site.cloud.calls)
    site.invoke("deploy", "--model", site.model("B"))
    done = [shlex.join(call) for call in site.cloud.calls[made:]]
    told = site.invoke("deploy", "--model", site.model("B"), "--dry-run").splitlines()
    assert len(site.cloud.calls) == made + len(done)  # nothing was run
    unknown = {"SERVICE_URL": "https://pulmo-abc.a.run.app", "REVISION": "pulmo-00001"}
    for word, value in unknown.items():
        told = [line.replace(word, value) for line in told]
    assert told == done
