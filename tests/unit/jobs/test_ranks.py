"""Who does what where several processes train one model."""

from pathlib import Path

import pytest

from pulmo.config.compose import compose
from pulmo.errors import ConfigError
from pulmo.jobs import ranks
from pulmo.jobs.ranks import Team


def started(patch: pytest.MonkeyPatch, rank: int, size: int) -> None:
    """As torchrun starts processes."""
    known = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
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


def test_what_several_processes_cannot_share_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    started(monkeypatch, 0, 4)
    ranks.check(compose(["recipe=finetune"]))
    with pytest.raises(ConfigError, match="leave torchrun out, or take recipe=finetune"):
        ranks.check(compose(["recipe=probe"]))
    with pytest.raises(ConfigError, match="recipe=partial runs every picture"):
        ranks.check(compose(["recipe=partial"]))
    with pytest.raises(ConfigError, match="set it to 8 or more"):
        ranks.check(compose(["recipe=finetune", "trainer.batch_size=7"]))
