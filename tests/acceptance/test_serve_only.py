"""A fresh clone with the serving group alone: a server from a bundle, without what trains."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import httpx2 as httpx
from served import PNG, ROOT, address

from pulmo.core.bundle import Bundle

ABSENT = ("torch", "hydra", "lightning", "pytorch_lightning", "timm", "wandb", "matplotlib")


def test_a_server_needs_nothing_that_trains(
    toy_bundle: Bundle,
    grey_png: Callable[[int], bytes],
    tmp_path: Path,
    tell: Callable[[str], None],
) -> None:
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    ours = ("VIRTUAL_ENV", "PYTHONPATH", "UV_PROJECT_ENVIRONMENT")
    environment = {k: v for k, v in os.environ.items() if k not in ours}
    command = ("uv", "sync", "--locked", "--no-default-groups", "--group", "serve")
    subprocess.run(command, cwd=clone, env=environment, check=True, timeout=600)
    packages = next((clone / ".venv/lib").glob("python*/site-packages"))
    assert [name for name in ABSENT if (packages / name).exists()] == []
    size = sum(f.lstat().st_size for f in packages.rglob("*") if not f.is_symlink()) / 2**20
    python, said = str(clone / ".venv/bin/python"), clone / "server.log"
    with said.open("w", encoding="utf-8") as log:
        server = subprocess.Popen(
            [python, "main.py", "serve", "--model", str(toy_bundle.path), "--port", "0"],
            cwd=clone,
            env=environment,
            stderr=log,
        )
    with server:
        try:
            url = address(said)
            answer = httpx.post(f"{url}/predict", content=grey_png(200), headers=PNG)
            assert (answer.status_code, answer.json()["prediction"]) == (200, "BRIGHT")
        finally:
            server.terminate()
    assert server.returncode == 143, said.read_text("utf-8")
    (clone / "picture.png").write_bytes(grey_png(200))
    receipt = ["receipt", answer.json()["id"], "picture.png", "--model", str(toy_bundle.path)]
    replayed = subprocess.run(
        [python, "main.py", *receipt],
        cwd=clone,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert replayed.returncode == 0, replayed.stderr
    tell(f"{size:.0f} MiB of packages, none that trains; served, answered, receipt replayed")
