"""What many tests share: a real bundle with a tiny graph, pictures for it, a clean environment."""

import io
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import services
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from pulmo.core import bundle as bundles
from pulmo.core.bundle import (
    Bundle,
    BundleInfo,
    DecisionSpec,
    Estimate,
    Lineage,
    NetworkSpec,
    Specification,
)
from pulmo.core.decision import fit_outliers
from pulmo.core.preprocess import InputSpec

SIDE = 16
CLASSES = ("DARK", "BRIGHT")
SETTINGS = (
    "PULMO_ALLOW_ANONYMOUS",
    "PULMO_RATE_LIMIT",
    "PULMO_KEYS_DIR",
    "PULMO_HOSTS",
    "PULMO_CORS_ORIGINS",
    "PULMO_API_KEYS",
    "PULMO_API_URL",
    "PULMO_DATA_DIR",
    "PULMO_DATA_URL",
    "PULMO_LOG_EMBEDDINGS",
    "PULMO_LOG_FORMAT",
    "PULMO_LOG_URL",
    "PULMO_PUBLIC_KEY",
    "PULMO_HOOKS_SECRET",
    "PULMO_HOOKS_TARGETS",
    "PULMO_REGISTRY",
    "PULMO_REGISTRY_URL",
    "PULMO_FILES_URL",
    "PULMO_SIGNING_KEY",
    "PULMO_SWEEP_URL",
    "PORT",
)


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def toy_graph() -> bytes:
    """uint8 [N, 1, 16, 16] → the brighter, the more BRIGHT; embedding: 4 × 4 mean values."""
    weights = np.array([-8.0, 8.0], dtype=np.float32).reshape(2, 1, 1, 1)
    nodes = [
        helper.make_node("Cast", ["image"], ["raw"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["raw", "scale"], ["unit"]),
        helper.make_node(
            "AveragePool", ["unit"], ["features"], kernel_shape=[4, 4], strides=[4, 4]
        ),
        helper.make_node("Conv", ["features", "weights", "bias"], ["saliency"]),
        helper.make_node("GlobalAveragePool", ["saliency"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        helper.make_node("Flatten", ["features"], ["embedding"]),
    ]
    constants = [
        numpy_helper.from_array(np.array(255, dtype=np.float32), "scale"),
        numpy_helper.from_array(weights, "weights"),
        numpy_helper.from_array(np.array([4.0, -4.0], dtype=np.float32), "bias"),
    ]
    outputs = {
        "probabilities": ["N", 2],
        "logits": ["N", 2],
        "embedding": ["N", SIDE],
        "saliency": ["N", 2, 4, 4],
    }
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 1, SIDE, SIDE])],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs.items()],
        constants,
    )
    opset = [helper.make_opsetid("", 17)]
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=opset, ir_version=8)
    return bytes(model.SerializeToString())


@pytest.fixture(scope="session")
def toy_specification() -> Specification:
    """BRIGHT from a probability of 0.5 up; 0.4 to 0.6 is referred; no outlier limit."""
    return Specification(
        classes=CLASSES,
        input=InputSpec(height=SIDE, width=SIDE, channels=1),
        network=NetworkSpec(architecture="toy"),
        outputs=("probabilities", "logits", "embedding", "saliency"),
        temperature=1.0,
        decision=DecisionSpec(
            rule="threshold", positive="BRIGHT", threshold=0.5, refer_low=0.4, refer_high=0.6
        ),
    )


