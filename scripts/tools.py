"""Other programs, called with lists of words: shown before they run, only shown in a dry run."""

import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from typing import NoReturn

FAILED, USAGE, REFUSED = 1, 2, 3  # the exit codes of the command line
_WHERE = {
    "gcloud": "https://cloud.google.com/sdk/docs/install",
    "bash": "on Windows it comes with Git",
    "podman": "https://podman.io, or install docker",
}


def end(code: int, reason: str) -> NoReturn:
    """End the task with one sentence."""
    sys.stderr.write(f"{reason}\n")
    sys.exit(code)


@dataclass(frozen=True)
class Tools:
    """Runs commands, or in a dry run prints them as they would be run."""

    dry_run: bool = False

    def run(self, *command: str, **environment: str) -> None:
        """Run a command; end the task where it fails."""
        self._shown(command)
        if not self.dry_run:
            self._done(command, environment, read=False)

    def read(self, *command: str, unread: str) -> str:
        """What a command prints, `unread` in a dry run; it is not shown."""
        self._shown(command)
        return unread if self.dry_run else self._done(command, {}, read=True).strip()

    @staticmethod
    def program(name: str) -> str:
        """Where a program is; ends the task where it is missing."""
        found = shutil.which(name)
        return found or end(FAILED, f"{name} is not installed: {_WHERE[name]}")

    def _shown(self, command: tuple[str, ...]) -> None:
        if self.dry_run:
            print(shlex.join(command))
        else:
            sys.stderr.write(f"{shlex.join(command)}\n")

    @staticmethod
    def _done(command: tuple[str, ...], environment: dict[str, str], *, read: bool) -> str:
        done = subprocess.run(
            [Tools.program(command[0]), *command[1:]],
            stdout=subprocess.PIPE if read else None,
            env={**os.environ, **environment},
            text=True,
            check=False,
        )
        if done.returncode:
            end(FAILED, f"`{shlex.join(command[:3])} …` ended with {done.returncode}; see above")
        return done.stdout or ""


def require_login(tools: Tools) -> None:
    """End the task unless somebody is logged in to Google Cloud."""
    asked = ("gcloud", "auth", "list", "--filter=status:ACTIVE", "--format=value(account)")
    if not tools.read(*asked, unread="somebody"):
        end(FAILED, "nobody is logged in to Google Cloud: run gcloud auth login")


def container_engine() -> str:
    """The program that builds and pushes images: podman, or docker where there is no podman."""
    return next((name for name in ("podman", "docker") if shutil.which(name)), "podman")
