"""The images built from their Dockerfiles, run as they are meant to run, and looked into.

Needs podman, root and `PULMO_BASE_IMAGE` (see tests/containers.py); the packages come from PyPI.
`PULMO_TESTED_HOME` names a folder where `train data=phantom --stage` ran before: it saves minutes.
"""

import io
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
import numpy as np
import pytest
from containers import ROOT, Layers, Podman
from PIL import Image
from services import free_port

from pulmo.config.settings import Settings
from pulmo.jobs.lineage import commit_of
from pulmo.wiring import open_registry

MEGABYTE = 1_000_000
LARGEST_ADDED = 350 * MEGABYTE
CANARY = f"canary{secrets.token_hex(16)}"
SECRETS = ("WANDB_API_KEY", "PULMO_HOOKS_SECRET", "PULMO_HOOKS_GITHUB_TOKEN", "POSTGRES_PASSWORD")

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Promoted:
    """A registry with one model that passed its tests, as variables of the environment."""

    environment: dict[str, str]
    digest: str


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Podman:
    return containers.podman(tmp_path_factory.mktemp("podman"))


@pytest.fixture(scope="module")
def base(engine: Podman, tmp_path_factory: pytest.TempPathFactory) -> Layers:
    return containers.saved(engine, engine.base, tmp_path_factory.mktemp("base") / "layers")


