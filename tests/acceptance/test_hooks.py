"""What webhooks must withstand: mutated messages, killed processes, addresses that lead astray.

Run as a script this file is a sender or a receiver: `send FOLDER URL GITHUB` or `receive FOLDER
PORT`.
"""

import base64
import json
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from pulmo.core import signatures
from pulmo.errors import ConfigError, ForgedError

SECRET = "a-secret-that-both-sides-know"
TOKEN = "token-of-the-stand-in"
EVENTS, MODELS = 1000, 5
MUTATIONS = 10_000
STEPS = (40, 240)  # between two kills of a side
TIMEOUT_S, LEASE_S = 0.5, 1.5
HERE = frozenset({"127.0.0.1"})


def tell(capsys: pytest.CaptureFixture[str], text: str) -> None:
    with capsys.disabled():
        sys.stdout.write(f"\n{text}\n")


# 10,000 mutated signatures and bodies


def mutated(draw: random.Random, text: bytes) -> bytes:
    """Other bytes: one changed, added, dropped, swapped, cut off or turned over."""
    at = draw.randrange(len(text))
    kind = draw.randrange(6)
    if kind == 0:
        return text[:at] + bytes([text[at] ^ (1 << draw.randrange(8))]) + text[at + 1 :]
    if kind == 1:
        return text[:at] + bytes([draw.randrange(256)]) + text[at:]
    if kind == 2:
        return text[:at] + text[at + 1 :]
    if kind == 3:
        return text[:at]
    if kind == 4:
        return text[at:] + text[:at]
    return text.swapcase()


def test_no_mutated_message_is_accepted(capsys: pytest.CaptureFixture[str]) -> None:
    draw, now = random.Random(0), 1_800_000_000
    body = b'{"id":"event-1","name":"toy","alias":"staging","after":1}'
    schemes: list[tuple[dict[str, str], Callable[[dict[str, str], bytes], object]]] = [
        (
            signatures.sign(SECRET, "event-1", now, body),
            lambda headers, body: signatures.verify([SECRET, "other"], headers, body, now),
        ),
        (
            signatures.sign_github(SECRET, body),
            lambda headers, body: signatures.verify_github([SECRET, "other"], headers, body),
        ),
        (
            signatures.sign_wandb(SECRET, body, TOKEN),
            lambda headers, body: signatures.verify_wandb([SECRET], headers, body, [TOKEN]),
        ),
        (
            {
                "x-wandb-signature": base64.b64decode(
                    signatures.sign_wandb(SECRET, body)["x-wandb-signature"]
                ).hex()
            },
            lambda headers, body: signatures.verify_wandb([SECRET], headers, body),
        ),
    ]
    tried, accepted = Counter[str](), []
    for headers, check in schemes:
        check(headers, body)
    while tried.total() < MUTATIONS:
        headers, check = draw.choice(schemes)
        name = draw.choice(["body", *headers])
        other, other_body = dict(headers), body
        if name == "body":
            other_body = mutated(draw, body)
        else:
            other[name] = mutated(draw, headers[name].encode()).decode("latin-1")
        # The scheme of a bearer token has no case (RFC 9110, 11.1).
        same = (
            other.get("authorization", "").lower().startswith("bearer ")
            and other["authorization"][7:] == TOKEN
        )
        if other_body == body and (other == headers or (name == "authorization" and same)):
            continue
        tried[name] += 1
        try:
            check(other, other_body)
        except ForgedError:
            continue
        accepted.append((name, other, other_body))
    tell(capsys, f"{tried.total():,} mutations {dict(tried)}: {len(accepted)} accepted")
    assert accepted == []


# 40 addresses that lead astray

