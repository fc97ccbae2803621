"""A canary in every secret: in no log, artifact, report, run folder, database row or output.

Every variable of `pulmo.config` that can hold a secret gets one of its own, found by looking at the
settings themselves, and so do the variables of the services that Pulmo speaks to. Then the verbs
run, with what works and with what fails, and everything they left is searched.
"""

import base64
import contextlib
import gzip
import hashlib
import http.server
import importlib
import inspect
import io
import json
import os
import pkgutil
import re
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import canaries
import pytest
import wandb_server
from canaries import Scanner
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings
from served import PNG
from services import BUCKET, Postgres, free_port, gcs, postgres

import pulmo.config
import pulmo.main
from pulmo.core import signatures

ROOT = Path(__file__).parents[2]
NAME = "phantom-demo"
KEY_ID = "0123abcd"
CREDENTIAL = "GOOGLE_APPLICATION_CREDENTIALS"
TARGETS, GITHUB = "PULMO_HOOKS_TARGETS", "PULMO_HOOKS_GITHUB_SECRET"
OURS = ("PULMO_HOOKS_SECRET", "the one before PULMO_HOOKS_SECRET")
TINY = (
    "data=phantom",
    "debug=fast",
    "data.phantom.images=200",
    "data.phantom.size=32",
    "evaluate.resamples=100",
    "evaluate.robustness=0",
)
# Variables of others, read by their own packages. `length` is what W&B asks of a key.
FOREIGN = {
    "WANDB_API_KEY": 40,
    "MLFLOW_TRACKING_PASSWORD": 0,
    "MLFLOW_TRACKING_TOKEN": 0,
    "GH_TOKEN": 0,
    "GITHUB_TOKEN": 0,
    "GDRIVE_CREDENTIALS_DATA": 0,
    "AWS_SECRET_ACCESS_KEY": 0,
    "PGPASSWORD": 0,
}
# What a name makes look like a secret and is none: names of secrets that others keep, digests.
HARMLESS = {"PULMO_GCP_API_KEYS", "PULMO_GCP_CHECK_KEY"}
SUSPICIOUS = re.compile(r"secret|token|passw|key|credential")


def settings_fields() -> dict[str, FieldInfo]:
    """Every setting of `pulmo.config` by its variable."""
    found: dict[str, FieldInfo] = {}
    for module in pkgutil.iter_modules(pulmo.config.__path__, "pulmo.config."):
        for _, kind in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if issubclass(kind, BaseSettings) and kind is not BaseSettings:
                prefix = kind.model_config["env_prefix"]
                for name, one in kind.model_fields.items():
                    found[f"{prefix}{name}".upper()] = one
    return found


def is_secret(one: FieldInfo) -> bool:
    return "SecretStr" in repr(one.annotation) + repr(one.metadata)


def is_address(name: str) -> bool:
    return name.endswith(("_URL", "_API", "_URI"))


def secrets_of_settings() -> list[str]:
    return [name for name, one in settings_fields().items() if is_secret(one)]


def addresses() -> list[str]:
    return [name for name in settings_fields() if is_address(name)]


@dataclass
class House:
    """One folder in which everything runs, and what was said there."""

    folder: Path
    environment: dict[str, str] = field(repr=False)
    secrets: dict[str, str] = field(repr=False)
    outputs: dict[str, str] = field(default_factory=dict, repr=False)

    def run(self, *words: str, expect: int | None = 0, **more: str) -> str:
        """A verb; what it said is kept to be searched."""
        __tracebackhide__ = True  # a traceback would show the environment
        with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
            code = forked(words, self.folder, {**self.environment, **more}, output.fileno())
            output.seek(0)
            said = output.read()
        self.outputs[f"{len(self.outputs)}: {' '.join(words)}"] = said
        leaks = Scanner(self.secrets).text("what it said", said)
        assert leaks == [], words
        if expect is not None and code != expect:
            pytest.fail(f"{words} ended with {code}: {said[-2000:]}")
        return said

    def with_password(self, address: str, secret: str) -> str:
        return address.replace("//", f"//ann:{self.secrets[secret]}@", 1)


