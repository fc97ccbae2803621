"""A load test without a screen, against a server that is there or one that is started for it."""

import argparse
import os
import subprocess
import sys
import threading
import tomllib
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent
LISTENING = "listening on "


def main() -> int:
    """Run locust and return its exit code: 3 beyond the limits, 1 where it could not run."""
    given = _arguments()
    with given.limits.open("rb") as stream:
        load = tomllib.load(stream)["load"]
    users, seconds = given.users or load["users"], given.seconds or load["seconds"]
    given.report.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "PULMO_LOAD_LIMITS": str(given.limits)}
    if given.pictures:
        environment["PULMO_LOAD_PICTURES"] = str(given.pictures)
    with _server(given.url, given.model) as url:
        locust = [sys.executable, "-m", "locust", "-f", str(HERE / "locustfile.py"), "-H", url]
        options = ["--headless", "--only-summary", "--html", str(given.report)]
        much = ["-u", str(users), "-r", str(users), "-t", f"{seconds}s"]
        return subprocess.run([*locust, *options, *much], env=environment, check=False).returncode


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="a server that runs; else one is started")
    parser.add_argument("--model", help="what the started server serves, as `pulmo serve`")
    parser.add_argument("--pictures", type=Path, help="a folder; else phantoms are drawn")
    parser.add_argument("--users", type=int)
    parser.add_argument("--seconds", type=int)
    parser.add_argument("--limits", type=Path, default=HERE / "limits.toml")
    parser.add_argument("--report", type=Path, default=Path("runs/load-test.html"))
    return parser.parse_args()


@contextmanager
def _server(url: str | None, model: str | None) -> Iterator[str]:
    """The address of a server: the given one, or one that lives as long as the block."""
    if url:
        yield url
        return
    command = [sys.executable, str(HERE.parent / "main.py"), "serve", "--port", "0"]
    process = subprocess.Popen(
        command + (["--model", model] if model else []),
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PULMO_RATE_LIMIT": "off", "PULMO_LOG_FORMAT": "text"},
    )
    assert process.stderr is not None
    # A pipe that nobody reads any more would stop the server once it is full.
    rest = threading.Thread(target=deque, args=(process.stderr, 0), daemon=True)
    try:
        told = []
        for line in process.stderr:
            told.append(line)
            if line.startswith(LISTENING):
                break
        else:
            sys.exit("".join(told))
        rest.start()
        yield line.removeprefix(LISTENING).strip()
    finally:
        process.terminate()
        process.wait()
        if rest.is_alive():
            rest.join()
        process.stderr.close()


if __name__ == "__main__":
    sys.exit(main())
