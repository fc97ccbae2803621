"""What a server leaves behind: receipts and a log, both without what was sent."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx2 as httpx

from pulmo.core.bundle import Bundle
from pulmo.core.receipt import Receipt

ROOT = Path(__file__).parents[2]
CANARY = "quagga"


def test_receipts_and_log_are_lines_without_anything_that_was_sent(
    toy_bundle: Bundle, grey_png: Callable[[int], bytes], tmp_path: Path
) -> None:
    options = ["--model", str(toy_bundle.path), "--port", "0"]
    server = subprocess.Popen(
        [sys.executable, str(ROOT / "main.py"), "serve", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PULMO_LOG_FORMAT": "json", "PULMO_LOG_URL": "stdout"},
    )
    with server:
        assert server.stderr is not None
        for line in server.stderr:
            _, found, url = json.loads(line)["message"].partition("listening on ")
            if found:
                break
        files = {"file": (f"{CANARY}.png", grey_png(200))}
        head = {"Cookie": CANARY, "X-Request-ID": CANARY}
        with httpx.Client(base_url=url, timeout=30) as client:
            told = client.post(f"/predict?{CANARY}", files=files, headers=head).json()
            client.post("/predict", content=CANARY.encode(), headers={"Content-Type": "image/png"})
            client.get(f"/{CANARY}", headers={"Authorization": f"Bearer {CANARY}"})
        server.terminate()
        out, err = server.communicate(timeout=30)
    assert server.returncode == 143
    receipts = [Receipt.model_validate_json(line) for line in out.splitlines()]
    assert [(one.id, one.prediction) for one in receipts] == [(told["id"], "BRIGHT")]
    requests = [line for line in map(json.loads, err.splitlines()) if "route" in line]
    assert [line["status"] for line in requests[:2]] == [200, 400]
    assert CANARY not in out + err
