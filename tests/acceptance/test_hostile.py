"""Thousands of hostile files by every transport: refused, quickly, and without a trace."""

import base64
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2 as httpx
from hostile_pictures import KINDS, bombs, hostile
from served import PNG, memory, percentile, serving

from pulmo.core.bundle import Bundle


def test_six_thousand_hostile_requests_are_refused(
    toy_bundle: Bundle,
    grey_png: Callable[[int], bytes],
    tmp_path: Path,
    tell: Callable[[str], None],
) -> None:
    def send(client: httpx.Client, transport: int, data: bytes) -> tuple[httpx.Response, float]:
        begun = time.perf_counter()
        if transport == 0:
            answer = client.post("/predict", content=data, headers=PNG)
        elif transport == 1:
            answer = client.post("/predict", files={"file": ("x", data)})
        else:
            answer = client.post("/predict", json={"image": base64.b64encode(data).decode()})
        return answer, time.perf_counter() - begun

    with (
        serving(toy_bundle.path, tmp_path) as (process, url),
        httpx.Client(base_url=url, timeout=30) as client,
    ):
        for _ in range(50):
            send(client, 0, grey_png(200))
        while "pulmo_receipts_written_total 50.0" not in client.get("/metrics").text:
            time.sleep(0.1)  # all that a server loads is loaded once its receipts are written
        idle = memory(process)
        files = [(transport, data) for _, data in hostile(7, 2000) for transport in range(3)]
        with ThreadPoolExecutor(4) as pool:
            told = list(pool.map(lambda job: send(client, *job), files))
        assert len(told) == 6000
        assert {a.headers["Content-Type"] for a, _ in told} == {"application/problem+json"}
        assert {a.status_code // 100 for a, _ in told} == {4}
        slowest = percentile([seconds for _, seconds in told], 0.99)
        for data in bombs(8, 50):
            answer, _ = send(client, 0, data)
            assert (answer.status_code, "pixels" in answer.text) == (400, True)
        assert client.post("/predict", content=grey_png(200), headers=PNG).status_code == 200
        assert process.poll() is None
        peak, after = memory(process, "VmHWM"), memory(process)
    tell(
        f"6,000 requests of {len(KINDS)} kinds: all 4xx, p99 {slowest:.3f} s; "
        f"idle {idle:.0f}, peak {peak:.0f}, after {after:.0f} MiB; "
        "50 bombs refused"
    )
    assert len(KINDS) >= 25
    assert slowest < 1
    assert peak <= idle + 256
    assert after <= idle + 32
