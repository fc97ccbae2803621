"""The whole loop on a small phantom: real training, a real registry, real staged tests."""

from pathlib import Path

import pytest

from pulmo.config.compose import compose
from pulmo.config.schema import Config
from pulmo.config.settings import Settings
from pulmo.core.ports import PRODUCTION, STAGING, ModelRef, Registry
from pulmo.errors import ConfigError, DataError, ModelError, RefusedError
from pulmo.jobs import release
from pulmo.jobs.quickstart import Summary, quickstart
from pulmo.wiring import open_registry

NAME = "phantom-demo"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def settings(home: Path) -> Settings:
    return Settings(
        data_dir=home / "data",
        registry_url=f"sqlite:///{home / 'registry.db'}",
        files_url=str(home / "bundles"),
    )


@pytest.fixture(scope="module")
def config(home: Path) -> Config:
    """The demonstration, small enough for a test: its gate split bears only wide margins."""
    return compose(
        [
            "data=phantom",
            "data.phantom.images=400",
            "data.phantom.size=64",
            "model.image_size=64",
            "recipe=probe",
            "trainer.max_epochs=15",
            "gate.min_per_class=5",
            "gate.margin=0.3",
            "gate.floors.auroc=0.6",
            "gate.floors.balanced_accuracy=0.55",
            "gate.class_floor=0.3",
            "gate.ece=0.4",
            "gate.stability=0.6",
            "gate.nonsense=0.3",
            "gate.above_baseline=-0.5",
            "gate.direction=0.3",
            "gate.robustness_floor=0.3",
            "gate.grey_gain=0.5",
            "gate.false_alarms=0.5",
            "gate.latency_ratio=10",
            f"run.root={home / 'runs'}",
        ]
    )


@pytest.fixture(scope="module")
def registry(settings: Settings) -> Registry:
    return open_registry(settings)


@pytest.fixture(scope="module")
def summary(config: Config, settings: Settings, registry: Registry) -> Summary:
    told: list[str] = []
    found = quickstart(config, settings, registry, told.append)
    assert [line[0] for line in told] == list("12345678")
    return found


def changed(config: Config, **gate: object) -> Config:
    return config.model_copy(update={"gate": config.gate.model_copy(update=gate)})


def production_moves(registry: Registry) -> list[tuple[str, int | None]]:
    return [(m.action, m.after) for m in registry.history(NAME) if m.alias == PRODUCTION]


def test_the_loop_ends_with_a_rollback_to_the_first_model(
    summary: Summary, registry: Registry
) -> None:
    assert production_moves(registry) == [("promote", 0), ("promote", 2), ("rollback", 0)]
    assert (summary.production.number, summary.refused.number, summary.retrained.number) == (
        0,
        1,
        2,
    )
    assert summary.report.is_file()
    assert len(list(summary.overlays.iterdir())) == 6


def test_the_spoilt_model_was_refused_for_its_quality(summary: Summary, registry: Registry) -> None:
    (verdict,) = registry.verdicts(NAME, summary.refused.model_digest)
    failed = {check.name for check in verdict.checks if not check.passed}
    assert verdict.passed is False
    assert "test_quality_reaches_the_floor" in failed
    assert "test_every_file_matches_its_digest" not in failed
    assert verdict.champion_digest == registry.get(ModelRef(NAME, version=0)).model_digest


def test_a_second_loop_moves_and_trains_nothing(
    summary: Summary, config: Config, settings: Settings, registry: Registry, home: Path
) -> None:
    before = registry.history(NAME)
    runs = sorted((home / "runs").rglob("*"))
    again = quickstart(config, settings, registry, lambda line: None)
    assert again == summary
    assert registry.history(NAME) == before
    assert sorted((home / "runs").rglob("*")) == runs


def test_a_required_test_that_does_not_exist_is_a_no(
    summary: Summary, config: Config, settings: Settings, registry: Registry
) -> None:
    required = [*config.gate.required, "test_that_nobody_wrote"]
    verdict = release.judge(
        registry, summary.retrained, changed(config, required=required), settings
    )
    assert [c.name for c in verdict.checks if not c.passed] == ["test_that_nobody_wrote"]
    assert verdict.passed is False


def test_tests_that_do_not_end_are_a_no_and_production_stays(
    summary: Summary, config: Config, settings: Settings, registry: Registry
) -> None:
    moves = production_moves(registry)
    with pytest.raises(RefusedError, match="did not end within"):
        release.stage(
            registry,
            summary.retrained.label,
            changed(config, timeout_s=0.05),
            settings,
            actor="a",
            reason="r",
        )
    assert production_moves(registry) == moves
    assert registry.get(ModelRef(NAME, alias=STAGING)) == registry.get(ModelRef(NAME, version=2))


def test_a_day_has_only_so_many_promotions(
    summary: Summary, config: Config, registry: Registry
) -> None:
    with pytest.raises(RefusedError, match="promoted 2 times in the last 24 hours"):
        release.promote(
            registry,
            summary.retrained,
            changed(config, promotions_per_day=2),
            actor="a",
            reason="r",
        )


def test_other_limits_make_an_old_verdict_worthless(
    summary: Summary, config: Config, registry: Registry
) -> None:
    with pytest.raises(RefusedError):
        release.promote(
            registry, summary.retrained, changed(config, margin=0.2), actor="a", reason="r"
        )


def test_a_model_is_not_judged_by_the_limits_of_another(
    summary: Summary, config: Config, settings: Settings, registry: Registry
) -> None:
    other = config.model_copy(update={"registry": config.registry.model_copy(update={"name": "x"})})
    with pytest.raises(ConfigError, match="not of phantom-demo"):
        release.judge(registry, summary.production, other, settings)


def test_without_the_data_the_command_that_brings_them_is_named(
    summary: Summary, config: Config, settings: Settings, registry: Registry, tmp_path: Path
) -> None:
    nowhere = settings.model_copy(update={"data_dir": tmp_path})
    with pytest.raises(DataError, match="data data=phantom"):
        release.judge(registry, summary.production, config, nowhere)


@pytest.mark.parametrize("target", ["./nothing", "runs/nothing"])
def test_a_folder_that_is_not_there_is_no_candidate(registry: Registry, target: str) -> None:
    with pytest.raises(ModelError, match="is no folder"):
        release.resolve(registry, target, actor="a")


def test_the_suite_digest_changes_with_the_limits_alone(config: Config) -> None:
    assert release.suite_digest(config) == release.suite_digest(config)
    assert release.suite_digest(config) != release.suite_digest(changed(config, margin=0.1))


def test_a_verdict_is_written_for_people_and_programs(summary: Summary, home: Path) -> None:
    folders = sorted((home / "runs/staged").iterdir())
    first = folders[0]
    assert {"junit.xml", "terms.json", "output.log", "verdict.json", "verdict.md"} <= {
        path.name for path in first.iterdir()
    }
    assert "phantom-demo:v0 passed, without a champion" in (first / "verdict.md").read_text("utf-8")
