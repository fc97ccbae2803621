"""Readers ask for production while it moves a thousand times: never empty, torn or untested.

Run as a script this file is one of the readers: `DATABASE FILES READS OUTPUT`.
"""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from pulmo.core.bundle import FILES, SUMS, Bundle, verify
from pulmo.core.ports import Check, ModelRef, Verdict, Version
from pulmo.registry.local import LocalRegistry, open_registry

MODELS = 5
READERS = 5
SIZES = {"sqlite": (1000, 2000), "postgres": (200, 400)}  # promotions, reads of each reader
PRODUCTION = ModelRef("toy", alias="production")
GOOD = (Check("floor", True, "0.9 ≥ 0.8"),)


def read(database: str, files: str, reads: int, output: Path) -> None:
    """What was in production, `reads` times: its number, its digests and those of its bytes."""
    registry, seen = open_registry(database, files, read_only=True), []
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for _ in range(reads):
        version = registry.get(PRODUCTION)
        exact = ModelRef(version.name, version=version.number)
        folder = registry.fetch(exact)  # every byte is checked here
        told = [version.number, version.model_digest, verify(folder).info.model_digest]
        seen.append([*told, content(folder)])
    registry.close()
    output.write_text(json.dumps(seen))


def content(folder: Path) -> str:
    return hashlib.sha256(b"".join((folder / n).read_bytes() for n in (*FILES, SUMS))).hexdigest()


def promote(registry: LocalRegistry, version: Version, champion: Version | None) -> None:
    registry.record_verdict(
        Verdict(
            name="toy",
            model_digest=version.model_digest,
            suite_digest="suite",
            champion_digest=None if champion is None else champion.model_digest,
            passed=True,
            checks=GOOD,
            data_digest="0" * 64,
        )
    )
    registry.promote("toy", version.number, suite_digest="suite", actor="ada", reason="turn")


@pytest.mark.parametrize("kind", SIZES)
def test_a_reader_always_sees_one_whole_tested_model(
    kind: str,
    tmp_path: Path,
    make_bundle: Callable[..., Bundle],
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    promotions, reads = SIZES[kind]
    database, files = f"sqlite:///{tmp_path}/registry.db", str(tmp_path / "bundles")
    if kind == "postgres":
        database = request.getfixturevalue("postgres").registry()
    registry = open_registry(database, files)
    # Tested and untested models take turns in being registered: every other one never passes.
    versions, contents = [], {}
    for number in range(2 * MODELS):
        made = make_bundle(tmp_path / f"made-{number}", weights=b"%d" % number)
        versions.append(registry.register(made.path, actor="ada"))
        contents[number] = content(made.path)
    tested = versions[::2]
    champion = tested[0]
    promote(registry, champion, None)

    outputs = [tmp_path / f"seen-{seat}" for seat in range(READERS)]
    command = [sys.executable, __file__, database, files, str(reads)]
    readers = [
        subprocess.Popen([*command, str(output)], stdout=subprocess.PIPE) for output in outputs
    ]
    for reader in readers:
        assert reader.stdout.readline() == b"ready\n"
    done = 0
    while done < promotions or any(reader.poll() is None for reader in readers):
        done += 1
        follower = tested[done % MODELS]
        promote(registry, follower, champion)
        champion = follower
    for reader in readers:
        reader.communicate()
    assert [reader.returncode for reader in readers] == [0] * READERS
    told = [json.loads(output.read_text()) for output in outputs]
    seen = [one for reader in told for one in reader]

    digests = {version.number: version.model_digest for version in tested}
    assert len(seen) == READERS * reads
    for number, recorded, held, bytes_held in seen:
        assert number in digests, "an untested model was in production"
        assert recorded == held == digests[number]
        assert bytes_held == contents[number]
    numbers = {number for number, *_ in seen}
    assert len(numbers) > 1, "the readers never met a promotion: nothing was shown"
    changes = sum(a[0] != b[0] for one in told for a, b in pairwise(one))
    moves = [m for m in registry.history("toy") if m.alias == "production"]
    assert len(moves) == done + 1 > promotions
    registry.close()
    with capsys.disabled():
        sys.stdout.write(
            f"\n{kind}: {len(seen):,} reads during {done:,} promotions; {len(numbers)} models and "
            f"{changes:,} changes seen; none empty, torn or untested"
        )


if __name__ == "__main__":
    read(sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
