"""The server as a process of its own, asked over real connections."""

import base64
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from pulmo.config.settings import Settings
from pulmo.core.bundle import Bundle
from pulmo.core.ports import Registry, Version
from pulmo.jobs.predict import predict
from pulmo.wiring import find_receipt, open_registry

# A shell has Ctrl-C ignored for what it starts in the background; a server hears it all the same.
PROGRAM = """
import signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
from pulmo.main import run
run()
"""
LISTENING = "listening on "


class Server:
    """A process and the address it said."""

    def __init__(self, process: "subprocess.Popen[str]", url: str) -> None:
        self.process, self.url = process, url

    def ends(self, sent: int = signal.SIGTERM) -> int:
        self.process.send_signal(sent)
        return self.process.wait(timeout=30)


@contextmanager
def serving(target: object, settings: Settings | None = None) -> Iterator[Server]:
    places = (settings or Settings(log_url="stdout", rate_limit="off")).environment()
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "serve", "--model", str(target), "--port", "0"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **places},
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
            yield Server(process, line.removeprefix(LISTENING).strip())
        finally:
            process.kill()


class Load:
    """Clients that ask one thing again and again, each by its own connections."""

    def __init__(self, url: str, picture: bytes, clients: int = 4) -> None:
        self.answers: list[httpx.Response] = []
        self.lost: list[Exception] = []
        self._url, self._picture = url, picture
        self._stop = threading.Event()
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
        head = {"Content-Type": "image/png"}
        with httpx.Client(base_url=self._url, timeout=20) as client:
            while not self._stop.is_set():
                try:
                    self.answers.append(
                        client.post("/predict", content=self._picture, headers=head)
                    )
                except httpx.ConnectError:  # nobody listens any more: nothing was accepted
                    return
                except httpx.HTTPError as error:
                    self.lost.append(error)


@pytest.fixture(scope="module")
def server(toy_bundle: Bundle) -> Iterator[Server]:
    with serving(toy_bundle.path) as server:
        yield server


def test_every_transport_gives_the_answer_of_the_process_itself(
    server: Server, toy_bundle: Bundle, grey_png: Callable[[int], bytes], tmp_path: Path
) -> None:
    levels = range(0, 256, 5)
    for level in levels:
        (tmp_path / f"{level:03}.png").write_bytes(grey_png(level))
    expected = list(predict(toy_bundle, [str(tmp_path)]))
    encoded = [grey_png(level) for level in levels]
    with httpx.Client(base_url=server.url) as client:
        raw = [ask(client, content=e, headers={"Content-Type": "image/png"}) for e in encoded]
        form = [ask(client, files={"file": ("name.png", e)}) for e in encoded]
        text = [ask(client, json={"image": base64.b64encode(e).decode()}) for e in encoded]
    for answers in (raw, form, text):
        assert [a["prediction"] for a in answers] == [p.label for p in expected]
        assert [a["decision"] for a in answers] == [p.decision for p in expected]
        gap = max(
            abs(a["probabilities"][name] - p.probabilities[name])
            for a, p in zip(answers, expected, strict=True)
            for name in a["probabilities"]
        )
        assert gap <= 1e-6


def ask(client: httpx.Client, **body: Any) -> dict[str, Any]:
    answer = client.post("/predict", **body)
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        registry_url=f"sqlite:///{tmp_path / 'registry.db'}",
        files_url=str(tmp_path / "files"),
        log_url=f"sqlite:///{tmp_path / 'log.db'}",
        rate_limit="off",
    )


@pytest.fixture
def registry(settings: Settings) -> Registry:
    return open_registry(settings)


@pytest.fixture
def two(
    registry: Registry, make_bundle: Callable[..., Bundle], toy_bundle: Bundle, tmp_path: Path
) -> tuple[Version, Version]:
    """Two models that give the same picture different names."""
    strict = toy_bundle.info.specification.decision.model_copy(
        update={"threshold": 0.995, "refer_low": 0.994, "refer_high": 0.996}
    )
    other = make_bundle(tmp_path / "strict", weights=b"strict", decision=strict)
    return tuple(registry.register(b.path, actor="me") for b in (toy_bundle, other))  # type: ignore[return-value]


def test_an_alias_that_moves_is_followed_without_a_request_lost_or_mixed(
    registry: Registry,
    settings: Settings,
    two: tuple[Version, Version],
    grey_png: Callable[[int], bytes],
) -> None:
    says = {two[0].model_digest: ("v0", "BRIGHT"), two[1].model_digest: ("v1", "DARK")}
    registry.set_alias("toy", "live", 0, expected=None, actor="me", reason="start")
    with serving("toy:live", settings) as server, httpx.Client(base_url=server.url) as client:
        with Load(server.url, grey_png(200)) as load:
            for turn in range(6):
                before, after = turn % 2, 1 - turn % 2
                registry.set_alias(
                    "toy", "live", after, expected=before, actor="me", reason="a turn"
                )
                while client.get("/health").json()["model"]["digest"] != two[after].model_digest:
                    pass
        assert client.get("/metrics").text.count("\npulmo_model_swaps 6.0\n") == 1
    assert load.lost == []
    seen = {answer.json()["model"]["digest"] for answer in load.answers}
    assert {answer.status_code for answer in load.answers} == {200}
    assert seen == set(says)
    for answer in (answer.json() for answer in load.answers):
        version, label = says[answer["model"]["digest"]]
        assert (answer["model"]["version"], answer["prediction"]) == (version, label)


def test_a_version_and_a_digest_stay(
    registry: Registry, settings: Settings, two: tuple[Version, Version]
) -> None:
    for target in ("toy:v0", f"toy@{two[0].model_digest}"):
        with serving(target, settings) as server:
            told = httpx.get(f"{server.url}/health").json()["model"]
            assert (told["version"], told["digest"]) == ("v0", two[0].model_digest)
            assert server.ends(signal.SIGINT) == 130


def test_sigterm_under_load_loses_no_accepted_request_and_no_receipt(
    toy_bundle: Bundle, grey_png: Callable[[int], bytes], settings: Settings
) -> None:
    with serving(toy_bundle.path, settings) as server, Load(server.url, grey_png(200)) as load:
        while len(load.answers) < 20:
            pass
        code = server.ends()
    assert code == 143
    assert load.lost == []
    assert {answer.status_code for answer in load.answers} == {200}
    for answer in load.answers[-20:]:
        assert find_receipt(settings, answer.json()["id"]).prediction == "BRIGHT"


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("--host", "0.0.0.0"), 2, "set PULMO_ALLOW_ANONYMOUS=1"),
        (("--model", "toy:production"), 1, "there is no registry"),
        (("--model", "./nowhere"), 1, "is no folder"),
    ],
)
def test_a_server_that_cannot_serve_says_why(
    cli: Callable[..., tuple[int, str, str]], arguments: tuple[str, ...], code: int, told: str
) -> None:
    found, _, err = cli("serve", *arguments)
    assert found == code
    assert told in err
    assert err.count("\n") == 1
