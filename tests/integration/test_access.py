"""Keys from the command line, asked for by a server that strangers can reach."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2 as httpx

from pulmo.config.settings import Settings
from pulmo.core.bundle import Bundle
from pulmo.core.ports import ModelRef
from pulmo.wiring import open_registry

PROGRAM = "from pulmo.main import run; run()"
LISTENING = "listening on "
PNG = {"Content-Type": "image/png"}


@contextmanager
def serving(settings: Settings, *arguments: str) -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "serve", "--port", "0", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **settings.environment()},
    )
    with process:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if line.startswith(LISTENING):
                break
        else:
            raise AssertionError("".join(lines))
        threading.Thread(target=process.stderr.read, daemon=True).start()
        try:
            yield line.removeprefix(LISTENING).strip().replace("0.0.0.0", "127.0.0.1")
        finally:
            process.terminate()


def test_a_server_for_strangers_asks_for_keys_and_lets_admins_stage(
    cli: Callable[..., tuple[int, str, str]],
    make_bundle: Callable[..., Bundle],
    grey_png: Callable[[int], bytes],
    tmp_path: Path,
) -> None:
    places = Settings(
        data_dir=tmp_path / "data",
        registry_url=f"sqlite:///{tmp_path / 'models/registry.db'}",
        files_url=str(tmp_path / "models/bundles"),
        log_url=f"sqlite:///{tmp_path / 'models/log.db'}",
        keys_dir=tmp_path / "models/keys",
    )
    registry = open_registry(places)
    for number in range(2):
        made = make_bundle(tmp_path / str(number), weights=bytes([number]))
        registry.register(made.path, actor="me")
    registry.set_alias("toy", "live", 0, expected=None, actor="me", reason="start")
    heads = []
    for role in ("predict", "admin"):
        text = cli("keys", "create", "--role", role, "--name", role)[1].strip()
        heads.append({"Authorization": f"Bearer {text}"})
    predict, admin = heads
    arguments = ("--model", "toy:live", "--host", "0.0.0.0", "--admin")
    with serving(places, *arguments) as url, httpx.Client(base_url=url, timeout=60) as client:
        picture = {"content": grey_png(200)}
        assert client.post("/predict", headers=PNG, **picture).status_code == 401
        assert client.post("/predict", headers=PNG | predict, **picture).status_code == 200
        other = client.post("/predict?version=v1", headers=PNG | admin, **picture)
        assert other.json()["model"]["version"] == "v1"
        stage = ("/registry/toy/stage", {"version": "v1", "reason": "try it"})
        assert client.post(stage[0], headers=predict, json=stage[1]).status_code == 403
        assert client.post(stage[0], headers=admin, json=stage[1]).status_code == 202
        refused = client.post("/registry/toy/promote", headers=admin, json={"version": "v1"})
        assert (refused.status_code, refused.headers["Content-Type"]) == (
            409,
            "application/problem+json",
        )
        cli("keys", "revoke", predict["Authorization"].split("_")[1])
        while client.get("/model/info", headers=predict).status_code == 200:
            pass
        assert client.get("/model/info", headers=admin).status_code == 200
    assert registry.get(ModelRef("toy", alias="staging")).number == 1
    assert registry.history("toy")[-1].actor.startswith("admin (")