@pytest.fixture(scope="module")
def checkout(engine: Podman, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with secrets lying around in it."""
    folder = containers.clone(tmp_path_factory.mktemp("clone") / "pulmo")
    (folder / "models/keys").mkdir(parents=True)
    for name in (".env", "models/keys/key.json", "id_rsa", "src/pulmo/.env", "frontend/.env"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"WANDB_API_KEY={CANARY}\n")
    return folder


@pytest.fixture(scope="module")
def tested(
    engine: Podman,
    tmp_path_factory: pytest.TempPathFactory,
    pulmo: Callable[..., "subprocess.CompletedProcess[str]"],
) -> Promoted:
    """A model of drawn phantoms, trained with the default recipe, tested and promoted."""
    if ready := os.environ.get("PULMO_TESTED_HOME"):
        folder = Path(ready)
    else:
        folder = tmp_path_factory.mktemp("registry")
        pulmo(folder, "data", "data=phantom")
        pulmo(folder, "train", "data=phantom", "--stage", timeout=1800)
    shown = pulmo(folder, "registry", "show", "phantom-demo:production", "--json").stdout
    places = {
        "PULMO_REGISTRY_URL": f"sqlite:///{folder / 'models/registry.db'}",
        "PULMO_FILES_URL": str(folder / "models/bundles"),
    }
    return Promoted(places, json.loads(shown)["version"]["model_digest"])


@pytest.fixture(scope="module")
def api(engine: Podman, checkout: Path, tested: Promoted) -> str:
    """The name of an API image with the tested model in it, built while secrets are around."""
    canaries = dict.fromkeys(SECRETS, CANARY)
    names = containers.build(
        engine, checkout, "--model", "phantom-demo:production", **tested.environment, **canaries
    )
    assert names[0] == f"pulmo-api:{tested.digest}"
    return names[0]


@pytest.fixture(scope="module")
def layers(engine: Podman, api: str, tmp_path_factory: pytest.TempPathFactory) -> Layers:
    return containers.saved(engine, api, tmp_path_factory.mktemp("api") / "layers")


@pytest.fixture(scope="module")
def server(engine: Podman, api: str) -> Iterator[tuple[str, str]]:
    """A container of the API image with as little as it needs, and its address."""
    port = free_port()
    name = f"pulmo-test-{port}"
    limits = ("--memory", "768m", "--pids-limit", "256", "--cap-drop", "all")
    engine.run(
        *("run", "--detach", "--name", name, "--read-only", "--tmpfs", "/tmp:size=64m", *limits),
        *("--security-opt", "no-new-privileges", "--env", "PULMO_ALLOW_ANONYMOUS=1"),
        *("--network", "host", "--env", f"PORT={port}", api),
    )
    try:
        engine.ask(name, f"http://127.0.0.1:{port}/readyz")
        yield name, f"http://127.0.0.1:{port}"
    finally:
        engine.run("rm", "--force", name)


def test_a_large_upload_is_answered_by_exactly_the_model_that_was_baked(
    engine: Podman, server: tuple[str, str], tested: Promoted, tell: Tell
) -> None:
    name, url = server
    told = json.loads(engine.ask(name, f"{url}/model/info"))
    assert told["model"]["digest"] == tested.digest
    answer = upload(f"{url}/predict", noise(5 * MEGABYTE))
    assert answer["model"]["digest"] == tested.digest
    used = engine.run("stats", "--no-stream", "--format", "{{.MemUsage}}", name)
    tell(f"5 MB upload: {answer['decision']} by {tested.digest[:12]}; memory {used}")


def test_the_server_is_no_root_and_can_write_nothing_but_its_tmpfs(
    engine: Podman, server: tuple[str, str]
) -> None:
    name, _ = server
    assert engine.run("exec", name, "id", "-u") == "10001"
    for place in ("/", "/app", "/bundle", "/opt/venv", "/state"):
        told = engine.run("exec", name, "touch", f"{place}/x", check=False)
        assert "Read-only file system" in told
    engine.run("exec", name, "touch", "/tmp/x")
    status = engine.run("exec", name, "cat", "/proc/1/status")
    assert "CapEff:\t0000000000000000" in status
    assert engine.run("healthcheck", "run", name) == ""


def test_the_server_holds_no_torch_and_no_compiler(
    engine: Podman, layers: Layers, base: Layers
) -> None:
    paths = {one[0] for layer in layers.above(base) for one in containers.entries(layer)}
    names = {path.rpartition("/")[2] for path in paths}
    assert {"onnxruntime", "sbom.cdx.json", "SHA256SUMS"} <= names
    assert not names & {"torch", "pytorch_lightning", "hydra", "gcc", "cc", "ld", "uv", "pip"}


def test_labels_name_commit_and_model(
    engine: Podman, checkout: Path, api: str, tested: Promoted
) -> None:
    labels = engine.inspect(api)["Labels"]
    commit = commit_of(checkout)[0]
    assert labels["org.opencontainers.image.revision"] == commit
    assert labels["dev.pulmo.model.digest"] == tested.digest
    assert labels["dev.pulmo.model.name"] == "phantom-demo"


def test_what_the_dockerfile_adds_is_small(layers: Layers, base: Layers, tell: Tell) -> None:
    sizes = [
        sum(one[5] for one in containers.entries(layer) if one[7] is not None)
        for layer in layers.above(base)
    ]
    tell(f"the API image adds {sum(sizes) / MEGABYTE:.0f} MB to its base, uncompressed")
    assert sum(sizes) <= LARGEST_ADDED


def test_no_secret_is_in_a_layer_the_history_or_a_label(layers: Layers) -> None:
    assert CANARY not in json.dumps(layers.config)
    for layer in layers.paths:
        assert not contains(layer, CANARY.encode())


def test_two_builds_of_a_commit_differ_in_nothing_but_timestamps(
    engine: Podman,
    checkout: Path,
    tested: Promoted,
    layers: Layers,
    base: Layers,
    tmp_path: Path,
    tell: Tell,
) -> None:
    model = ("--model", "phantom-demo:production")
    again = containers.build(engine, checkout, *model, **tested.environment)[0]
    second = containers.saved(engine, again, tmp_path / "layers")
    pairs = zip(layers.above(base), second.above(base), strict=True)
    for one, other in pairs:
        assert list(containers.entries(one)) == list(containers.entries(other))
    assert timeless(layers.config) == timeless(second.config)
    same = layers.config["rootfs"] == second.config["rootfs"]
    tell(f"two builds: {'layers of the same bytes' if same else 'layers of other timestamps'}")


def test_an_untested_model_is_not_baked(
    engine: Podman, checkout: Path, tmp_path: Path, tested: Promoted
) -> None:
    settings = Settings(
        registry_url=f"sqlite:///{tmp_path / 'registry.db'}", files_url=str(tmp_path / "files")
    )
    bundle = next(Path(tested.environment["PULMO_FILES_URL"]).iterdir())
    open_registry(settings).register(bundle, actor="me")
    with pytest.raises(AssertionError, match="has not been tested"):
        containers.build(engine, checkout, "--model", "phantom-demo:best", **settings.environment())


def test_the_page_is_served_read_only(engine: Podman, checkout: Path, tell: Tell) -> None:
    image = containers.build(engine, checkout, "--what", "frontend")[0]
    port = free_port()
    name = f"pulmo-test-{port}"
    engine.run(
        *("run", "--detach", "--name", name, "--read-only", "--tmpfs", "/tmp", "--memory", "512m"),
        *("--cap-drop", "all", "--network", "host"),
        *("--env", f"STREAMLIT_SERVER_PORT={port}", image),
    )
    try:
        assert engine.ask(name, f"http://127.0.0.1:{port}/_stcore/health") == b"ok"
        assert b"Streamlit" in engine.ask(name, f"http://127.0.0.1:{port}/")
        assert engine.run("exec", name, "id", "-u") == "10001"
        assert engine.run("healthcheck", "run", name) == ""
    finally:
        engine.run("rm", "--force", name)
    tell(f"frontend image: {engine.inspect(image)['Size'] / MEGABYTE:.0f} MB with its base")


def test_the_training_image_trains(engine: Podman, checkout: Path, tell: Tell) -> None:
    image = containers.build(engine, checkout, "--what", "train")[0]
    loop = "data data=phantom && python /app/main.py train data=phantom debug=fast"
    told = engine.run(
        *("run", "--rm", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "all"),
        *("--tmpfs", "/state:mode=1777", "--network", "none", "--entrypoint", "sh", image),
        *("-c", f"id -u && python /app/main.py {loop} && cat runs/*/bundle/bundle.json"),
    )
    assert told.startswith("10001\n")
    commit = commit_of(checkout)[0]
    assert f'"commit": "{commit}"' in told
    tell(f"training image: {engine.inspect(image)['Size'] / 1e9:.1f} GB with its base")


def test_the_dockerfiles_are_clean() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    files = sorted((ROOT / "dockerfiles").glob("*.dockerfile"))
    done = subprocess.run([hadolint, *files], capture_output=True, text=True, check=False)
    assert (len(files), done.returncode, done.stdout) == (3, 0, "")


def timeless(config: dict[str, Any]) -> dict[str, Any]:
    """An image's configuration without times and without the names of podman's own containers."""
    notes = ("created", "container", "parent", "rootfs")
    kept = {k: v for k, v in config.items() if k not in notes}
    for part in ("config", "container_config"):
        kept[part] = {k: v for k, v in config.get(part, {}).items() if k != "Hostname"}
    kept["history"] = [step["created_by"] for step in config["history"]]
    return kept


def noise(size: int) -> bytes:
    """A picture that PNG cannot make smaller, of at least `size` bytes."""
    side = int(size**0.5) + 1
    pixels = np.random.default_rng(0).integers(0, 256, (side, side), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    assert buffer.tell() >= size
    return buffer.getvalue()


def upload(url: str, picture: bytes) -> dict[str, dict[str, str]]:
    """The answer for a picture in a form, as a browser sends it."""
    head = b'--edge\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
    request = urllib.request.Request(
        url,
        data=head + picture + b"\r\n--edge--\r\n",
        headers={"Content-Type": "multipart/form-data; boundary=edge"},
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            told: dict[str, dict[str, str]] = json.loads(answer.read())
            return told
    except urllib.error.HTTPError as error:
        raise AssertionError(error.read().decode()) from error


def contains(path: Path, needle: bytes) -> bool:
    """Whether a file holds these bytes anywhere; read in pieces that overlap."""
    with path.open("rb") as stream:
        rest = b""
        while piece := stream.read(1 << 24):
            if needle in rest + piece:
                return True
            rest = piece[-len(needle) :]
    return False