@pytest.fixture(scope="session")
def make_bundle(toy_graph: bytes, toy_specification: Specification) -> Callable[..., Bundle]:
    """Write a toy bundle: `make_bundle(folder, name="toy", weights=b"…")`.

    Other `weights` give another model; whatever is not evenly grey is out of distribution.
    """

    def make(
        folder: Path,
        *,
        name: str = "toy",
        weights: bytes = b"toy weights",
        score: float = 0.9,
        **changes: Any,
    ) -> Bundle:
        grey = np.linspace(0.05, 1, 40, dtype=np.float32)
        noise = np.random.default_rng(0).normal(0, 0.01, (40, SIDE)).astype(np.float32)
        outliers, embeddings = fit_outliers(grey[:, None] * (1 + noise), 3, 0.05)
        specification = toy_specification.model_copy(update={"outliers": outliers, **changes})
        info = BundleInfo(
            name=name,
            model_digest=bundles.model_digest(toy_graph, weights, specification),
            specification=specification,
            metrics={"val": {"auroc": Estimate(value=score, low=score - 0.05, high=1.0)}},
            curves={},
            score_metric="auroc",
            lineage=Lineage(
                data_name="toy",
                data_digest="0" * 64,
                configuration={},
                seed=0,
                machine="none",
                created_at="2026-01-01T00:00:00+00:00",
            ),
        )
        return bundles.write(
            folder,
            graph=toy_graph,
            weights=weights,
            reference={
                "embeddings": embeddings,
                "probabilities": np.full((40, 2), 0.5, dtype=np.float32),
                "labels": np.zeros(40, dtype=np.int64),
            },
            members={
                "digests": np.zeros((1, 32), dtype=np.uint8),
                "splits": np.zeros(1, dtype=np.uint8),
            },
            info=info,
            card="# toy\n",
        )

    return make


@pytest.fixture(scope="session")
def toy_bundle(
    make_bundle: Callable[..., Bundle], tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    """One toy bundle, for tests that only read it."""
    return make_bundle(tmp_path_factory.mktemp("toy") / "bundle")


@pytest.fixture(scope="session")
def postgres() -> Iterator[services.Postgres]:
    """A throwaway Postgres: `postgres.registry()` is the URL of a new registry."""
    with services.postgres() as server:
        yield server


@pytest.fixture(scope="session")
def gcs() -> Iterator[str]:
    """Google Cloud Storage on loopback: what STORAGE_EMULATOR_HOST is to be set to."""
    with services.gcs() as address:
        yield address


@pytest.fixture(scope="module")  # the SDK keeps address, key and mode of whoever began it
def _wandb_house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    sdk = pytest.importorskip("wandb", reason="the group `wandb` is not installed")
    from wandb_server import wandb_server

    with wandb_server() as server:
        server.folder = tmp_path_factory.mktemp("wandb")
        sdk.teardown()
        yield server
        sdk.teardown()


@pytest.fixture
def wandb_house(_wandb_house: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """W&B on loopback (`wandb_server.Wandb`); a project of its own for each test."""
    for name, value in _wandb_house.environment().items():
        monkeypatch.setenv(name, value)
    _wandb_house.project = f"project-{uuid.uuid4().hex[:12]}"
    monkeypatch.setenv("WANDB_PROJECT", _wandb_house.project)
    for name in ("WANDB_MODE", "WANDB_ENTITY"):
        monkeypatch.delenv(name, raising=False)
    _wandb_house.refused.clear()
    _wandb_house.asked.clear()
    return _wandb_house


@pytest.fixture(scope="session")
def grey_png() -> Callable[[int], bytes]:
    """An evenly grey picture, encoded as PNG."""

    def encode(level: int) -> bytes:
        buffer = io.BytesIO()
        Image.new("L", (SIDE * 2, SIDE * 2), level).save(buffer, "PNG")
        return buffer.getvalue()

    return encode


@pytest.fixture
def restored_logging() -> Iterator[None]:
    """Undo what a test does to Pulmo's logger."""
    import logging

    logger = logging.getLogger("pulmo")
    before = logger.handlers[:], logger.level, logger.propagate
    yield
    logger.handlers[:], logger.level, logger.propagate = before


@pytest.fixture
def cli(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    restored_logging: None,
    tmp_path: Path,
) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """Run `pulmo …` in an empty folder: `code, stdout, stderr = cli("runs", "list")`."""
    import signal

    from pulmo.main import run

    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGTERM)

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["pulmo", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            run()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    yield call
    signal.signal(signal.SIGTERM, before)
