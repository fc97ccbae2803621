"""A run goes on from wherever it was stopped, and `run.json` says how far it came."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pulmo.config.compose import compose
from pulmo.config.schema import Config
from pulmo.errors import ConfigError, DataError, ModelError
from pulmo.jobs import bundling, lineage, run_folder
from pulmo.jobs import fit as fitting
from pulmo.jobs.data import prepare
from pulmo.jobs.train import export, resume, train

TINY = (
    "data=phantom",
    "debug=fast",
    "data.phantom.images=200",
    "data.phantom.size=32",
    "model.options.width=4",
    "trainer.batch_size=16",
    "trainer.accelerator=cpu",
    "evaluate.resamples=100",
)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    prepare(compose(TINY), folder)
    return folder


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return compose((*TINY, f"run.root={tmp_path}", f"run.dir={tmp_path}/mine"))


def told(config: Config) -> dict[str, Any]:
    assert config.run.dir is not None
    found: dict[str, Any] = json.loads((Path(config.run.dir) / "run.json").read_text())
    return found


def stop(*_: object, **__: object) -> None:
    raise SystemExit(143)


def test_a_run_stopped_in_its_export_ends_as_an_unbroken_one(
    config: Config, data_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "pulmo")
    unbroken = train(compose((*TINY, f"run.dir={tmp_path}/unbroken")), data_dir)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundling, "write", stop)
        with pytest.raises(SystemExit) as ended:
            train(config, data_dir)
    assert ended.value.code == 143
    assert told(config)["status"] == "stopped"
    log = (tmp_path / "mine" / "run.log").read_text()
    assert f"go on with: pulmo train --resume run.dir={tmp_path}/mine" in log
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "fit", stop)  # the weights are there
        resumed = resume(config.model_copy(update={"run": config.run}), data_dir)
    assert resumed.bundle.info.model_digest == unbroken.bundle.info.model_digest
    document = told(config)
    assert (document["status"], document["error"]) == ("done", None)
    assert resume(config, data_dir).bundle.digest == resumed.bundle.digest


def test_a_run_that_was_killed_before_it_was_recorded_as_done_is_recorded(
    config: Config, data_dir: Path
) -> None:
    digest = train(config, data_dir).bundle.digest
    run_folder.update(Path(config.run.dir or ""), status="running")
    assert export(Path(config.run.dir or ""), data_dir).digest == digest
    assert told(config)["status"] == "done"


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (
            ["data.classes=null", "data.positive=OTHER"],
            r"data\.positive=OTHER, but the data set phantom shows NORMAL",
        ),
        (["decision.neighbours=500"], r"lower decision\.neighbours \(500\)"),
    ],
)
def test_what_would_fail_after_the_training_fails_before_it(
    data_dir: Path, tmp_path: Path, overrides: list[str], told: str
) -> None:
    config = compose((*TINY, f"run.root={tmp_path}", *overrides))
    with pytest.raises((ConfigError, DataError), match=told):
        train(config, data_dir)
    assert not list(tmp_path.iterdir())


def test_the_origin_tells_the_threads_that_trained(config: Config, data_dir: Path) -> None:
    before = torch.get_num_threads()
    given = config.trainer.model_copy(update={"threads": before + 1})
    try:
        trained = train(config.model_copy(update={"trainer": given}), data_dir)
    finally:
        torch.set_num_threads(before)
    assert f", {before + 1} threads, " in trained.bundle.info.lineage.machine


def test_resuming_where_no_run_is_begins_one(config: Config, data_dir: Path) -> None:
    assert resume(config, data_dir).run_dir == Path(config.run.dir or "")
    without = config.model_copy(update={"run": config.run.model_copy(update={"dir": None})})
    assert resume(without, data_dir).run_dir == Path(config.run.dir or "")


def test_a_run_that_goes_on_at_another_commit_warns_and_records_both(
    config: Config,
    data_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(lineage, "commit_of", lambda _: ("a" * 40, True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundling, "write", stop)
        with pytest.raises(SystemExit):
            train(config, data_dir)
    monkeypatch.setattr(lineage, "commit_of", lambda _: ("b" * 40, True))
    origin = resume(config, data_dir).bundle.info.lineage
    assert origin.commit == "a" * 40
    assert origin.notes == (f"resumed at another commit: commit {'b' * 40}",)
    assert f"begun at commit {'a' * 40} and is {origin.notes[0]}" in caplog.text
    monkeypatch.setattr(lineage, "commit_of", lambda _: ("c" * 40, True))
    assert resume(config, data_dir).bundle.info.lineage == origin  # nothing was left to do


def test_other_overrides_than_those_of_the_run_are_refused(config: Config, data_dir: Path) -> None:
    train(config, data_dir)
    with pytest.raises(ConfigError, match="seed was 0 and is 3"):
        resume(config.model_copy(update={"seed": 3}), data_dir)


def test_a_failed_run_says_why_and_has_nothing_to_export(
    config: Config, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ModelError("no weights")

    monkeypatch.setattr(fitting, "fit", fail)
    with pytest.raises(ModelError, match="no weights"):
        train(config, data_dir)
    assert told(config)["status"] == "failed"
    assert told(config)["error"] == "ModelError: no weights"
    with pytest.raises(ModelError, match="has no trained weights"):
        export(Path(config.run.dir or ""), data_dir)


def test_a_full_disk_hides_no_other_error(
    config: Config, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        def full(*_: object, **__: object) -> None:
            raise OSError("No space left on device")

        monkeypatch.setattr(run_folder, "update", full)
        raise ModelError("the first error")

    monkeypatch.setattr(fitting, "fit", fail)
    with pytest.raises(ModelError, match="the first error"):
        train(config, data_dir)
