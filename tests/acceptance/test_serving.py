"""A server under what the internet does to one: hostile files, slow clients, restarts, swaps."""

import asyncio
import base64
import io
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx2 as httpx
import pytest
from hostile_pictures import bombs, hostile
from PIL import Image

from pulmo.config.settings import Settings
from pulmo.core.bundle import Bundle
from pulmo.core.wire import Answer
from pulmo.serving.models import Model
from pulmo.wiring import open_registry

ROOT = Path(__file__).parents[2]
MIB = 2**20
PNG = {"Content-Type": "image/png"}
LISTENING = "listening on "

logger = logging.getLogger(__name__)  # the figures: --log-cli-level=INFO


@pytest.fixture(autouse=True)
def _quiet_client() -> None:
    logging.getLogger("httpx2").setLevel(logging.WARNING)


@contextmanager
def serving(target: object, **environment: str) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """A server process and its address."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "main.py"), "serve", "--model", str(target), "--port", "0"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    with process:
        assert process.stderr is not None
        line = next(line for line in process.stderr if line.startswith(LISTENING))
        threading.Thread(target=process.stderr.read, daemon=True).start()
        try:
            yield process, line.removeprefix(LISTENING).strip()
        finally:
            process.kill()


def memory(process: "subprocess.Popen[str]", name: str = "VmRSS") -> float:
    """Resident memory now (`VmRSS`) or at most (`VmHWM`), in MiB."""
    status = Path(f"/proc/{process.pid}/status").read_text("ascii")
    line = next(line for line in status.splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024


def descriptors(process: "subprocess.Popen[str]") -> int:
    return len(list(Path(f"/proc/{process.pid}/fd").iterdir()))


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


def test_six_thousand_hostile_requests_are_refused(
    toy_bundle: Bundle, grey_png: Callable[[int], bytes]
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

    with serving(toy_bundle.path) as (process, url), httpx.Client(base_url=url) as client:
        for _ in range(50):
            send(client, 0, grey_png(200))
        idle = memory(process)
        files = [
            (i % 3 + t, data) for i, (_, data) in enumerate(hostile(7, 2000)) for t in range(3)
        ]
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
        peak, after = memory(process, "VmHWM"), memory(process)
        logger.info(f"p99 {slowest:.3f} s, idle {idle:.0f}, peak {peak:.0f}, after {after:.0f} MiB")
        assert slowest < 1
        assert peak <= idle + 256
        assert after <= idle + 32


def test_five_hundred_slow_clients_are_cut_and_harm_nobody(
    toy_bundle: Bundle, grey_png: Callable[[int], bytes]
) -> None:
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
    body = head + b"Content-Length: 1000\r\n\r\n"

    def normal(client: httpx.Client, seconds: float) -> list[float]:
        took, end = [], time.perf_counter() + seconds
        while time.perf_counter() < end:
            begun = time.perf_counter()
            assert client.post("/predict", content=grey_png(5), headers=PNG).status_code == 200
            took.append(time.perf_counter() - begun)
            time.sleep(0.01)
        return took

    with serving(toy_bundle.path) as (_, url), httpx.Client(base_url=url) as client:
        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        normal(client, 1)
        before = normal(client, 5)
        lives: list[float] = []
        slow = threading.Thread(target=lambda: lives.extend(dribble(address, head, body)))
        slow.start()
        during = normal(client, 10)
        slow.join()
    baseline, harmed = percentile(before, 0.99), percentile(during, 0.99)
    logger.info(f"cut after {max(lives):.1f} s; p99 {baseline * 1e3:.1f} → {harmed * 1e3:.1f} ms")
    assert len(lives) == 500
    assert max(lives) <= 15
    assert harmed <= 2 * baseline


def dribble(address: tuple[str, int], head: bytes, body: bytes) -> list[float]:
    """Seconds that each of 500 clients lived; half send their heads slowly, half their bodies."""
    clients = {socket.create_connection(address): time.perf_counter() for _ in range(500)}
    for index, client in enumerate(clients):
        client.setblocking(False)
        client.send(body if index % 2 else head[:10])
    lives = []
    while clients:
        time.sleep(1)
        for client in list(clients):
            try:
                client.send(b"x")
                over = client.recv(65536) is not None
            except BlockingIOError:
                over = False
            except OSError:
                over = True
            if over:
                lives.append(time.perf_counter() - clients.pop(client))
                client.close()
    return lives


class Load:
    """Clients that ask again and again while the block runs."""

    def __init__(self, url: str, picture: bytes, clients: int = 4) -> None:
        self.answers: list[tuple[int, str, str]] = []
        self.lost: list[Exception] = []
        self._url, self._picture, self._stop = url, picture, threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        with httpx.Client(base_url=self._url, timeout=30) as client:
            while not self._stop.is_set():
                try:
                    answer = client.post("/predict", content=self._picture, headers=PNG)
                except httpx.ConnectError:
                    return
                except httpx.HTTPError as error:
                    self.lost.append(error)
                    return
                told = answer.json()
                self.answers.append(
                    (answer.status_code, told["model"]["digest"], told["prediction"])
                )


def test_a_hundred_ends_under_load_lose_nothing(
    toy_bundle: Bundle, grey_png: Callable[[int], bytes]
) -> None:
    answered, took = 0, []
    for _ in range(100):
        with serving(toy_bundle.path) as (process, url), Load(url, grey_png(200)) as load:
            while len(load.answers) < 10 and not load.lost:
                time.sleep(0.01)
            begun = time.perf_counter()
            process.send_signal(signal.SIGTERM)
            code = process.wait(timeout=30)
            took.append(time.perf_counter() - begun)
        assert code == 143
        assert load.lost == []
        assert {status for status, _, _ in load.answers} == {200}
        answered += len(load.answers)
    logger.info(f"{answered} answers, none lost; an end took {max(took):.1f} s at most")
    assert max(took) <= 8


def test_two_hundred_swaps_under_load_fail_nobody(
    make_bundle: Callable[..., Bundle],
    toy_bundle: Bundle,
    grey_png: Callable[[int], bytes],
    tmp_path: Path,
) -> None:
    settings = Settings(
        registry_url=f"sqlite:///{tmp_path / 'registry.db'}", files_url=str(tmp_path / "files")
    )
    registry = open_registry(settings)
    strict = toy_bundle.info.specification.decision.model_copy(
        update={"threshold": 0.995, "refer_low": 0.994, "refer_high": 0.996}
    )
    other = make_bundle(tmp_path / "strict", weights=b"strict", decision=strict)
    versions = [registry.register(b.path, actor="me") for b in (toy_bundle, other)]
    registry.set_alias("toy", "live", 0, expected=None, actor="me", reason="start")
    took = []
    with (
        serving("toy:live", **settings.environment()) as (process, url),
        httpx.Client(base_url=url, timeout=30) as client,
    ):
        with Load(url, grey_png(200)) as load:
            for turn in range(200):
                after = 1 - turn % 2
                registry.set_alias(
                    "toy", "live", after, expected=turn % 2, actor="me", reason="turn"
                )
                begun = time.perf_counter()
                digest = versions[after].model_digest
                while client.get("/health").json()["model"]["digest"] != digest:
                    time.sleep(0.02)
                took.append(time.perf_counter() - begun)
        opened = descriptors(process)
    assert load.lost == []
    assert set(load.answers) == {
        (200, versions[0].model_digest, "BRIGHT"),
        (200, versions[1].model_digest, "DARK"),
    }
    logger.info(f"{len(load.answers)} answers over 200 swaps, taken over within {max(took):.2f} s")
    assert max(took) <= 1.5
    assert opened < 60


def test_twenty_thousand_requests_leave_no_trace(
    toy_bundle: Bundle, grey_png: Callable[[int], bytes]
) -> None:
    def ask(url: str, count: int) -> None:
        with httpx.Client(base_url=url, timeout=30) as client:
            for _ in range(count):
                assert client.post("/predict", content=grey_png(5), headers=PNG).status_code == 200

    with serving(toy_bundle.path) as (process, url), ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: ask(url, 1000), range(2)))
        before, opened = memory(process), descriptors(process)
        list(pool.map(lambda _: ask(url, 10_000), range(2)))
        after, still = memory(process), descriptors(process)
    logger.info(f"{before:.1f} → {after:.1f} MiB, {opened} → {still} descriptors")
    assert after - before <= 8
    assert abs(still - opened) <= 2


def test_real_pictures_are_answered_over_http_as_in_the_process(
    make_bundle: Callable[..., Bundle], shared_data: Path, tmp_path: Path
) -> None:
    bundle = make_bundle(tmp_path / "bundle", outliers=None)
    paths = sorted(shared_data.glob("chest_xray/**/*.jpeg"))
    paths = paths[:: len(paths) // 300][:300]
    expected = [Model(bundle).answer([path.read_bytes()], explain=False)[0] for path in paths]
    gap = 0.0
    with serving(bundle.path) as (_, url), httpx.Client(base_url=url, timeout=30) as client:
        for path, plain in zip(paths, expected, strict=True):
            data = path.read_bytes()
            head = {"Content-Type": "image/jpeg"}
            for answer in (
                client.post("/predict", content=data, headers=head),
                client.post("/predict", files={"file": (path.name, data)}),
                client.post("/predict", json={"image": base64.b64encode(data).decode()}),
            ):
                told = Answer.model_validate_json(answer.content)
                assert (told.prediction, told.decision) == (plain.prediction, plain.decision)
                assert told.input_sha256 == plain.input_sha256
                gap = max(gap, abs(told.probability - plain.probability))
    labels = {plain.prediction for plain in expected}
    logger.info(f"{len(expected)} pictures, {labels}, largest gap {gap:.1e}")
    assert len(expected) == 300
    assert labels == {"DARK", "BRIGHT"}
    assert gap <= 1e-4


def test_an_overloaded_server_refuses_and_recovers(toy_bundle: Bundle) -> None:
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((2000, 2000)).save(buffer, "PNG")
    picture = buffer.getvalue()
    told: list[httpx.Response] = []

    async def hammer(client: httpx.AsyncClient, end: float) -> None:
        while time.perf_counter() < end:
            told.append(await client.post("/predict", content=picture, headers=PNG))

    async def overload(url: str) -> None:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=url, timeout=30, limits=limits) as client:
            end = time.perf_counter() + 60
            await asyncio.gather(*(hammer(client, end) for _ in range(200)))

    with serving(toy_bundle.path) as (process, url):
        asyncio.run(overload(url))
        begun = time.perf_counter()
        with httpx.Client(base_url=url) as client:
            while client.post("/predict", content=picture, headers=PNG).status_code != 200:
                time.sleep(0.05)
        recovered = time.perf_counter() - begun
        assert process.poll() is None
    shed = [answer for answer in told if answer.status_code == 503]
    logger.info(f"{len(told)} answers, {len(shed)} of them 503; recovered in {recovered:.2f} s")
    assert {answer.status_code for answer in told} == {200, 503}
    assert all(answer.headers["Retry-After"] == "1" for answer in shed)
    assert recovered <= 5