def forked(words: tuple[str, ...], folder: Path, environment: dict[str, str], output: int) -> int:
    """The exit code of a verb in a process that has its packages loaded already."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:
        for one in (1, 2):
            os.dup2(output, one)
        sys.stdout, sys.stderr = (
            io.TextIOWrapper(io.FileIO(one, "w", closefd=False), "utf-8", line_buffering=True)
            for one in (1, 2)
        )
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        sys.argv = ["pulmo", *words]
        pulmo.main.run()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):  # its parent's other ends are not its own
            if sdk := sys.modules.get("wandb"):
                sdk.teardown()
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


class Echo(http.server.BaseHTTPRequestHandler):
    """A receiver that gives back, in its error, all that it was sent."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        said = f"{self.path}\n{self.headers}".encode() + body
        self.send_response(503)
        self.send_header("content-length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def echo() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module", autouse=True)
def _packages() -> None:
    """Load once what every verb would load."""
    for name in ("torch", "pytorch_lightning", "hydra", "sqlalchemy", "wandb", "mlflow", "gcsfs"):
        importlib.import_module(name)


@pytest.fixture(scope="module")
def databases() -> Iterator[Postgres]:
    with postgres() as server:
        yield server


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, databases: Postgres) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("house")
    known = {name: canaries.new() for name in (*secrets_of_settings(), *addresses())}
    known |= {name: canaries.new(length) for name, length in FOREIGN.items()}
    known |= {name: canaries.new() for name in (CREDENTIAL, TARGETS, *OURS)}
    known["PULMO_API_KEYS"] = canaries.new(43)
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PULMO_", "WANDB_", "MLFLOW_", "GOOGLE_", "PG", "COVERAGE_"))
    }
    key = f"pulmo_{KEY_ID}_{known['PULMO_API_KEYS'][:43]}"
    (home := folder / "home").mkdir()
    with echo() as receiver, gcs() as bucket:
        clean |= {name: known[name] for name in (*secrets_of_settings(), *FOREIGN)}
        clean |= {
            "HOME": str(home),
            "WANDB_MODE": "offline",
            "STORAGE_EMULATOR_HOST": bucket,
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
            "PULMO_FILES_URL": f"gs://{BUCKET}/bundles",
            "PULMO_HOOKS_SECRET": " ".join(known[one] for one in OURS),
            "PULMO_HOOKS_TARGETS": f"local github {receiver}/hook?token={known[TARGETS]}",
            "PULMO_HOOKS_PRIVATE_HOSTS": "127.0.0.1",
            "PULMO_HOOKS_GITHUB_API": receiver,
            "PULMO_HOOKS_GITHUB_REPOSITORY": "me/mine",
            "PULMO_API_KEYS": f"{KEY_ID}:admin:{hashlib.sha256(key.encode()).hexdigest()}",
        }
        for name in ("PULMO_REGISTRY_URL", "PULMO_LOG_URL"):
            clean[name] = databases.empty().replace("pulmo@", f"pulmo:{known[name]}@")
        made = House(folder, clean, known)
        made.run("data", *TINY)
        made.run("train", *TINY, "run.dir=runs/a", "tracking=wandb")
        yield made


def left(house: House) -> list[str]:
    """Every place where a secret is."""
    scanner = Scanner(house.secrets)
    found = scanner.folder(house.folder)
    for where, said in house.outputs.items():
        found += scanner.text(where, said)
    return found


def test_the_scanner_finds_a_secret_in_every_form(tmp_path: Path) -> None:
    secret = canaries.new()
    scanner = Scanner({"S": secret})
    for at, prefix in enumerate(("", "a", "ab")):
        coded = base64.b64encode(f"{prefix}{secret}more".encode())
        assert scanner.text("it", coded), at
        assert scanner.text("it", base64.urlsafe_b64encode(f"{prefix}{secret}".encode())), at
    for form in (secret, secret.encode().hex(), urllib.request.quote(f"x/{secret}", safe="")):
        assert scanner.text("it", f"before {form} after")
    assert scanner.text("it", "nothing") == []
    (tmp_path / "packed.gz").write_bytes(gzip.compress(secret.encode()))
    (tmp_path / secret).touch()
    assert len(scanner.folder(tmp_path)) == 2
    assert secret not in str(scanner.folder(tmp_path / "..")[:0])


