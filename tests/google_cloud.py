"""Google Cloud on this machine: a `gcloud` that records every call and does what it is told here.

A VM is a folder with a home of its own, over which commands run; a revision of Cloud Run answers at
an address that the test gives. `python google_cloud.py gcloud WORDS…` is the program itself.
"""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PLACE = "GOOGLE_CLOUD_HERE"  # the folder that plays Google Cloud, for the program and on the VM
ACCOUNT = "deployer@some-project.iam.gserviceaccount.com"
SERVICE_URL = "https://pulmo-abc.a.run.app"
UNREACHABLE = 255  # what ssh ends with
CRONTAB = """#!/bin/sh
case "$1" in
-l) cat "$HOME/.crontab" ;;
-) cat >"$HOME/.crontab" ;;
esac
"""


class GoogleCloud:
    """What a test sees of it."""

    def __init__(self, folder: Path, **remote: str) -> None:
        """`remote` are variables of the VM's environment."""
        self.folder, self.home = folder, folder / "home"
        self.home.mkdir(parents=True)
        for name in ("instances", "secrets", "bin", "bin-vm"):
            (folder / name).mkdir()
        for name in ("gcloud", "podman"):
            program = f'#!/bin/sh\nexec "{sys.executable}" "{__file__}" {name} "$@"\n'
            self.program(f"bin/{name}", program)
        self.program("bin-vm/crontab", CRONTAB)
        self.login(ACCOUNT)
        path = f"{folder}/bin-vm:{folder}/bin:{os.environ['PATH']}"
        told = {"HOME": str(self.home), "PATH": path, PLACE: str(folder), "LANG": "C.UTF-8"}
        _write(folder / "remote.json", {**told, **remote})

    def program(self, name: str, text: str) -> None:
        """Put a program below `bin`, which is found on both sides, or `bin-vm`."""
        path = self.folder / name
        path.write_text(text, "utf-8")
        path.chmod(0o755)

    def environment(self, **more: str) -> dict[str, str]:
        """That of a program which finds this Google Cloud, and nothing of ours else."""
        foreign = ("PULMO_", "COVERAGE_", "GOOGLE_", "WANDB_", "CLOUDSDK_", "VIRTUAL_ENV")
        clean = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
        path = f"{self.folder}/bin:{os.environ['PATH']}"
        return {**clean, "PATH": path, PLACE: str(self.folder), **more}

    def login(self, account: str) -> None:
        """Who is logged in; nobody where it is empty."""
        (self.folder / "account").write_text(account, "utf-8")

    def secret(self, name: str, value: str) -> None:
        """Keep a secret in Secret Manager."""
        (self.folder / "secrets" / name).write_text(value, "utf-8")

    def answers(self, digest: str, url: str) -> None:
        """Where revisions with the image of this model are to be found."""
        _write(
            self.folder / "addresses.json", {**_read(self.folder / "addresses.json"), digest: url}
        )

    @property
    def calls(self) -> list[list[str]]:
        """Every call so far, as words."""
        path = self.folder / "calls.jsonl"
        lines = path.read_text("utf-8").splitlines() if path.exists() else []
        return [json.loads(line) for line in lines]

    @property
    def in_traffic(self) -> str | None:
        """The revision that has the traffic."""
        return _read(self.folder / "service.json").get("traffic")

    def pre_empt(self) -> int:
        """Take the VM away: whatever runs there is killed at once. How many processes that were.

        Only when the last one has let go of its files is the machine off.
        """
        killed: set[int] = set()
        while (found := self.processes()) or any(map(_alive, killed)):
            for process in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            killed |= found
            time.sleep(0.01)
        for instance in (self.folder / "instances").iterdir():
            instance.write_text("TERMINATED", "utf-8")
        return len(killed)

    def power_on(self) -> None:
        """Start whatever is off, as somebody may in Google's console."""
        for instance in (self.folder / "instances").iterdir():
            instance.write_text("RUNNING", "utf-8")

    def processes(self) -> set[int]:
        """What runs on the VM."""
        found = set()
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                variables = path.read_bytes().split(b"\0")
                own = (f"{PLACE}={self.folder}", f"HOME={self.home}")
                if all(one.encode() in variables for one in own):
                    found.add(int(path.parent.name))
        return found

    def cron(self) -> None:
        """Do on the VM what its cron does when the time has come."""
        for line in (self.home / ".crontab").read_text("utf-8").splitlines():
            if line:
                _on_vm(self.folder, line.split(maxsplit=5)[5], None)