ASTRAY = [
    "http://hooks.example/", "http://127.0.0.1/", "https://127.0.0.1/", "https://localhost/",
    "https://localhost./", "https://LOCALHOST/", "https://127.1/", "https://2130706433/",
    "https://0x7f000001/", "https://0177.0.0.1/", "https://0/", "https://0.0.0.0/",
    "https://[::1]/", "https://[::]/", "https://[::ffff:127.0.0.1]/", "https://[::ffff:7f00:1]/",
    "https://[64:ff9b::7f00:1]/", "https://[2002:7f00:1::]/", "https://[fe80::1]/",
    "https://[fc00::1]/", "https://[fd00:ec2::254]/", "https://169.254.169.254/latest/meta-data",
    "https://metadata.example/", "https://10.0.0.1/", "https://172.16.0.1/", "https://192.168.0.1/",
    "https://100.64.0.1/", "https://224.0.0.1/", "https://255.255.255.255/", "https://both.example/",
    "https://user@hooks.example/", "https://hooks.example@127.0.0.1/", "https://127.0.0.1#@h.example/",
    "https://127.0.0.1\\@hooks.example/", "https://hooks.example:0/", "https://hooks.example\r\nx/",
    "https://①②⑦.⓪.⓪.①/", "https://127.0.0.1%2f.hooks.example/", "file:///etc/passwd",
    "gopher://127.0.0.1:6379/_x", "https://[::1%25lo]/", "//127.0.0.1/",
]  # fmt: skip
NAMES = {
    "metadata.example": ["169.254.169.254"],
    "both.example": ["93.184.215.14", "10.0.0.1"],
    "hooks.example": ["127.0.0.1"],
}
_watching: list[list[object]] = []


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.connect" and _watching:
        _watching[-1].append(arguments[1])


