"""Real X-rays, ten classes in colour and PneumoniaMNIST over HTTP, by the README's commands."""

import functools
import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2 as httpx
import pytest
from PIL import Image
from served import serving

FIVE_MINUTES = 300


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("real")


def staged_run(home: Path, pulmo: Callable[..., object], *overrides: str) -> dict[str, object]:
    """`train --stage` with the seconds it took."""
    begun = time.monotonic()
    done = pulmo(home, "train", "--stage", "--json", *overrides)
    result: dict[str, object] = json.loads(done.stdout)  # type: ignore[attr-defined]
    return {**result, "seconds": time.monotonic() - begun}


def test_xrays_are_trained_tested_promoted_and_predicted(
    home: Path, shared_data: Path, pulmo: Callable[..., object]
) -> None:
    pulmo(home, "data", f"data.root={shared_data / 'chest_xray'}")
    trained = staged_run(home, pulmo)
    assert trained["seconds"] <= FIVE_MINUTES
    assert trained["metrics"]["val"]["auroc"]["value"] >= 0.97
    evaluated = json.loads(pulmo(home, "evaluate", "--json").stdout)
    assert {"val", "test"} <= evaluated["splits"].keys()
    shown = json.loads(pulmo(home, "registry", "show", "pneumonia:production", "--json").stdout)
    assert shown["verdicts"][-1]["passed"] is True
    pictures = sorted((shared_data / "chest_xray/test/PNEUMONIA").iterdir())[:6]
    out = pulmo(
        home, "predict", *map(str, pictures), "--model", "pneumonia:production",
        "--overlay", "overlays", "--json",
    ).stdout  # fmt: skip
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["error"] for row in rows] == [None] * 6
    assert sum(row["label"] == "PNEUMONIA" for row in rows) >= 5
    overlays = sorted((home / "overlays").iterdir())
    assert len(overlays) == 6
    assert all(Image.open(path).mode == "RGB" for path in overlays)


def test_ten_colour_classes_work_by_configuration_alone(
    home: Path, shared_data: Path, pulmo: Callable[..., object], tell: Callable[[str], None]
) -> None:
    root = shared_data / "imagenette160"
    pulmo(home, "data", "data=imagenette", f"data.root={root}")
    trained = staged_run(home, pulmo, "data=imagenette")
    assert trained["metrics"]["val"]["accuracy"]["value"] >= 0.9
    shown = json.loads(pulmo(home, "registry", "show", "imagenette:production", "--json").stdout)
    assert shown["verdicts"][-1]["passed"] is True
    picture = min((root / "val/n01440764").iterdir())
    row = json.loads(
        pulmo(home, "predict", str(picture), "--model", "imagenette:production", "--json").stdout
    )
    assert row["label"] == "n01440764"
    assert len(row["probabilities"]) == 10
    pulmo(home, "test-staged", "imagenette:production")
    evaluated = json.loads(pulmo(home, "evaluate", "data=imagenette", "--json").stdout)
    assert {"val", "test"} <= evaluated["splits"].keys()
    with serving("imagenette:production", home) as (_, url):
        asked = httpx.post(
            f"{url}/predict",
            content=picture.read_bytes(),
            headers={"Content-Type": "image/jpeg"},
            timeout=60,
        )
    answer = asked.json()
    assert asked.status_code == 200, answer
    assert answer["prediction"] == "n01440764"
    assert answer["model"]["name"] == "imagenette"
    assert answer["probabilities"] == pytest.approx(row["probabilities"], abs=1e-4)
    accuracy = trained["metrics"]["val"]["accuracy"]["value"]
    tell(f"imagenette: {trained['seconds']:.0f} s, accuracy {accuracy:.3f} on val, served")


def test_another_network_is_one_override_away(
    home: Path, shared_data: Path, pulmo: Callable[..., object]
) -> None:
    pulmo(home, "data", "data=imagenette", f"data.root={shared_data / 'imagenette160'}")
    pulmo(
        home, "train", "data=imagenette", "model=resnet18", "recipe=finetune",
        "model.image_size=48", "trainer.max_epochs=1", "run.dir=resnet",
    )  # fmt: skip
    bundle = json.loads((home / "resnet/bundle/bundle.json").read_text("utf-8"))
    assert bundle["specification"]["network"]["architecture"] == "resnet18"
    assert len(bundle["specification"]["classes"]) == 10


@pytest.fixture
def server(shared_data: Path) -> Iterator[str]:
    """The official PneumoniaMNIST file on a loopback HTTP server."""
    handler = functools.partial(
        http.server.SimpleHTTPRequestHandler, directory=str(shared_data / "pneumoniamnist")
    )
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


def test_the_loop_runs_on_downloaded_xrays(
    home: Path, server: str, pulmo: Callable[..., object]
) -> None:
    url = f"data.url={server}/pneumoniamnist.npz"
    pulmo(home, "quickstart", "data=pneumoniamnist", url)
    history = json.loads(pulmo(home, "registry", "history", "pneumoniamnist", "--json").stdout)
    moves = [(m["action"], m["after"]) for m in history if m["alias"] == "production"]
    assert moves == [("promote", 0), ("promote", 2), ("rollback", 0)]