def test_every_setting_that_may_be_a_secret_has_a_canary() -> None:
    """A new one is included by itself where it is a SecretStr or an address; else decide here."""
    fields = settings_fields()
    assert {"PULMO_REGISTRY_URL", "PULMO_HOOKS_GITHUB_TOKEN"} <= set(fields)
    plain = [
        name
        for name, one in fields.items()
        if SUSPICIOUS.search(name.lower()) and not is_secret(one) and not is_address(name)
    ]
    paths = {name for name in plain if "Path" in repr(fields[name].annotation)}
    assert set(plain) - paths == {"PULMO_API_KEYS", *HARMLESS & set(fields)}
    assert paths == {"PULMO_SIGNING_KEY", "PULMO_PUBLIC_KEY", "PULMO_KEYS_DIR"}
    assert len(secrets_of_settings()) >= 5
    assert len(addresses()) >= 5


def test_training_evaluation_and_tracking_tell_none(house: House) -> None:
    server = house.with_password("http://127.0.0.1:1", "MLFLOW_TRACKING_PASSWORD")
    impatient = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_TRACKING_URI": server}
    house.run("train", *TINY, "run.dir=runs/b", "tracking=mlflow", **impatient)
    online = {
        "WANDB_MODE": "online", "WANDB_BASE_URL": "http://127.0.0.1:1", "WANDB_INIT_TIMEOUT": "2"
    }  # fmt: skip
    house.run("-v", "train", *TINY, "run.dir=runs/c", "tracking=wandb", **online)
    house.run("evaluate", *TINY, "--model", "runs/a", "--out", "reports/a")
    house.run("runs", "list")
    house.run("runs", "compare", "a", "b")
    assert left(house) == []


def test_wandb_is_told_none_but_in_its_login(house: House) -> None:
    with wandb_server.wandb_server() as state, pytest.MonkeyPatch.context() as patch:
        patch.setattr(wandb_server, "KEY", house.secrets["WANDB_API_KEY"])
        there = {**state.environment(), "WANDB_MODE": "online"}
        house.run("-v", "train", *TINY, "run.dir=runs/e", "tracking=wandb", **there)
        (run,) = state.runs.values()
        assert run.finished
        registry = {"PULMO_REGISTRY": "wandb", "PULMO_REGISTRY_URL": "sqlite:///models/wandb.db"}
        registry["PULMO_HOOKS_TARGETS"] = "local"
        house.run("-v", "registry", "stage", "runs/e", "--later", **registry, **there)
        house.run("registry", "show", f"{NAME}:staging", **registry, **there)
        scanner = Scanner(house.secrets)
        assert scanner.text("its runs", repr(state.runs)) == []
        assert scanner.text("its artifacts", repr(state.collections)) == []
        assert scanner.text("its files", repr(list(state.blobs.values()))) == []
        assert state.refused == []
    assert left(house) == []


def test_staging_and_its_events_tell_none(house: House) -> None:
    house.run("registry", "stage", "runs/a", "--later", *TINY)
    for _ in range(2):
        house.run("-v", "hooks", "deliver")
    said = house.run("hooks", "list", "--all")
    assert "answered 503" in said
    house.run("hooks", "list", "--json")
    house.run("hooks", "work", *TINY)
    house.run("hooks", "reconcile", expect=None)
    for words in (("list",), ("show", f"{NAME}:v0"), ("history", NAME), ("verify",)):
        house.run("registry", *words)
        house.run("registry", *words, "--json")
    house.run("registry", "backup", "backup.tar")
    assert left(house) == []


def test_a_server_tells_none(house: House) -> None:
    key = f"pulmo_{KEY_ID}_{house.secrets['PULMO_API_KEYS'][:43]}"
    picture = next((house.folder / "data/phantom").rglob("*.png")).read_bytes()
    chosen = {**house.environment, "PULMO_LOG_FORMAT": "json", "PULMO_RATE_LIMIT": "off"}
    port = free_port()
    command = [sys.executable, str(ROOT / "main.py"), "-v", "serve", "--model", f"{NAME}:v0"]
    with (house.folder / "server.log").open("w", encoding="utf-8") as log:
        server = subprocess.Popen(
            [*command, "--port", str(port)], stderr=log, cwd=house.folder, env=chosen
        )
    with server:
        try:
            wait_for(f"http://127.0.0.1:{port}/livez")
            ask(house, f"http://127.0.0.1:{port}", picture, key)
        finally:
            server.terminate()
    assert "/predict" in (house.folder / "server.log").read_text("utf-8")
    assert left(house) == []


