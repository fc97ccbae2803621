"""A minute of ten times more than a server can answer: it refuses, and recovers at once."""

import asyncio
import io
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx2 as httpx
from PIL import Image
from served import PNG, Load, serving

from pulmo.core.bundle import Bundle

TIMES, SECONDS, RECOVERY = 10, 60, 5.0
CONNECTIONS = 200
CALIBRATION = 4.0


def heavy() -> bytes:
    """A small file that takes a while to decode."""
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((2400, 2400)).save(buffer, "PNG")
    return buffer.getvalue()


def test_an_overloaded_server_refuses_and_recovers(
    toy_bundle: Bundle, tmp_path: Path, tell: Callable[[str], None]
) -> None:
    picture = heavy()
    with (
        serving(toy_bundle.path, tmp_path) as (process, url),
        httpx.Client(base_url=url, timeout=30) as client,
    ):
        client.post("/predict", content=picture, headers=PNG)
        with Load(url, picture) as load:
            time.sleep(CALIBRATION)
        peak = len(load.answers) / CALIBRATION
        told = asyncio.run(flood(url, picture, TIMES * peak))
        begun = time.perf_counter()
        while client.post("/predict", content=picture, headers=PNG).status_code != 200:
            time.sleep(0.02)
        recovered = time.perf_counter() - begun
        for _ in range(20):
            assert client.post("/predict", content=picture, headers=PNG).status_code == 200
        assert process.poll() is None
    statuses = Counter(status for status, _ in told)
    tell(
        f"peak {peak:.0f}/s; {len(told) / SECONDS:.0f}/s for {SECONDS} s: {dict(statuses)}, "
        f"goodput {statuses[200] / SECONDS / peak:.2f} of the peak; recovered in {recovered:.2f} s"
    )
    assert len(told) / SECONDS >= 0.8 * TIMES * peak
    assert set(statuses) <= {200, 429, 503}
    assert statuses[200] > 0
    assert all("retry-after" in head for status, head in told if status != 200)
    assert recovered <= RECOVERY


async def flood(url: str, picture: bytes, rate: float) -> list[tuple[int, str]]:
    """(status, head) of every request sent, `rate` a second, over many connections."""
    host, _, port = url.removeprefix("http://").partition(":")
    head = f"POST /predict HTTP/1.1\r\nHost: {host}\r\nContent-Type: image/png\r\n"
    request = f"{head}Content-Length: {len(picture)}\r\n\r\n".encode() + picture
    told: list[tuple[int, str]] = []
    begun = time.perf_counter()
    sent = 0

    async def client() -> None:
        nonlocal sent
        reader, writer = await asyncio.open_connection(host, int(port))
        while (due := sent / rate) < SECONDS:
            sent += 1
            await asyncio.sleep(max(0.0, begun + due - time.perf_counter()))
            writer.write(request)
            status, answer = await answered(reader)
            told.append((status, answer))
            if "connection: close" in answer:
                writer.close()
                reader, writer = await asyncio.open_connection(host, int(port))
        writer.close()

    await asyncio.gather(*(client() for _ in range(CONNECTIONS)))
    return told


async def answered(reader: asyncio.StreamReader) -> tuple[int, str]:
    """The status and the head, in small letters, of the next answer."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    length = int(head.partition("content-length:")[2].partition("\r\n")[0])
    await reader.readexactly(length)
    return int(head.split(" ", 2)[1]), head
