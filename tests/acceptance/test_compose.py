"""Every service of deploy/compose.yaml started from it by podman-compose and used once.

Needs podman, root and `PULMO_BASE_IMAGE` (see tests/containers.py); the packages come from PyPI and
Debian. `API_IMAGE`, `FRONTEND_IMAGE`, `TRAIN_IMAGE` and `POSTGRES_IMAGE`, read by the compose file,
name images that are there already and are then not built.
"""

import json
import os
import secrets
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import containers
import pytest
import yaml
from containers import Podman
from services import free_port

HERE = Path(__file__).parent
CANARY = f"canary{secrets.token_hex(16)}"
PASSWORD = secrets.token_hex(16)
PAGE = """
from streamlit.testing.v1 import AppTest
page = AppTest.from_file("app.py").run(timeout=60)
assert not page.exception, page.exception
print([one.value for one in (*page.warning, *page.error, *page.info)])
"""

SERVICES = ("API", "FRONTEND", "TRAIN", "POSTGRES")

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Stack:
    """The services of one project."""

    engine: Podman
    folder: Path
    project: str
    api: str
    page: str
    environment: dict[str, str]

    def compose(self, *words: str, check: bool = True) -> str:
        """What `podman-compose WORDS` prints."""
        program = Path(sys.executable).with_name("podman-compose")
        options = ("--project-name", self.project, "--in-pod", "false", "-f", "deploy/compose.yaml")
        done = subprocess.run(
            [program, *options, *words],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=3600,
            check=False,
        )
        assert done.returncode == 0 or not check, f"{words}: {done.stdout}"
        return done.stdout

    def container(self, service: str) -> str:
        return f"{self.project}_{service}_1"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A clone with a `.env` as the documentation asks for, its images built, nothing started."""
    engine = containers.podman(tmp_path_factory.mktemp("podman"))
    folder = containers.clone(tmp_path_factory.mktemp("clone") / "pulmo")
    project = f"pulmo{secrets.token_hex(4)}"
    (folder / ".env").write_text(
        f"POSTGRES_PASSWORD={PASSWORD}\n"
        f"PULMO_REGISTRY_URL=postgresql://pulmo:{PASSWORD}@postgres/pulmo\n"
        f"WANDB_API_KEY={CANARY}\n"
    )
    ports = free_port(), free_port()
    environment = {
        **engine.environment,
        "API_PORT": str(ports[0]),
        "FRONTEND_PORT": str(ports[1]),
    }
    ready = {f"{name}_IMAGE": os.environ.get(f"{name}_IMAGE", "") for name in SERVICES}
    environment |= {k: v or f"localhost/{project}-{k.lower()}" for k, v in ready.items()}
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    made = Stack(engine, folder, project, urls[0], urls[1], environment)
    argument = ("--build-arg", f"BASE_IMAGE={engine.base}")
    if wanted := [name.lower() for name in SERVICES[:3] if not ready[f"{name}_IMAGE"]]:
        made.compose("--profile", "cpu", "build", *argument, *wanted)
    if not ready["POSTGRES_IMAGE"]:
        tag = ("--tag", environment["POSTGRES_IMAGE"])
        file = ("--file", str(HERE / "postgres.dockerfile"))
        engine.run("build", *argument, *file, *tag, str(HERE))
    try:
        yield made
    finally:
        made.compose("--profile", "postgres", "--profile", "cpu", "down", "--volumes", check=False)
        for name in (name for name, there in ready.items() if not there):
            engine.run("rmi", "--force", environment[name], check=False)


def test_it_comes_up_without_a_model_and_takes_over_the_first_that_passes(
    stack: Stack, tell: Tell
) -> None:
    profiles = ("--profile", "postgres", "--profile", "cpu")
    stack.compose("--profile", "postgres", "up", "--detach", "--no-build")

    # Nothing is there yet, and everybody says so.
    stack.engine.ask(stack.container("api"), f"{stack.api}/livez")
    code, told = asked(f"{stack.api}/readyz")
    assert (code, told["status"]) == (503, "unavailable")
    assert "no model is there yet" in told["reason"]
    health = stack.engine.ask(stack.container("frontend"), f"{stack.page}/_stcore/health")
    assert health == b"ok"
    shown = stack.engine.run("exec", stack.container("frontend"), "python", "-c", PAGE)
    assert "o model is there yet" in shown
    tell(f"the page without a model: {shown.splitlines()[-1][:200]}")
    for service in ("api", "frontend", "postgres"):
        assert stack.engine.run("healthcheck", "run", stack.container(service)) == ""

    # The training service makes a model, and its registry is the Postgres of the same file.
    train = (*profiles, "run", "-T", "--rm", "--no-deps", "train")
    stack.compose(*train, "data", "data=phantom")
    stack.compose(*train, "train", "data=phantom", "--stage")
    query = "select count(*) from versions"
    counted = stack.engine.run(
        *("exec", "--env", f"PGPASSWORD={PASSWORD}", stack.container("postgres")),
        *("psql", "--host", "localhost", "--username", "pulmo", "-Atc", query, "pulmo"),
    )
    assert int(counted) == 1

    # The server takes it over by itself, and answers.
    stack.engine.ask(stack.container("api"), f"{stack.api}/readyz")
    code, told = asked(f"{stack.api}/readyz")
    assert (code, told["model"]["name"]) == (200, "phantom-demo")
    shown = stack.engine.run("exec", stack.container("frontend"), "python", "-c", PAGE)
    assert "o model is there yet" not in shown
    tell(f"then it serves {told['model']['name']} {told['model']['version']}")


def test_the_graphics_cards_are_asked_for_as_the_specification_says(stack: Stack) -> None:
    found = yaml.safe_load(configuration(stack, "--profile", "gpu"))["services"]
    training = found["train-gpu"]
    (device,) = training["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
    plain = yaml.safe_load(configuration(stack, "--profile", "cpu"))["services"]["train"]
    same = {"deploy", "profiles"}
    assert {k: v for k, v in training.items() if k not in same} == {
        k: v for k, v in plain.items() if k not in same
    }
    assert "train" not in yaml.safe_load(configuration(stack))["services"]


def test_secrets_around_the_sources_come_into_no_image(stack: Stack, tmp_path: Path) -> None:
    for name in ("API_IMAGE", "FRONTEND_IMAGE"):
        if name in os.environ:
            pytest.skip(f"{name} is not built here")
        layers = containers.saved(stack.engine, stack.environment[name], tmp_path / name)
        assert CANARY not in json.dumps(layers.config)
        paths = [one[0] for layer in layers.paths for one in containers.entries(layer)]
        assert not [path for path in paths if path.startswith("app/") and ".env" in path]
        for layer in layers.paths:
            assert CANARY.encode() not in layer.read_bytes()


def configuration(stack: Stack, *words: str) -> str:
    text = stack.compose(*words, "config")
    return text[text.index("name:") if text.startswith("name:") else text.index("\nname:") :]


def asked(url: str) -> tuple[int, dict[str, Any]]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())