def wait_for(url: str) -> None:
    until = time.monotonic() + 300
    while True:
        try:
            urllib.request.urlopen(url).close()
        except OSError:
            assert time.monotonic() < until
            time.sleep(0.1)
        else:
            return


def ask(house: House, url: str, picture: bytes, key: str) -> None:
    """Right and wrong requests, with every secret where a client could put it."""
    __tracebackhide__ = True
    spoilt = key[:-1] + ("a" if key[-1] != "a" else "b")
    asked: list[tuple[str, bytes | None, dict[str, str]]] = [
        ("/predict", picture, {**PNG, "Authorization": f"Bearer {key}"}),
        ("/predict", picture, {**PNG, "X-API-Key": key}),
        ("/predict", picture, {**PNG, "Authorization": f"Bearer {spoilt}"}),
        ("/predict", picture, {**PNG, "Authorization": f"Basic {key}"}),
        (f"/predict?api_key={key}", picture, dict(PNG)),
        (f"/nowhere?token={key}", None, {"Cookie": f"session={key}"}),
        ("/predict", b"no picture", {**PNG, "Authorization": f"Bearer {key}"}),
        ("/predict", b"{", {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}),
        ("/registry/models", None, {"Authorization": f"Bearer {key}"}),
        ("/metrics", None, {"Authorization": f"Bearer {key}"}),
        ("/openapi.json", None, {}),
        ("/health", None, {}),
    ]
    body = json.dumps({"type": "alias_moved", "data": {}}).encode()
    for name in OURS:
        signed = signatures.sign(house.secrets[name], "event-1", int(time.time()), body)
        asked.append(("/webhooks/pulmo", body, signed))
        asked.append(("/webhooks/pulmo", body + b" ", signed))
    asked.append(("/webhooks/github", body, signatures.sign_github(house.secrets[GITHUB], body)))
    token = house.secrets["PULMO_HOOKS_WANDB_TOKEN"]
    for bearer in (token, token[:-1]):
        signed = signatures.sign_wandb(house.secrets["PULMO_HOOKS_WANDB_SECRET"], body, bearer)
        asked.append(("/webhooks/wandb", body, signed))
    statuses = []
    for path, sent, headers in asked:
        request = urllib.request.Request(f"{url}{path}", sent, headers)
        try:
            with urllib.request.urlopen(request) as answer:
                status, said = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                status, said = error.code, error.read()
        statuses.append(status)
        house.outputs[f"{len(house.outputs)}: {path.partition('?')[0]}"] = said.decode("latin-1")
    assert 200 in statuses
    assert 401 in statuses


def test_what_is_shown_of_this_machine_tells_none(house: House) -> None:
    house.run("config", "show", "train", *TINY)
    house.run("config", "show", "train", *TINY, "--json")
    house.run("doctor", expect=None)
    house.run("doctor", "--json", expect=None)
    house.run("keys", "list")
    house.run("receipt", "00000000-0000-4000-8000-000000000000", expect=None)
    house.run("clean")
    assert left(house) == []


@pytest.mark.parametrize("name", addresses())
def test_an_address_that_fails_tells_none(house: House, name: str) -> None:
    nowhere = "postgresql://127.0.0.1:1/db" if "LOG" in name or "REGISTRY" in name else ""
    nowhere = nowhere or ("http://127.0.0.1:1" if "API" in name else "ftp://127.0.0.1:1/place")
    whole = house.with_password(nowhere, name)
    in_query = f"{nowhere}?password={house.secrets[name]}"
    typo = whole.replace("://", "//")
    odd = whole.replace(house.secrets[name], f"a?b'#{house.secrets[name]}")
    for value in (whole, in_query, typo, odd):
        for words in (
            ("registry", "list"),
            ("hooks", "deliver"),
            ("data-push", *TINY),
            ("serve", "--model", f"{NAME}:v0", "--port", "0"),
            ("receipt", "00000000-0000-4000-8000-000000000000"),
            ("config", "show", "train"),
        ):
            if concerns(words[0], name):
                house.run("-v", *words, expect=None, **{name: value})
    assert left(house) == []


