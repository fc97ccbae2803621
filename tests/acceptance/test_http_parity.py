"""Real X-rays over HTTP by each transport: the answers of the process itself, to the last digit."""

import base64
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import httpx2 as httpx
import pytest
from served import serving

from pulmo.core.bundle import Bundle, verify
from pulmo.core.wire import Answer
from pulmo.serving.models import Model

TRAINED_ON, ASKED = 200, {"NORMAL": 120, "PNEUMONIA": 180}  # pictures of a class
GAP = 1e-4


def some(folder: Path, count: int) -> list[Path]:
    """Pictures of a folder, spread evenly over its names."""
    paths = sorted(folder.glob("*.jpeg"))
    return paths[:: len(paths) // count][:count]


@pytest.fixture(scope="module")
def trained(
    shared_data: Path, pulmo: Callable[..., object], tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    """The default network, trained on some of the X-rays."""
    home = tmp_path_factory.mktemp("trained")
    for label in ASKED:
        (home / "xrays" / label).mkdir(parents=True)
        for path in some(shared_data / "chest_xray/train" / label, TRAINED_ON):
            shutil.copy(path, home / "xrays" / label)
    pulmo(home, "data", "data=folder", "data.root=xrays", "data.channels=1")
    pulmo(home, "train", "data=folder", "data.root=xrays", "data.channels=1", "run.dir=run")
    return verify(home / "run/bundle")


def test_real_pictures_are_answered_over_http_as_in_the_process(
    trained: Bundle, shared_data: Path, tmp_path: Path, tell: Callable[[str], None]
) -> None:
    test = shared_data / "chest_xray/test"
    paths = [path for label, count in ASKED.items() for path in some(test / label, count)]
    model, gap, right = Model(trained), 0.0, 0
    with (
        serving(trained.path, tmp_path) as (_, url),
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        for path in paths:
            data = path.read_bytes()
            plain = model.answer([data], explain=False)[0]
            right += plain.prediction == path.parent.name
            for answer in (
                client.post("/predict", content=data, headers={"Content-Type": "image/jpeg"}),
                client.post("/predict", files={"file": (path.name, data)}),
                client.post("/predict", json={"image": base64.b64encode(data).decode()}),
            ):
                assert answer.status_code == 200, answer.text
                told = Answer.model_validate(json.loads(answer.text))
                assert (told.prediction, told.decision) == (plain.prediction, plain.decision)
                assert told.input_sha256 == plain.input_sha256
                assert told.model.digest == trained.info.model_digest
                gap = max(
                    gap, *(abs(told.probabilities[k] - p) for k, p in plain.probabilities.items())
                )
    tell(
        f"{len(paths)} X-rays × 3 transports: labels and decisions equal, largest gap {gap:.1e} "
        f"({right} of them answered right)"
    )
    assert len(paths) == 300
    assert gap <= GAP
