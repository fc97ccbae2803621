"""A bundle holds what was chosen on validation data, and appears whole or not at all."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pulmo.config.compose import compose
from pulmo.config.schema import Config
from pulmo.core.bundle import Bundle, Lineage, verify
from pulmo.core.calibration import temperature
from pulmo.core.decision import Decider
from pulmo.data.cache import open_pixels
from pulmo.data.manifest import TRAIN, VAL, DataSet
from pulmo.inference.engine import Engine
from pulmo.jobs import bundling
from pulmo.jobs.bundling import make_bundle
from pulmo.jobs.data import prepare
from pulmo.jobs.fit import samples
from pulmo.jobs.train import input_spec
from pulmo.models.catalog import Network, build

SMALL = (
    "data=phantom",
    "debug=fast",
    "data.phantom.images=200",
    "data.phantom.size=32",
    "evaluate.resamples=100",
    "decision.neighbours=2",
    "decision.refer=0.2",
    "decision.outliers=0.1",
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
def network(config: Config) -> Network:
    torch.manual_seed(0)
    return build(config.model.network, channels=1, classes=2, weights=None).eval()


@pytest.fixture(scope="module")
def origin(config: Config, dataset: DataSet) -> Lineage:
    return Lineage(
        data_name="phantom",
        data_digest=dataset.manifest.digest,
        configuration=config.document(),
        seed=0,
        machine="none",
        created_at="2026-01-01T00:00:00+00:00",
    )


@pytest.fixture(scope="module")
def bundle(
    network: Network, config: Config, dataset: DataSet, origin: Lineage, home: Path
) -> Bundle:
    return make_bundle(network, config, dataset, origin, home / "bundle")


def test_a_bundle_is_whole_and_made_again_byte_for_byte(
    network: Network, config: Config, dataset: DataSet, origin: Lineage, bundle: Bundle, home: Path
) -> None:
    assert verify(home / "bundle") == bundle
    assert bundle.info.lineage == origin
    again = make_bundle(network, config, dataset, origin, home / "again")
    assert again.digest == bundle.digest
    assert not list(home.glob("*.part"))


def test_limits_are_those_that_the_validation_pictures_ask_for(
    bundle: Bundle, network: Network, config: Config, dataset: DataSet
) -> None:
    spec = bundle.info.specification
    cached = open_pixels(dataset, input_spec(config))
    pixels = np.ascontiguousarray(cached[samples(dataset, cached, "val").rows])
    labels = samples(dataset, cached, "val").labels
    with torch.inference_mode():
        logits = network(torch.from_numpy(pixels).float() / 255).double().numpy()
    assert spec.temperature == pytest.approx(temperature(logits, labels), rel=1e-4)
    outputs = Engine((bundle.path / "model.onnx").read_bytes(), spec)(pixels)
    answers = Decider(spec, bundle.reference()["embeddings"]).answers(outputs)
    referred = sum(one.decision == "refer" for one in answers) / len(answers)
    assert 0.1 <= referred <= 0.5  # a fifth by the band, up to a tenth as outliers
    assert spec.decision.positive == config.data.positive
    assert spec.decision.refer_low <= (spec.decision.threshold or 0) <= spec.decision.refer_high


def test_members_and_reference_are_the_pictures_it_saw_and_no_others(
    bundle: Bundle, dataset: DataSet
) -> None:
    members = bundle.members()
    seen = {
        bytes(d).hex(): int(s) for d, s in zip(members["digests"], members["splits"], strict=True)
    }
    rows = dataset.manifest.rows
    assert seen == {r.pixels: (TRAIN, VAL).index(r.split) for r in rows if r.split in (TRAIN, VAL)}
    reference = bundle.reference()
    val = [r for r in rows if r.split == VAL]
    assert [len(reference[n]) for n in ("embeddings", "probabilities", "labels")] == [len(val)] * 3
    classes = dataset.manifest.classes
    assert [classes[i] for i in reference["labels"]] == [r.label for r in val]
    patients = reference["patients"]
    assert len({(int(i), r.patient) for i, r in zip(patients, val, strict=True)}) == len(
        {r.patient for r in val}
    )


def test_without_a_positive_class_the_likeliest_wins(
    network: Network, config: Config, dataset: DataSet, origin: Lineage, home: Path
) -> None:
    plain = config.model_copy(update={"data": config.data.model_copy(update={"positive": None})})
    decision = make_bundle(
        network, plain, dataset, origin, home / "argmax"
    ).info.specification.decision
    assert (decision.rule, decision.positive, decision.threshold) == ("argmax", None, None)


def test_a_bundle_that_could_not_be_written_is_not_there(
    network: Network,
    config: Config,
    dataset: DataSet,
    origin: Lineage,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    bundle: Bundle,
) -> None:
    def full(folder: Path, **_: object) -> None:
        folder.mkdir()
        (folder / "model.onnx").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(bundling, "write", full)
        with pytest.raises(OSError, match="No space"):
            make_bundle(network, config, dataset, origin, home / "late")
    assert not (home / "late").exists()
    late = make_bundle(network, config, dataset, origin, home / "late")  # over what was left
    assert late.digest == bundle.digest