def _alive(process: int) -> bool:
    """Whether a process still holds anything: a killed one loses its memory before its files."""
    try:
        text = Path(f"/proc/{process}/stat").read_text("utf-8")
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] not in "ZX"


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text("utf-8")) if path.exists() else {}


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value), "utf-8")


def _say(text: str) -> int:
    sys.stdout.write(f"{text}\n")
    return 0


def _refuse(text: str, code: int = 1) -> int:
    sys.stderr.write(f"ERROR: {text}\n")
    return code


def _on_vm(folder: Path, command: str, stdin: int | None) -> int:
    remote = _read(folder / "remote.json")
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=remote["HOME"],
        env=remote,
        stdin=subprocess.DEVNULL if stdin is None else stdin,
        check=False,
    )
    return done.returncode


def _instances(folder: Path, words: list[str], options: dict[str, str]) -> int:
    verb, name = words[0], (words[1] if len(words) > 1 else "")
    if verb == "list":
        instance = folder / "instances" / options["filter"].removeprefix("name=")
        if instance.exists():
            _say(instance.read_text("utf-8"))
    else:
        (folder / "instances" / name).write_text("RUNNING", "utf-8")
    return 0


def _ssh(folder: Path, words: list[str], options: dict[str, str]) -> int:
    instance = folder / "instances" / words[0]
    if not instance.exists() or instance.read_text("utf-8") != "RUNNING":
        return UNREACHABLE
    return _on_vm(folder, options["command"], sys.stdin.fileno())


def _secret(folder: Path, _: list[str], options: dict[str, str]) -> int:
    sys.stdout.write((folder / "secrets" / options["secret"]).read_text("utf-8"))
    return 0


def _services(folder: Path, _: list[str], options: dict[str, str]) -> int:
    service = _read(folder / "service.json")
    if not service:
        return _say("[]")
    addresses = _read(folder / "addresses.json")
    targets = [{"revisionName": service["traffic"], "percent": 100}]
    for tag, revision in service["tags"].items():
        digest = service["revisions"][revision].rpartition(":")[2]
        url = addresses.get(digest, "https://nowhere.invalid")
        targets.append({"revisionName": revision, "tag": tag, "url": url})
    return _say(json.dumps([{"status": {"url": SERVICE_URL, "traffic": targets}}]))


def _deploy(folder: Path, words: list[str], options: dict[str, str]) -> int:
    path = folder / "service.json"
    service = _read(path)
    if "no-traffic" in options and not service:
        return _refuse("--no-traffic not supported when creating a new service.")
    service = service or {"revisions": {}, "tags": {}, "traffic": None}
    revision = f"{words[0]}-{len(service['revisions']) + 1:05}"
    service["revisions"][revision] = options["image"]
    service["tags"][options["tag"]] = revision
    if "no-traffic" not in options:
        service["traffic"] = revision
    _write(path, service)
    return 0


def _update_traffic(folder: Path, _: list[str], options: dict[str, str]) -> int:
    path = folder / "service.json"
    service = _read(path)
    if "update-tags" in options:
        service["tags"].update([options["update-tags"].split("=")])
    service["traffic"] = service["tags"][options["to-tags"].removesuffix("=100")]
    _write(path, service)
    return 0


def _account(folder: Path, _: list[str], options: dict[str, str]) -> int:
    return _say((folder / "account").read_text("utf-8"))


def _token(folder: Path, _: list[str], options: dict[str, str]) -> int:
    return _say(f"token-for-{options['audiences']}")


def _nothing(folder: Path, _: list[str], options: dict[str, str]) -> int:
    return 0


DOES = {
    "auth list": _account,
    "auth configure-docker": _nothing,
    "auth print-identity-token": _token,
    "push": _nothing,
    "tag": _nothing,
    "compute instances": _instances,
    "compute ssh": _ssh,
    "run deploy": _deploy,
    "run services list": _services,
    "run services update-traffic": _update_traffic,
    "secrets versions access": _secret,
}


def main() -> int:
    """Do what one call asks for."""
    folder, call = Path(os.environ[PLACE]), sys.argv[1:]
    with (folder / "calls.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(call) + "\n")
    words = [word for word in call if not word.startswith("--")]
    options = dict(
        word.removeprefix("--").partition("=")[::2] for word in call if word.startswith("--")
    )
    for named, do in DOES.items():
        asked = named.split()
        if words[1 : len(asked) + 1] == asked:
            return do(folder, words[len(asked) + 1 :], options)
    return _refuse(f"unknown: {shlex.join(call)}", 2)


if __name__ == "__main__":
    sys.exit(main())
