"""Checkpoints: whole, verified, and never more than needed."""

import signal
from pathlib import Path

import pytest
import torch

from pulmo.errors import ModelError
from pulmo.models.checkpoint import AtomicCheckpointIO, Keeper, newest

IO = AtomicCheckpointIO()


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "000000001.ckpt"
    IO.save_checkpoint({"weights": torch.arange(5.0), "step": 1}, path)
    found = IO.load_checkpoint(path)
    assert torch.equal(found["weights"], torch.arange(5.0))
    assert found["step"] == 1
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    IO.remove_checkpoint(path)
    IO.remove_checkpoint(path)
    assert newest(path.parent) is None


@pytest.mark.parametrize("position", [0, 65, 500, -1])
def test_one_changed_byte_is_found_and_the_one_before_is_taken(
    tmp_path: Path, position: int, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = tmp_path / "000000001.ckpt", tmp_path / "000000002.ckpt"
    for path in (first, second):
        IO.save_checkpoint({"weights": torch.zeros(9)}, path)
    assert newest(tmp_path) == second
    changed = bytearray(second.read_bytes())
    changed[position] ^= 1
    second.write_bytes(changed)
    with pytest.raises(ModelError, match="damaged: its bytes do not match"):
        IO.load_checkpoint(second)
    assert newest(tmp_path) == first
    second.write_bytes(second.read_bytes()[:40])
    assert newest(tmp_path) == first


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "harm",))

    path = tmp_path / "000000001.ckpt"
    IO.save_checkpoint({"weights": Harmful()}, path)
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        IO.load_checkpoint(path)
    assert not (tmp_path / "harm").exists()


def test_a_disk_that_refuses_is_told_and_leaves_nothing_half(tmp_path: Path) -> None:
    (tmp_path / "000000001.ckpt").mkdir()  # no file can take this name
    with pytest.raises(ModelError, match=r"cannot be written: Is a directory.*--resume"):
        IO.save_checkpoint({}, tmp_path / "000000001.ckpt")
    assert [p.name for p in tmp_path.iterdir()] == ["000000001.ckpt"]


def test_a_second_interrupt_is_obeyed_at_once(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path)
    keeper._ask(signal.SIGINT, None)
    keeper._ask(signal.SIGTERM, None)
    with pytest.raises(KeyboardInterrupt):
        keeper._ask(signal.SIGINT, None)
