"""What is measured side by side: servers and loops as processes, each pinned and held still."""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SERVER_CORE, CLIENT_CORE = 0, 1
CLIENTS = 8
LEAD_S = 0.3  # before anything counts
TURNS = 5  # of which a window is made: what changes the machine's speed meets all arms alike
START_S = 180.0
ROOT = Path(__file__).resolve().parents[1]
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


@dataclass(frozen=True)
class Window:
    """Some seconds of one arm: what it did in them, and the CPU time that its processes took."""

    done: int
    wall_s: float
    cpu_s: float
    client: float = 0.0  # share of its core that the client used
    statuses: Mapping[str, int] | None = None
    seconds: Sequence[float] = ()

    @property
    def rate(self) -> float:
        """Done a second."""
        return self.done / self.wall_s


class Process:
    """A process group pinned to one core, that can be held still while another one is measured."""

    def __init__(
        self, command: Sequence[object], core: int, environment: Mapping[str, str] | None = None
    ) -> None:
        self._process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
            env={**os.environ, **ONE_THREAD, **(environment or {})},
            start_new_session=True,
            preexec_fn=_pin(core),  # noqa: PLW1509 - this process has one thread
        )

    def ask(self, order: Mapping[str, Any]) -> Any:
        """One line in, one line out, as JSON."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    @property
    def running(self) -> bool:
        """Whether it has not ended by itself."""
        return self._process.poll() is None

    @property
    def cpu_s(self) -> float:
        """CPU time of all its processes, seconds (proc(5): fields 6, 14 and 15)."""
        ticks = 0
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                fields = path.read_text("utf-8").rpartition(")")[2].split()
                if int(fields[3]) == self._process.pid:
                    ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def hold(self) -> None:
        """Let none of its processes run."""
        os.killpg(self._process.pid, signal.SIGSTOP)

    def let_go(self) -> None:
        """Let them run again."""
        os.killpg(self._process.pid, signal.SIGCONT)

    def end(self) -> None:
        """Kill them."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def _pin(core: int) -> Callable[[], None]:
    def pin() -> None:
        os.sched_setaffinity(0, {core})

    return pin


class Client:
    """The load, in a process on the other core."""

    def __init__(self) -> None:
        self._process = Process(
            [sys.executable, "-m", "benchmarks.client", CLIENT_CORE], CLIENT_CORE
        )

    def ask(self, order: Mapping[str, Any]) -> Any:
        """What `benchmarks.client` says to an order."""
        return self._process.ask(order)

    def end(self) -> None:
        """Stop it."""
        self._process.end()


class Server:
    """A server as an arm, asked by `transport` for `pictures`."""

    def __init__(
        self,
        client: Client,
        command: Sequence[object],
        pictures: Sequence[Path],
        transport: str,
        process: Process | None = None,
        port: int = 0,
    ) -> None:
        self._client, self.transport = client, transport
        self._pictures = [str(path) for path in pictures]
        self.port = port or _free_port()
        words = [str(word).replace("PORT", str(self.port)) for word in command]
        self.process = process or Process(words, SERVER_CORE)
        if process is None:
            _wait_for(self.process, self.port)

    def by(self, transport: str) -> "Server":
        """The same server asked in another way."""
        paths = [Path(path) for path in self._pictures]
        return Server(self._client, (), paths, transport, self.process, self.port)

    def answers(self, pictures: Sequence[Path]) -> list[Any]:
        """Its answers as they are."""
        return list(self._order("ask", pictures=[str(path) for path in pictures]))

    def window(self, seconds: float) -> Window:
        """Load by clients that ask again as soon as they are answered."""
        return self._loaded("closed", seconds, clients=CLIENTS, lead=LEAD_S)

    def at_rate(self, seconds: float, rate: float, seed: int) -> Window:
        """Load by requests at random times."""
        return self._loaded("open", seconds, rate=rate, seed=seed)

    def _order(self, do: str, **more: Any) -> Any:
        order = {"do": do, "port": self.port, "pictures": self._pictures}
        return self._client.ask({**order, "transport": self.transport, **more})

    def _loaded(self, do: str, seconds: float, **more: Any) -> Window:
        before = self.process.cpu_s
        told = self._order(do, seconds=seconds, **more)
        used = self.process.cpu_s - before
        done, wall = told["statuses"].get("200", 0), told["wall_s"]
        share = max(done, 1) / max(done + told["outside"], 1)
        client = told["cpu_s"] * share / wall
        return Window(done, wall, used * share, client, told["statuses"], told["seconds"])


class Loop:
    """Work in a process without a server: `benchmarks.loops` says what there is."""

    def __init__(self, work: str, bundle: Path, pictures: Sequence[Path]) -> None:
        words = [sys.executable, "-m", "benchmarks.loops", work, bundle, *pictures]
        self.process = Process(words, SERVER_CORE)

    def answers(self) -> Any:
        """What it says of each picture."""
        return self.process.ask({"do": "answers"})

    def window(self, seconds: float) -> Window:
        """So much work as can be done."""
        self.process.ask({"do": "window", "seconds": LEAD_S})
        return Window(**self.process.ask({"do": "window", "seconds": seconds}))


Arm = Server | Loop


def rounds(
    arms: Mapping[str, Arm], count: int, seconds: float, seed: int = 0, turns: int = TURNS
) -> Iterator[dict[str, Window]]:
    """`count` times every arm for some seconds, in turns of random order, the others held still."""
    draw, processes = random.Random(seed), {id(arm.process): arm.process for arm in arms.values()}
    for process in processes.values():
        process.hold()
    for number in range(count):
        seen: dict[str, list[Window]] = {name: [] for name in arms}
        for _ in range(turns):
            for name in draw.sample(sorted(arms), len(arms)):
                arm = arms[name]
                arm.process.let_go()
                seen[name].append(arm.window(seconds / turns))
                arm.process.hold()
        told = {name: together(windows) for name, windows in seen.items()}
        rates = ", ".join(f"{name} {one.rate:.1f}/s" for name, one in told.items())
        print(f"  round {number + 1}: {rates}", file=sys.stderr)
        yield told
    for process in processes.values():
        process.let_go()


def together(windows: Sequence[Window]) -> Window:
    """What several windows of one arm saw."""
    wall = sum(one.wall_s for one in windows)
    statuses: Counter[str] = Counter()
    for one in windows:
        statuses.update(one.statuses or {})
    return Window(
        done=sum(one.done for one in windows),
        wall_s=wall,
        cpu_s=sum(one.cpu_s for one in windows),
        client=sum(one.client * one.wall_s for one in windows) / wall,
        statuses=statuses,
        seconds=[second for one in windows for second in one.seconds],
    )


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def _wait_for(process: Process, port: int) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.running:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)) as asked:
            asked.settimeout(5)
            asked.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            if asked.recv(16).startswith(b"HTTP/1.1"):
                return
        time.sleep(0.2)
    raise SystemExit("a server did not start: run its command by hand to see why")