def test_no_connection_is_made_to_an_address_that_leads_astray(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pulmo.registry.outward import post

    plain = socket.getaddrinfo

    def resolve(host: str, port: int, *rest: Any, **options: Any) -> Any:
        if host in NAMES:
            return [(0, 0, 0, "", (one, port)) for one in NAMES[host]]
        return plain(host, port, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    sys.addaudithook(_watch)
    connected: list[object] = []
    _watching.append(connected)
    refused = 0
    for url in ASTRAY:
        # Where nothing resolves the name there is nothing to connect to.
        with suppress(OSError):
            try:
                post(url, b"{}", {}, timeout_s=2)
            except ConfigError:
                refused += 1
    _watching.pop()
    tell(capsys, f"{len(ASTRAY)} addresses: {refused} refused, {len(connected)} connections")
    assert len(ASTRAY) >= 40
    assert refused >= 40
    assert connected == []


# 1,000 events, with both sides killed at random


class GitHub(BaseHTTPRequestHandler):
    """A stand-in that holds GitHub's limits, and has bad days."""

    protocol_version = "HTTP/1.1"
    draw = random.Random(1)
    taken: ClassVar[list[dict[str, Any]]] = []
    wrong: ClassVar[list[str]] = []
    said: ClassVar[Counter[str]] = Counter()
    lock = threading.Lock()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with self.lock:
            day = self.draw.random()
        if day < 0.08:
            return self._say(503)
        if day < 0.13:
            return self._say(429, {"Retry-After": "0"})
        fault = self._fault(body)
        if fault:
            self.wrong.append(fault)
            return self._say(422)
        with self.lock:
            self.taken.append(json.loads(body)["client_payload"])
        if day < 0.15:  # it is taken, and the answer never comes
            self.said["time-out"] += 1
            time.sleep(2 * TIMEOUT_S)
            self.close_connection = True
            return None
        return self._say(204)

    def _fault(self, body: bytes) -> str | None:
        payload = json.loads(body)["client_payload"]
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            return "token"
        if self.headers["Accept"] != "application/vnd.github+json":
            return "accept"
        if self.headers["X-GitHub-Api-Version"] is None or self.path != "/repos/me/mine/dispatches":
            return "path"
        if len(payload) > 10 or len(json.dumps(payload)) > 65_535:
            return "limits"
        return None if len(json.loads(body)["event_type"]) <= 100 else "type"

    def _say(self, status: int, headers: dict[str, str] | None = None) -> None:
        self.said[str(status)] += 1
        with suppress(OSError):
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            if status != 204:
                self.send_header("Content-Length", "0")
            self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def ledger_url(folder: Path) -> str:
    return f"sqlite:///{folder}/registry.db"


def write_events(folder: Path) -> None:
    """Moves of `staging` between two versions, turn about, for several models."""
    from pulmo.registry.moves import Cause, move_alias
    from pulmo.store.database import open_database
    from pulmo.store.tables import ModelRow, VersionRow

    database, moment = open_database(ledger_url(folder)), datetime.now(UTC)
    names = [f"model-{n}" for n in range(MODELS)]
    with database.write() as session:
        session.add_all(ModelRow(name=name, next_number=2) for name in names)
        session.flush()
        for name in names:
            for number in (0, 1):
                digest = f"{names.index(name)}{number}" * 32
                row = VersionRow(name=name, number=number, model_digest=digest, metric="auroc")
                row.bundle_digest, row.created_at, row.created_by = digest, moment, "x"
                session.add(row)
    with database.write() as session:
        for turn in range(EVENTS):
            name, number = names[turn % MODELS], turn // MODELS % 2
            move_alias(session, "set", name, "staging", number, Cause("x", "a turn"))
    database.close()


def send(folder: Path, hook: str, github: str) -> None:
    """Deliver until nothing waits; little patience, so that a test need not have much."""
    from pulmo.registry.delivery import Sender
    from pulmo.registry.outbox import Outbox
    from pulmo.registry.targets import GitHub as ToGitHub
    from pulmo.registry.targets import Webhook
    from pulmo.store.database import open_database

    targets = [
        Webhook(hook, SECRET, HERE, TIMEOUT_S * 4),
        ToGitHub("me/mine", TOKEN, github, HERE, TIMEOUT_S),
    ]
    database = open_database(ledger_url(folder))
    outbox = Outbox(database, pause=lambda attempts: 0.05 * attempts, attempts=EVENTS)
    sender = Sender(outbox, targets, LEASE_S)
    sender.deliver()
    while sender.next_due() is not None:
        time.sleep(0.05)
        sender.deliver()


def receive(folder: Path, port: int) -> None:
    """A server that takes webhooks; its jobs lie in a database of their own."""
    from pulmo.config.hooks import HookSettings
    from pulmo.config.settings import Settings
    from pulmo.core.bundle import verify
    from pulmo.registry.queue import SqlJobs
    from pulmo.serving.app import create_app
    from pulmo.serving.limits import Limits
    from pulmo.serving.models import Pinned, Present
    from pulmo.serving.server import listen, make_server
    from pulmo.serving.webhooks import Receiver
    from pulmo.store.database import open_database

    queue = SqlJobs(open_database(f"sqlite:///{folder}/received.db"))
    receiver = Receiver(queue, HookSettings.model_validate({"secret": SECRET}))
    present, limits = Present(Pinned(verify(folder / "bundle"))), Limits(linger_s=0)
    app = create_app(Settings(keys_dir=folder / "keys"), present, limits, receiver=receiver)
    make_server(app, limits).run([listen("127.0.0.1", port)])


def count(path: Path, query: str) -> int:
    """What a query counts in a database that others write, 0 while it is not there."""
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        return int(db.execute(query).fetchone()[0])
    return 0


@contextmanager
def kept_alive(
    role: str, *arguments: object, over: threading.Event, done: Callable[[], int]
) -> Iterator[list[int]]:
    """Kill a side again and again somewhere in its work, until `over`; a nurse raises the next.

    `done` counts what it has done; the list says how far it was at each kill.
    """
    kills: list[int] = []
    draw = random.Random(role)
    command = [sys.executable, __file__, role, *map(str, arguments)]
    nurse = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def keep() -> None:
        assert nurse.stdout is not None
        for line in nurse.stdout:
            side = int(line)
            limit = done() + draw.randrange(*STEPS)
            while lives(side) and not over.is_set() and done() < limit:
                time.sleep(0.03)
            time.sleep(draw.uniform(0, 0.1))
            if over.is_set():
                nurse.kill()
            if lives(side):
                kills.extend([] if over.is_set() else [done()])
                with suppress(ProcessLookupError):
                    os.kill(side, signal.SIGKILL)
        over.set()  # the last one has done all there was

    thread = threading.Thread(target=keep)
    thread.start()
    try:
        yield kills
    finally:
        over.set()
        thread.join()
        nurse.communicate()  # closes its pipe, too


def lives(pid: int) -> bool:
    """Whether a process runs; its nurse may not have buried it yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def raise_again(live: Callable[[], None]) -> None:
    """Fork a side, say which process it is, and again whenever it is killed, until it ends."""
    status = -1
    while status != 0:
        side = os.fork()
        if side == 0:
            live()
            os._exit(0)
        sys.stdout.write(f"{side}\n")
        sys.stdout.flush()
        status = os.waitpid(side, 0)[1]


def test_a_thousand_events_survive_the_death_of_both_sides(
    tmp_path: Path, make_bundle: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    from pulmo.registry.outbox import Outbox
    from pulmo.registry.queue import SqlJobs
    from pulmo.store.database import open_database

    make_bundle(tmp_path / "bundle")
    write_events(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    stand_in = ThreadingHTTPServer(("127.0.0.1", 0), GitHub)
    threading.Thread(target=stand_in.serve_forever, args=(0.05,), daemon=True).start()
    github = f"http://127.0.0.1:{stand_in.server_address[1]}"
    hook = f"http://127.0.0.1:{port}/webhooks/pulmo"
    over = threading.Event()
    begun = time.monotonic()

    def received() -> int:
        return count(tmp_path / "received.db", "SELECT count(*) FROM jobs")

    def delivered() -> int:
        query = "SELECT count(*) FROM deliveries WHERE state = 'delivered'"
        return count(tmp_path / "registry.db", query)

    with (
        kept_alive("receive", tmp_path, port, over=over, done=received) as receivers,
        kept_alive("send", tmp_path, hook, github, over=over, done=delivered) as senders,
    ):
        finished = over.wait(timeout=900)
    stand_in.shutdown()
    stand_in.server_close()
    database = open_database(ledger_url(tmp_path))
    deliveries = Outbox(database).deliveries(everything=True)
    jobs = SqlJobs(open_database(f"sqlite:///{tmp_path}/received.db")).jobs()
    told = [payload["id"] for payload in GitHub.taken]
    repeated = len(told) - len(set(told))
    tell(
        capsys,
        f"{EVENTS} events in {time.monotonic() - begun:.0f} s; killed: sender "
        f"after {senders} deliveries, receiver after {receivers} jobs; the stand-in said "
        f"{dict(GitHub.said)}, got {repeated} ids twice; {len(jobs)} jobs at the receiver, "
        f"deliveries {dict(Counter(d.state for d in deliveries))}",
    )
    assert finished
    assert (len(senders) >= 3, len(receivers) >= 3) == (True, True)
    assert Counter(d.state for d in deliveries) == {"delivered": 2 * EVENTS}
    sent = [d.event for d in deliveries if d.target == hook]
    assert len(set(sent)) == EVENTS

    # None lost, each effect once: one job for every event, and GitHub knows every id.
    assert Counter(job.key for job in jobs) == {f"event:{event}": 1 for event in sent}
    assert set(told) == set(sent)
    assert GitHub.wrong == []

    # In order for each model, both where they are told once and where some are told twice.
    order = {event: at for at, event in enumerate(sent)}
    for n in range(MODELS):
        name = f"model-{n}"
        received = [order[job.key.partition(":")[2]] for job in jobs if job.name == name]
        assert received == sorted(received)
        first = dict.fromkeys(p["id"] for p in GitHub.taken if p["name"] == name)
        dispatched = [order[event] for event in first]
        assert dispatched == sorted(dispatched)


def main() -> None:
    role, folder, *rest = sys.argv[1:]
    # What takes long is imported before the first fork.
    if role == "send":
        import pulmo.registry.delivery

        raise_again(lambda: send(Path(folder), *rest))
    else:
        import pulmo.serving.app  # noqa: F401

        raise_again(lambda: receive(Path(folder), int(rest[0])))


if __name__ == "__main__":
    os.environ.pop("PULMO_HOOKS_TARGETS", None)
    main()
