"""`gc` and `backup` beside processes that register, promote and delete: nothing needed is lost.

Run as a script this file is one of those processes: `FOLDER ROLE SEAT`.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from pulmo.core.bundle import verify
from pulmo.core.ports import PRODUCTION, Check, ModelRef, Verdict, Version
from pulmo.errors import NotFoundError, PulmoError, RefusedError
from pulmo.registry.local import LocalRegistry, open_registry
from pulmo.registry.upkeep import check_archive, open_upkeep

WRITERS = 3
ROUNDS = 40
BUNDLES = 6  # few, so that one is deleted, collected and registered anew again and again
NAME = "toy"
BY = {"actor": "ada", "reason": "because"}
REFUSALS = (  # what another process's promotion or deletion leaves to say
    "is in production already",
    "has not been tested",
    "tested beside another champion",
    "there is no",
    "no version of",
)


def places(folder: Path) -> tuple[str, str]:
    return f"sqlite:///{folder}/registry.db", str(folder / "bundles")


def promote(registry: LocalRegistry, version: Version) -> None:
    """Judge and promote; another process may promote between the two."""
    present = [one for one in registry.versions(NAME) if PRODUCTION in one.aliases]
    verdict = Verdict(
        name=NAME,
        model_digest=version.model_digest,
        suite_digest="suite",
        champion_digest=present[0].model_digest if present else None,
        passed=True,
        checks=[Check("test_it", True, "fine")],
        data_digest="0" * 64,
    )
    try:
        registry.record_verdict(verdict)
        registry.promote(NAME, version.number, suite_digest="suite", **BY)
    except PulmoError as error:
        if not any(word in str(error) for word in REFUSALS):
            raise


def write(folder: Path, seat: int) -> None:
    """Register, read, sometimes promote, and delete whatever is not in production."""
    registry = open_registry(*places(folder))
    for turn in range(ROUNDS):
        version = registry.register(folder / "made" / str((turn + seat) % BUNDLES), actor="ada")
        try:
            assert verify(registry.fetch(ModelRef(NAME, version=version.number)))
        except NotFoundError:  # another process deleted it, and a third collected its files
            assert version.number not in [one.number for one in registry.versions(NAME)]
        if turn % 5 == seat:
            promote(registry, version)
        for other in registry.versions(NAME):
            if (other.number + turn) % 2:
                try:
                    registry.delete(NAME, other.number, **BY)
                except NotFoundError:
                    pass  # another process was first
                except RefusedError as error:
                    if "move the alias" not in str(error):
                        raise


def collect(folder: Path) -> None:
    keeper, gone = open_upkeep(*places(folder)), 0
    while not (folder / "end").exists():
        gone += len(keeper.collect())
    sys.stdout.write(f"{gone}")


def back_up(folder: Path) -> None:
    keeper, made = open_upkeep(*places(folder), read_only=True), 0
    while not (folder / "end").exists():
        check_archive(keeper.backup(folder / "backup.tar").path)
        made += 1
    sys.stdout.write(f"{made}")


def start(folder: Path, role: str, seat: int = 0) -> "subprocess.Popen[bytes]":
    command = [sys.executable, __file__, str(folder), role, str(seat)]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


def test_nothing_that_is_needed_is_collected(
    tmp_path: Path, make_bundle: Callable[..., object], tell: Callable[[str], None]
) -> None:
    for number in range(BUNDLES):
        make_bundle(tmp_path / "made" / str(number), name=NAME, weights=bytes([number]))
    registry = open_registry(*places(tmp_path))
    promote(registry, registry.register(tmp_path / "made" / "0", actor="ada"))
    began = time.monotonic()
    writers = [start(tmp_path, "write", seat) for seat in range(WRITERS)]
    keepers = [start(tmp_path, "collect"), start(tmp_path, "back_up")]
    for writer in writers:
        writer.communicate(timeout=600)
    assert [writer.returncode for writer in writers] == [0] * WRITERS
    (tmp_path / "end").touch()
    gone, made = (int(keeper.communicate(timeout=600)[0]) for keeper in keepers)
    assert [keeper.returncode for keeper in keepers] == [0, 0]
    keeper = open_upkeep(*places(tmp_path))
    keeper.collect()
    assert keeper.verify() == []
    assert len([v for v in registry.versions(NAME) if PRODUCTION in v.aliases]) == 1
    assert gone > 0, "nothing was collected meanwhile: nothing was shown"
    assert made > 0
    tell(
        f"{WRITERS} processes registered {WRITERS * ROUNDS} times and promoted "
        f"{sum(m.alias == PRODUCTION for m in registry.history(NAME))} times; meanwhile {gone} "
        f"pieces were collected and {made} backups written and checked, in "
        f"{time.monotonic() - began:.0f} s"
    )


if __name__ == "__main__":
    if sys.argv[2] == "write":
        write(Path(sys.argv[1]), int(sys.argv[3]))
    else:
        {"collect": collect, "back_up": back_up}[sys.argv[2]](Path(sys.argv[1]))
