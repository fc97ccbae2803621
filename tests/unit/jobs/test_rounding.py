"""A model in whole numbers: of its own, with the limits of the float one, and only where it is a
match.
"""

import runpy
from pathlib import Path

import numpy as np
import pytest

from pulmo.config.compose import compose
from pulmo.config.schema import Config
from pulmo.core.bundle import GRAPH, Bundle, verify
from pulmo.core.decision import Decider
from pulmo.core.gate import GateSplit
from pulmo.core.ports import Check
from pulmo.data.cache import open_pixels
from pulmo.data.manifest import DataSet
from pulmo.errors import ModelError, RefusedError
from pulmo.inference.engine import load
from pulmo.jobs.data import prepare
from pulmo.jobs.fit import samples
from pulmo.jobs.recalibrate import recalibrate
from pulmo.jobs.reproduce import origin_of
from pulmo.jobs.rounding import FOLDER, to_int8
from pulmo.jobs.staged import Case, Contender, Terms
from pulmo.jobs.train import train

ROOT = Path(__file__).resolve().parents[3]
DATA = ("data=phantom", "data.phantom.images=200", "data.phantom.size=64", "evaluate.resamples=100")
TINY = (
    *DATA,
    "model=resnet18",
    "model.architecture=test_resnet",
    "model.weights=null",
    "model.image_size=64",
    "recipe=finetune",
    "trainer.max_epochs=1",
    "trainer.accelerator=cpu",
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def config(home: Path) -> Config:
    return compose((*TINY, f"run.dir={home}/run"))


@pytest.fixture(scope="module")
def dataset(home: Path, config: Config) -> DataSet:
    return prepare(config, home / "data").dataset


@pytest.fixture(scope="module")
def model(home: Path, config: Config, dataset: DataSet) -> Bundle:
    return train(config, home / "data").bundle


@pytest.fixture(scope="module")
def twin(home: Path, model: Bundle) -> Bundle:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pulmo.core.likeness.KEPT", 0.5)  # it has hardly been trained
        patch.setattr("pulmo.core.likeness.LOST", 0.5)
        return to_int8(home / "run", home / "data")


def test_it_is_a_model_of_its_own_with_the_limits_of_the_float_one(
    model: Bundle, twin: Bundle, dataset: DataSet
) -> None:
    assert verify(twin.path) == twin
    before, after = model.info.specification, twin.info.specification
    assert after == before.model_copy(update={"precision": "int8"})
    assert twin.info.model_digest != model.info.model_digest
    assert (twin.path / GRAPH).stat().st_size < (model.path / GRAPH).stat().st_size
    assert twin.members()["digests"].tobytes() == model.members()["digests"].tobytes()
    (note,) = [one for one in twin.info.lineage.notes if one.startswith("put into whole numbers")]
    assert f"from {model.info.name}@{model.info.model_digest}: " in note
    pixels = np.ascontiguousarray(open_pixels(dataset, before.input)[:20])
    ours, theirs = load(model)(pixels), load(twin)(pixels)
    assert 0 < np.abs(ours.probabilities - theirs.probabilities).max() < 0.1
    answers = Decider(after, twin.reference()["embeddings"]).answers(theirs)
    assert len(answers) == 20


@pytest.mark.parametrize("least", [0.5, 1.01])
def test_the_staged_tests_ask_again_on_gate_and_known_pictures(
    twin: Bundle, dataset: DataSet, monkeypatch: pytest.MonkeyPatch, least: float
) -> None:
    monkeypatch.setattr("pulmo.core.likeness.KEPT", least)
    monkeypatch.setattr("pulmo.core.likeness.LOST", 0.5)
    gate = samples(dataset, open_pixels(dataset, twin.info.specification.input), "gate")
    split = GateSplit(gate.labels, [""] * len(gate.rows), [""] * len(gate.rows), 1)
    terms = Terms.of(compose(["data=phantom"]))
    case = Case(Contender(twin, dataset, gate.rows), None, terms, split)
    checks: list[Check] = []
    parity = runpy.run_path(str(ROOT / "staged_model_tests/test_parity.py"))
    parity["test_torch_and_onnx_agree"](case, checks.append)
    (check,) = checks
    known = len(case.candidate.known.rows)
    assert known > 0
    assert check.passed == (least == 0.5)
    assert f"of {len(gate.rows) + known} answers are the same" in check.detail


def test_made_again_it_is_the_one_that_is_there(home: Path, twin: Bundle) -> None:
    assert to_int8(home / "run", home / "data").digest == twin.digest


def test_what_answers_otherwise_is_refused_and_not_written(
    home: Path, model: Bundle, twin: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = twin.path.rename(home / "away")
    monkeypatch.setattr("pulmo.core.likeness.KEPT", 1.01)
    try:
        with pytest.raises(RefusedError, match=r"would answer otherwise: .* of \d+ answers are"):
            to_int8(home / "run", home / "data")
        assert not (home / "run" / FOLDER).exists()
    finally:
        away.rename(twin.path)


def test_a_network_without_small_maps_has_none(home: Path, tmp_path: Path) -> None:
    small = compose((*DATA, "debug=fast", f"run.dir={tmp_path}/run", "trainer.accelerator=cpu"))
    train(small, home / "data")
    with pytest.raises(ModelError, match="no convolutions of small maps"):
        to_int8(tmp_path / "run", home / "data")


def test_new_limits_and_another_training_want_the_float_model(
    home: Path, config: Config, twin: Bundle
) -> None:
    with pytest.raises(RefusedError, match=r"recalibrate that one, and export it with --int8"):
        recalibrate(twin, config, home / "data")
    origin = twin.info.lineage.model_copy(update={"commit": "0" * 40, "clean": True})
    version = type("Version", (), {"label": "phantom-demo:v1"})()
    with pytest.raises(RefusedError, match=r"put into whole numbers from .* do the same with it"):
        origin_of(version, [origin.model_dump(mode="json")])
