"""Run folders: never overwritten, and found again."""

import json
from pathlib import Path

import pytest

from pulmo.config.compose import compose
from pulmo.config.schema import Config
from pulmo.core.bundle import Lineage
from pulmo.errors import ConfigError, DataError, ModelError
from pulmo.jobs import run_folder


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return compose(("data=phantom", f"run.root={tmp_path}"))


def origin(config: Config, created_at: str = "2026-01-01T00:00:00+00:00") -> Lineage:
    return Lineage(
        data_name="phantom",
        data_digest="a" * 64,
        configuration=config.document(),
        seed=0,
        machine="m",
        created_at=created_at,
    )


def test_two_runs_of_one_second_get_two_folders(config: Config) -> None:
    folders = {run_folder.create(config) for _ in range(3)}
    assert len(folders) == 3
    assert all(folder.is_dir() for folder in folders)


def test_a_chosen_folder_that_holds_a_run_is_refused(config: Config, tmp_path: Path) -> None:
    run = config.run.model_copy(update={"dir": str(tmp_path / "mine")})
    chosen = config.model_copy(update={"run": run})
    folder = run_folder.create(chosen)
    run_folder.begin(folder, chosen, origin(chosen))
    with pytest.raises(DataError, match=r"choose another run\.dir"):
        run_folder.create(chosen)


def test_a_run_tells_its_state_and_its_origin(config: Config) -> None:
    folder = run_folder.create(config)
    run_folder.begin(folder, config, origin(config))
    run_folder.update(folder, status="failed", error="x")
    document = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert document["status"] == "failed"
    assert document["name"] == config.registry.name
    assert run_folder.read_lineage(folder) == origin(config)
    packages = json.loads((folder / "environment.json").read_text(encoding="utf-8"))["packages"]
    assert "torch" in packages


def test_the_latest_finished_run_of_a_model_is_found(config: Config, tmp_path: Path) -> None:
    folders = [run_folder.create(config) for _ in range(3)]
    for folder, day in zip(folders, ("02", "03", "04"), strict=True):
        run_folder.begin(folder, config, origin(config, f"2026-01-{day}T00:00:00+00:00"))
    for folder in folders[:2]:
        run_folder.update(folder, status="done")
    assert run_folder.latest(tmp_path, config.registry.name) == folders[1]


def test_without_a_finished_run_the_command_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="pulmo train"):
        run_folder.latest(tmp_path, "lungs")


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no run that can be read"):
        run_folder.read_lineage(tmp_path)
    (tmp_path / "lineage.json").write_text("[]")
    with pytest.raises(ModelError, match="holds no run"):
        run_folder.read_lineage(tmp_path)


def begin(folder: Path, config: Config, created_at: str) -> Path:
    folder.mkdir()
    run_folder.begin(folder, config, origin(config, created_at))
    return folder


def test_the_newest_unfinished_run_of_the_configuration_goes_on(
    config: Config, tmp_path: Path
) -> None:
    other = config.model_copy(update={"seed": 7})
    first = begin(tmp_path / "first", config, "2026-01-01T00:00:00+00:00")
    second = begin(tmp_path / "second", config, "2026-01-02T00:00:00+00:00")
    begin(tmp_path / "other", other, "2026-01-03T00:00:00+00:00")
    damaged = begin(tmp_path / "damaged", config, "2026-01-04T00:00:00+00:00")
    (damaged / "lineage.json").write_text("{")
    assert run_folder.unfinished(config) == second
    run_folder.update(second, status="done")
    assert run_folder.unfinished(config) == first
    run_folder.update(first, status="done")
    assert run_folder.unfinished(config) == second
    with pytest.raises(ModelError, match="no run of this configuration"):
        run_folder.unfinished(config.model_copy(update={"seed": 8}))


def test_a_run_goes_on_only_as_it_was_begun(config: Config, tmp_path: Path) -> None:
    folder = begin(tmp_path / "mine", config, "2026-01-01T00:00:00+00:00")
    recorded = run_folder.recorded(folder)
    assert recorded.run.dir == str(folder)
    run_folder.agree(folder, recorded)
    gate = config.gate.model_copy(update={"margin": 0.5})
    run_folder.agree(folder, config.model_copy(update={"gate": gate}))
    with pytest.raises(ConfigError, match=r"seed was 0 and is 7; give the overrides"):
        run_folder.agree(folder, config.model_copy(update={"seed": 7}))
    with pytest.raises(DataError, match="already holds a run"):
        run_folder.begin(folder, config, origin(config))


def test_only_one_training_works_in_a_folder(tmp_path: Path) -> None:
    with run_folder.at_work(tmp_path):
        with pytest.raises(ModelError, match="another training"), run_folder.at_work(tmp_path):
            raise AssertionError("it must be locked")
        (tmp_path / "beside").mkdir()
        with run_folder.at_work(tmp_path / "beside"):
            pass
    with run_folder.at_work(tmp_path):
        pass
