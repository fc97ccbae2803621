import subprocess
import sys
from pathlib import Path

import pytest

from pulmo.serving import reloading

PROGRAM = "import sys, time; open(sys.argv[1], 'a').write('begun\\n'); time.sleep(60)"


class EnoughError(Exception):
    """The test has seen what it wanted."""


def test_a_change_begins_the_server_anew_and_the_end_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, told = tmp_path / "code", tmp_path / "told"
    code.mkdir()
    children: list[subprocess.Popen[bytes]] = []
    begin = subprocess.Popen

    def remembered(command: list[str]) -> "subprocess.Popen[bytes]":
        children.append(begin(command))
        return children[-1]

    def sleep(_: float) -> None:
        lines = told.read_text().count("\n") if told.exists() else 0
        if lines == 1 and not (code / "a.py").exists():
            (code / "a.py").write_text("changed")
        if lines == 2:
            raise EnoughError

    monkeypatch.setattr(reloading.subprocess, "Popen", remembered)
    with pytest.raises(EnoughError):
        reloading.supervise([sys.executable, "-c", PROGRAM, str(told)], [code], sleep)
    assert [child.poll() is not None for child in children] == [True, True]


def test_caches_do_not_count_and_vanished_files_do(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x")
    before = reloading.stamp_of([tmp_path])
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__/a.pyc").write_text("y")
    assert reloading.stamp_of([tmp_path]) == before
    (tmp_path / "a.py").unlink()
    assert reloading.stamp_of([tmp_path]) != before
