"""The faster engine answers, the answers stay the same, and what is asked for is had."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from pulmo.core.bundle import Bundle, Specification
from pulmo.core.preprocess import InputSpec, Pixels
from pulmo.errors import ConfigError, ModelError
from pulmo.inference import choice
from pulmo.inference.engine import Backend, Engine, Run, onnxruntime
from pulmo.inference.openvino import installed

needs_openvino = pytest.mark.skipif(not installed(), reason="OpenVINO is not installed")


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "_ratios", {})


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (5, 1, 16, 16), dtype=np.uint8)


@needs_openvino
def test_both_engines_give_the_same_outputs(toy_bundle: Bundle, pixels: np.ndarray) -> None:
    usual = choice.load_fastest(toy_bundle, 1, "onnxruntime")
    other = choice.load_fastest(toy_bundle, 1, "openvino")
    for batch in (pixels, pixels[:1], pixels[1:3]):
        one, two = usual(batch), other(batch)
        for name in ("probabilities", "logits", "embedding", "saliency"):
            np.testing.assert_allclose(getattr(one, name), getattr(two, name), atol=1e-4)


def engine_of(engine: Engine) -> str:
    return engine._run.__qualname__.partition(".")[0]


@needs_openvino
def test_a_kind_of_graph_is_timed_once(toy_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    ratios = iter([2.0])
    monkeypatch.setattr(choice, "_best", lambda *_: next(ratios))
    engines = [choice.load_fastest(toy_bundle, 1) for _ in range(2)]
    assert [engine_of(one) for one in engines] == ["openvino", "openvino"]


@needs_openvino
@pytest.mark.parametrize(("ratio", "gap"), [(1.14, 0.0), (3.0, 2e-4)])
def test_the_usual_engine_stays_where_the_other_gains_little_or_differs(
    toy_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, ratio: float, gap: float
) -> None:
    monkeypatch.setattr(choice, "_best", lambda *_: ratio)
    monkeypatch.setattr(choice, "_gap", lambda *_: gap)
    for _ in range(2):
        assert engine_of(choice.load_fastest(toy_bundle, 1)) == "onnxruntime"


def other_engine(output: str, times: float) -> Backend:
    """An engine in OpenVINO's place, one of whose outputs differs by a factor."""

    def stretched(graph: bytes, spec: Specification, threads: int | None) -> Run:
        run = onnxruntime(graph, spec, threads)

        def answer(names: Sequence[str], pixels: Pixels) -> list[np.ndarray]:
            found = dict(zip(names, run(names, pixels), strict=True))
            return [np.float32(times if n == output else 1) * found[n] for n in names]

        return answer

    return stretched


@pytest.mark.parametrize(
    ("output", "times", "taken"),
    [
        ("embedding", 1 + 5e-5, "other_engine"),
        ("embedding", 1 + 5e-4, "onnxruntime"),
        ("probabilities", 1 + 1e-2, "onnxruntime"),
    ],
)
def test_each_successor_is_compared_in_probabilities_and_embedding(
    toy_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, output: str, times: float, taken: str
) -> None:
    monkeypatch.setattr(choice, "installed", lambda: True)
    monkeypatch.setattr(choice, "_best", lambda *_: 2.0)
    monkeypatch.setattr(choice, "openvino", other_engine("none", 1))
    assert engine_of(choice.load_fastest(toy_bundle, 1)) == "other_engine"
    monkeypatch.setattr(choice, "openvino", other_engine(output, times))
    assert engine_of(choice.load_fastest(toy_bundle, 1)) == taken


def test_the_pictures_of_the_comparison_are_of_many_kinds() -> None:
    spec = InputSpec(height=20, width=33, channels=3)
    pictures = choice._pictures(spec)
    assert (pictures.dtype, pictures.shape) == (np.uint8, (4, 3, 20, 33))
    np.testing.assert_array_equal(pictures, choice._pictures(spec))
    deviations = pictures.astype(float).std(axis=(1, 2, 3))
    steps = np.abs(np.diff(pictures.astype(float), axis=3)).mean(axis=(1, 2, 3))
    assert deviations[1] < deviations[2] < deviations[0]
    assert steps[3] < steps[2] < steps[0]


@needs_openvino
def test_a_measurement_is_a_ratio_of_times(toy_bundle: Bundle) -> None:
    engine = choice.load_fastest(toy_bundle, 1, "onnxruntime")
    again = Engine(toy_bundle.graph, toy_bundle.info.specification, 1)
    assert 0.05 < choice._best(engine, again, np.zeros((1, 1, 16, 16), np.uint8)) < 20


def test_without_openvino_it_is_not_tried(
    toy_bundle: Bundle, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "installed", lambda: False)
    assert len(choice.load_fastest(toy_bundle, 1)(pixels).probabilities) == 5
    assert choice._ratios == {}
    with pytest.raises(ConfigError, match="uv sync --group openvino"):
        choice.load_fastest(toy_bundle, 1, "openvino")


def test_an_engine_that_fails_is_not_taken_for_a_successor_either(
    toy_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> Run:
        raise ModelError("no")

    monkeypatch.setattr(choice, "installed", lambda: True)
    monkeypatch.setattr(choice, "_best", lambda *_: 2.0)
    for backend, taken in (
        (broken, "onnxruntime"),
        (other_engine("none", 1), "other_engine"),
        (broken, "onnxruntime"),
        (other_engine("logits", np.nan), "onnxruntime"),
    ):
        monkeypatch.setattr(choice, "openvino", backend)
        assert engine_of(choice.load_fastest(toy_bundle, 1)) == taken


@pytest.mark.parametrize("broken", ["import _lacking", "raise OSError('libtbb.so.12: no file')"])
def test_an_installation_that_is_broken_leaves_the_usual_engine(
    toy_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, broken: str
) -> None:
    (tmp_path / "openvino.py").write_text(broken, encoding="utf-8")
    monkeypatch.delitem(sys.modules, "openvino", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    assert installed()
    assert engine_of(choice.load_fastest(toy_bundle, 1)) == "onnxruntime"
    with pytest.raises(ModelError, match="OpenVINO cannot be loaded"):
        choice.load_fastest(toy_bundle, 1, "openvino")


def test_whole_numbers_are_for_onnx_runtime_alone(
    make_bundle: Callable[..., Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    twin = make_bundle(tmp_path / "twin", precision="int8")
    asked = []
    monkeypatch.setattr(choice, "installed", lambda: True)
    monkeypatch.setattr(choice, "openvino", lambda *_: asked.append(1))
    choice.load_fastest(twin, 1, "openvino")
    choice.load_fastest(twin, 1, "auto")
    assert asked == []
