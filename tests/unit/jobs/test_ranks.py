"""Who does what where several processes train one model."""

from pathlib import Path

import pytest
import torch
from torch import distributed

from pulmo.config.compose import compose
from pulmo.errors import ConfigError
from pulmo.jobs import ranks
from pulmo.jobs.ranks import Team


def started(patch: pytest.MonkeyPatch, rank: int, size: int) -> None:
    """As torchrun starts processes."""
    known = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    for name, value in {"TORCHELASTIC_RUN_ID": "none", **known}.items():
        patch.setenv(name, str(value))


def test_a_process_alone_is_the_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setenv("RANK", "3")  # somebody else's
    assert ranks.team() == Team()
    assert ranks.team().first
    config = compose(["recipe=probe"])
    ranks.check(config)
    with ranks.leading(config, tmp_path):
        ranks.dismiss(config)


def test_torchrun_says_who_is_who(monkeypatch: pytest.MonkeyPatch) -> None:
    started(monkeypatch, 1, 2)
    assert ranks.team() == Team(rank=1, size=2, here=2)
    assert not ranks.team().first


def test_every_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[object] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", done.append)
    monkeypatch.setattr(distributed, "init_process_group", done.append)
    monkeypatch.setattr(distributed, "destroy_process_group", lambda: None)
    monkeypatch.setattr(distributed, "broadcast_object_list", lambda *_, **__: None)
    started(monkeypatch, 3, 4)
    ranks.dismiss(compose([]))
    assert done == [3, "cpu:gloo,cuda:nccl"]
    ranks.dismiss(compose(["trainer.accelerator=cpu"]))
    assert done[2:] == ["gloo"]


def test_what_several_processes_cannot_share_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    started(monkeypatch, 0, 4)
    ranks.check(compose(["recipe=finetune"]))
    with pytest.raises(ConfigError, match="leave torchrun out, or take recipe=finetune"):
        ranks.check(compose(["recipe=probe"]))
    with pytest.raises(ConfigError, match="recipe=partial runs every picture"):
        ranks.check(compose(["recipe=partial"]))
    with pytest.raises(ConfigError, match="set it to 8 or more"):
        ranks.check(compose(["recipe=finetune", "trainer.batch_size=7"]))
