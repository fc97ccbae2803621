"""What was trained is what is served, and training twice gives the same model."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pulmo.core.bundle import WEIGHTS, Bundle, verify
from pulmo.core.decision import labels_of
from pulmo.core.preprocess import read
from pulmo.data.manifest import DataSet, load
from pulmo.inference.engine import load as load_engine
from pulmo.models.export import Deployed, from_weights

PICTURES = 300
LARGEST_GAP = 1e-4


@pytest.fixture(scope="module")
def home(
    tmp_path_factory: pytest.TempPathFactory, shared_data: Path, pulmo: Callable[..., object]
) -> Path:
    """The default model, trained twice in two folders on real X-rays."""
    folder = tmp_path_factory.mktemp("parity")
    pulmo(folder, "data", f"data.root={shared_data / 'chest_xray'}")
    for name in ("one", "two"):
        pulmo(folder, "train", f"run.dir={name}")
    return folder


@pytest.fixture(scope="module")
def bundle(home: Path) -> Bundle:
    return verify(home / "one/bundle")


@pytest.fixture(scope="module")
def dataset(home: Path) -> DataSet:
    return load(home / "data", "chest_xray")


def test_torch_onnx_and_predict_agree_on_validation_pictures(
    home: Path,
    bundle: Bundle,
    dataset: DataSet,
    pulmo: Callable[..., object],
    record_property: Callable[[str, object], None],
) -> None:
    rows = [row for row in dataset.manifest.rows if row.split == "val"][:PICTURES]
    assert len(rows) == PICTURES
    paths = [dataset.path(row) for row in rows]
    specification = bundle.info.specification
    pixels = np.stack([read(path.read_bytes(), specification.input) for path in paths])
    network = from_weights((bundle.path / WEIGHTS).read_bytes(), specification)
    deployed = Deployed(network, specification.temperature).eval()
    with torch.inference_mode():
        parts = [deployed(torch.from_numpy(pixels[i : i + 50]))[0] for i in range(0, PICTURES, 50)]
    by_torch = torch.cat(parts).numpy()
    by_onnx = load_engine(bundle)(pixels).probabilities
    out = pulmo(home, "predict", *map(str, paths), "--model", "one", "--json").stdout
    told = [json.loads(line) for line in out.splitlines()]
    by_predict = np.array(
        [[row["probabilities"][c] for c in specification.classes] for row in told]
    )
    gaps = [float(np.abs(by_torch - other).max()) for other in (by_onnx, by_predict)]
    record_property(
        "gaps", f"largest gaps over {PICTURES} pictures: ONNX {gaps[0]:.1e}, predict {gaps[1]:.1e}"
    )
    assert max(gaps) <= LARGEST_GAP
    expected = [specification.classes[i] for i in labels_of(by_torch, specification)]
    assert [specification.classes[i] for i in labels_of(by_onnx, specification)] == expected
    answered = [
        (row["label"], label) for row, label in zip(told, expected, strict=True) if row["label"]
    ]
    assert len(answered) >= 0.95 * PICTURES
    assert all(label == wanted for label, wanted in answered)


def test_two_trainings_in_two_folders_give_one_model(home: Path) -> None:
    one, two = (verify(home / name / "bundle") for name in ("one", "two"))
    assert one.info.model_digest == two.info.model_digest
    assert one.digest != two.digest  # they were not made at the same time
