"""Recalibration changes what was chosen, never the weights, and owns up to what it has seen."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pulmo.config.compose import compose
from pulmo.config.schema import Config
from pulmo.core.bundle import WEIGHTS, Bundle, Lineage, verify
from pulmo.data.manifest import TRAIN, VAL, DataSet, Manifest, load, store
from pulmo.errors import ConfigError, DataError, ModelError, RefusedError
from pulmo.jobs import run_folder
from pulmo.jobs.data import prepare
from pulmo.jobs.lineage import RECALIBRATED
from pulmo.jobs.recalibrate import adapted, extended, recalibrate
from pulmo.jobs.train import export, resume
from pulmo.models.catalog import build

SMALL = (
    "data=phantom",
    "debug=fast",
    "data.phantom.images=160",
    "data.phantom.size=32",
    "evaluate.resamples=100",
    "decision.neighbours=2",
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def config() -> Config:
    return compose(SMALL)


@pytest.fixture(scope="module")
def dataset(home: Path, config: Config) -> DataSet:
    return prepare(config, home / "data").dataset


@pytest.fixture(scope="module")
def model(home: Path, config: Config, dataset: DataSet) -> Bundle:
    """A network of random weights, calibrated on the validation pictures."""
    from pulmo.jobs.bundling import make_bundle

    torch.manual_seed(0)
    network = build(config.model.network, channels=1, classes=2, weights=None).eval()
    origin = Lineage(
        data_name="phantom",
        data_digest=dataset.manifest.digest,
        configuration=config.document(),
        seed=0,
        machine="none",
        created_at="2026-01-01T00:00:00+00:00",
    )
    return make_bundle(network, config, dataset, origin, home / "model")


def configured(tmp_path: Path, *more: str) -> Config:
    return compose([*SMALL, f"run.dir={tmp_path / 'run'}", *more])


def test_the_same_choices_give_the_same_model(model: Bundle, home: Path, tmp_path: Path) -> None:
    made = recalibrate(model, configured(tmp_path), home / "data")
    assert made.bundle.info.model_digest == model.info.model_digest
    assert made.bundle == verify(tmp_path / "run" / "bundle")


def test_other_choices_give_another_model_of_the_same_weights(
    model: Bundle, home: Path, tmp_path: Path
) -> None:
    # Neither network nor size is the configuration's business here.
    changes = (
        "decision.refer=0.5",
        "model=efficientnet_lite0",
        "model.image_size=64",
        "model.standardise=true",
    )
    made = recalibrate(model, configured(tmp_path, *changes), home / "data")
    info, before = made.bundle.info, model.info
    assert info.model_digest != before.model_digest
    weights = (made.bundle.path / WEIGHTS).read_bytes()
    assert weights == (model.path / WEIGHTS).read_bytes()
    assert info.specification.decision.refer_low <= before.specification.decision.refer_low
    assert info.specification.decision.refer_high > before.specification.decision.refer_high
    assert info.specification.network == before.specification.network
    assert info.specification.input == before.specification.input
    assert info.lineage.notes == (f"{RECALIBRATED} phantom-demo@{before.model_digest}",)
    assert info.lineage.configuration["model"]["architecture"] == "small_cnn"
    told = run_folder.read_lineage(made.run_dir)
    assert told == info.lineage
    assert "done" in (made.run_dir / "run.json").read_text()


@pytest.mark.parametrize("trained", ["true", "false"])
@pytest.mark.parametrize("now", ["true", "false"])
def test_whether_pictures_are_standardised_is_the_models_business(
    model: Bundle, trained: str, now: str
) -> None:
    before = compose([*SMALL, f"model.standardise={trained}"]).model
    spec = model.info.specification.model_copy(update={"network": before.network})
    found = adapted(compose([*SMALL, "recipe=partial", f"model.standardise={now}"]), spec).model
    assert (found.network, found.standardise) == (before.network, before.standardise)
    assert found.options == before.options


def test_a_run_without_training_is_neither_resumed_nor_exported_as_if_trained(
    model: Bundle, home: Path, tmp_path: Path
) -> None:
    run = recalibrate(model, configured(tmp_path), home / "data").run_dir
    with pytest.raises(ConfigError, match=f"was {RECALIBRATED} .* no training to go on with"):
        resume(configured(tmp_path), home / "data")
    (run / "bundle").rename(run / "aside")
    with pytest.raises(ModelError, match="no trained weights"):
        export(run, home / "data")


def other(dataset: DataSet, folder: Path, **changes: object) -> DataSet:
    manifest = dataset.manifest
    fields = {"classes": manifest.classes, "channels": manifest.channels, "rows": manifest.rows}
    return store(Manifest(name="phantom", **{**fields, **changes}), dataset.root, folder)  # type: ignore[arg-type]


def test_other_classes_or_channels_are_refused(
    model: Bundle, dataset: DataSet, tmp_path: Path
) -> None:
    other(dataset, tmp_path / "data", classes=("NORMAL", "OTHER"))
    with pytest.raises(DataError, match="shows NORMAL, OTHER, but the model knows"):
        recalibrate(model, configured(tmp_path), tmp_path / "data")
    other(dataset, tmp_path / "data", channels=3)
    with pytest.raises(DataError, match=r"data\.channels"):
        recalibrate(model, configured(tmp_path), tmp_path / "data")
    assert not (tmp_path / "run").exists()


def test_a_failure_is_recorded(model: Bundle, dataset: DataSet, tmp_path: Path) -> None:
    rows = tuple(row for row in dataset.manifest.rows if row.split != VAL)
    other(dataset, tmp_path / "data", rows=rows)
    with pytest.raises(DataError, match="no validation picture"):
        recalibrate(model, configured(tmp_path), tmp_path / "data")
    assert "no validation picture" in (tmp_path / "run" / "run.json").read_text()


def test_the_members_are_those_of_the_model_and_the_new_validation_pictures(
    home: Path, model: Bundle
) -> None:
    dataset = load(home / "data", "phantom")
    rows = dataset.manifest.rows
    val = {bytes.fromhex(row.pixels) for row in rows if row.split == VAL}
    train = {bytes.fromhex(row.pixels) for row in rows if row.split == TRAIN}
    foreign = {"digests": np.zeros((1, 32), dtype=np.uint8), "splits": np.zeros(1, dtype=np.uint8)}
    found = extended(foreign, dataset)
    splits = dict(zip(map(bytes, found["digests"]), found["splits"].tolist(), strict=True))
    assert splits == {bytes(32): 0, **dict.fromkeys(val, 1)}
    again = extended(model.members(), dataset)
    splits = dict(zip(map(bytes, again["digests"]), again["splits"].tolist(), strict=True))
    assert splits == {**dict.fromkeys(train, 0), **dict.fromkeys(val, 1)}
    assert again["digests"].dtype == again["splits"].dtype == np.uint8


def test_pictures_that_were_trained_on_choose_nothing(home: Path, model: Bundle) -> None:
    members = model.members()
    swapped = {"digests": members["digests"], "splits": 1 - members["splits"]}
    with pytest.raises(RefusedError, match="flatters"):
        extended(swapped, load(home / "data", "phantom"))