def concerns(verb: str, name: str) -> bool:
    """Whether a verb uses a setting: most of them would only cost time."""
    users = {
        "PULMO_REGISTRY_URL": ("registry", "hooks", "serve", "config"),
        "PULMO_FILES_URL": ("serve", "config"),
        "PULMO_DATA_URL": ("data-push", "config"),
        "PULMO_LOG_URL": ("receipt", "config"),
        "PULMO_HOOKS_GITHUB_API": ("hooks",),
    }
    return verb in users.get(name, ("registry", "hooks", "data-push", "config"))


@pytest.mark.parametrize("name", secrets_of_settings())
def test_a_secret_that_is_refused_is_not_repeated(house: House, name: str) -> None:
    secret = house.secrets[name]
    for value in (
        f"{secret} {secret} {secret}",
        f"{secret}\u00e9\x01",
        f"whsec_{secret}!",
        secret[:9],
    ):
        house.run("-v", "hooks", "list", expect=None, **{name: value})
    assert left(house) == []


def test_keys_and_credentials_that_are_refused_are_not_repeated(house: House) -> None:
    raw = {"PULMO_API_KEYS": house.secrets["PULMO_API_KEYS"]}
    for words in (("config", "show", "train"), ("serve", "--model", f"{NAME}:v0", "--port", "0")):
        house.run("-v", *words, expect=None, **raw)
    bad = {"WANDB_API_KEY": house.secrets["WANDB_API_KEY"] + "!", "WANDB_MODE": "online"}
    said = house.run("-v", "train", *TINY, "run.dir=runs/d", "tracking=wandb", expect=None, **bad)
    assert "WANDB_API_KEY" in said
    file = {"STORAGE_EMULATOR_HOST": "", CREDENTIAL: str(credential(house))}
    house.run("-v", "registry", "show", f"{NAME}:v0", expect=None, **file)
    data = {**file, "PULMO_DATA_URL": f"gs://{BUCKET}/data"}
    house.run("-v", "data-push", *TINY, expect=None, **data)
    assert left(house) == []


def credential(house: House) -> Path:
    """A key file beside the house: what it holds is searched for, not searched."""
    path = house.folder.parent / "canary-credential.json"
    told = {
        "type": "service_account",
        "client_email": "a@b.iam.gserviceaccount.com",
        "token_uri": "http://127.0.0.1:1/token",
        "private_key": house.secrets[CREDENTIAL],
    }
    path.write_text(json.dumps(told))
    return path


def test_nothing_anywhere_tells_one(
    house: House, databases: Postgres, tell: Callable[[str], None]
) -> None:
    from sqlalchemy import MetaData, create_engine

    scanner = Scanner(house.secrets)
    found, rows = scanner.folder(house.folder), 0
    for where, said in house.outputs.items():
        found += scanner.text(where, said)
    for name in ("PULMO_REGISTRY_URL", "PULMO_LOG_URL"):
        engine = create_engine(house.environment[name].replace("postgresql", "postgresql+pg8000"))
        tables = MetaData()
        with engine.connect() as connection:
            tables.reflect(connection)
            for table in tables.tables.values():
                for row in connection.execute(table.select()):
                    rows += 1
                    found += scanner.text(f"a row of {table.name}", told_of(row))
        engine.dispose()
    assert found == []
    assert rows > 10
    looked = scanner.looked
    tell(
        f"{len(house.secrets)} canaries in {len(list(canaries.forms('x')))} forms: none in "
        f"{len(house.outputs)} outputs and answers, {looked['files']} files "
        f"({looked['bytes'] / 1e6:.0f} MB unpacked), {rows} rows of two databases"
    )


def told_of(row: Any) -> str:
    return json.dumps([str(value) for value in row], ensure_ascii=False)
