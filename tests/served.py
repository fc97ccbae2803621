"""A server in a process of its own, and clients that put it under load."""

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2 as httpx

ROOT = Path(__file__).parents[1]
PNG = {"Content-Type": "image/png"}
LISTENING = "listening on "

logging.getLogger("httpx2").setLevel(logging.WARNING)


@contextmanager
def serving(
    target: object, folder: Path, *, program: Path = ROOT / "main.py", **environment: str
) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """A server process, state below `folder`, and its address; what it logs goes to a file there.

    Nobody is slowed down by a rate, so that what is proved is proved of the server itself.
    """
    said = folder / "server.log"
    with said.open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            [sys.executable, str(program), "serve", "--model", str(target), "--port", "0"],
            stderr=log,
            cwd=folder,
            text=True,
            env={**os.environ, "PULMO_RATE_LIMIT": "off", **environment},
        )
    with process:
        try:
            yield process, address(said, process)
        finally:
            process.kill()


def address(said: Path, process: "subprocess.Popen[str] | None" = None) -> str:
    """Where a server listens, once its log says so."""
    while True:
        text = said.read_text("utf-8") if said.exists() else ""
        for line in text.splitlines(keepends=True):
            if line.startswith(LISTENING) and line.endswith("\n"):
                return line.removeprefix(LISTENING).strip()
        assert process is None or process.poll() is None, text
        threading.Event().wait(0.01)


def memory(process: "subprocess.Popen[str]", name: str = "VmRSS") -> float:
    """Resident memory now (`VmRSS`) or at most (`VmHWM`), in MiB."""
    status = Path(f"/proc/{process.pid}/status").read_text("ascii")
    line = next(line for line in status.splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024


def descriptors(process: "subprocess.Popen[str]") -> int:
    """How many files and connections a process has open."""
    return len(list(Path(f"/proc/{process.pid}/fd").iterdir()))


def percentile(values: list[float], share: float) -> float:
    """The value below which a share of the values lies."""
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


class Load:
    """Clients that ask again and again, after a `pause` in seconds, while the block runs.

    `answers` are (status, model digest, prediction, id); a request that was sent and not answered
    is in `lost`. A connection that could not be made was never accepted.
    """

    def __init__(self, url: str, picture: bytes, clients: int = 4, pause: float = 0) -> None:
        self.answers: list[tuple[int, str, str, str]] = []
        self.lost: list[Exception] = []
        self._url, self._picture, self._stop = url, picture, threading.Event()
        self._pause = pause
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
                model = told.get("model", {}).get("digest", "")
                self.answers.append(
                    (answer.status_code, model, told.get("prediction"), told.get("id"))
                )
                if self._pause:
                    self._stop.wait(self._pause)
