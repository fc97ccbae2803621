"""The faster engine answers, the answers stay the same, and what is asked for is had."""

import numpy as np
import pytest

from pulmo.core.bundle import Bundle
from pulmo.errors import ConfigError, ModelError
from pulmo.inference import choice
from pulmo.inference.engine import Engine, onnxruntime
from pulmo.inference.openvino import installed, openvino

needs_openvino = pytest.mark.skipif(not installed(), reason="OpenVINO is not installed")


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "_known", {})


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


@needs_openvino
def test_the_choice_is_made_once_for_a_kind_of_graph(
    toy_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    ratios = iter([2.0])
    monkeypatch.setattr(choice, "_best", lambda *_: next(ratios))
    choice.load_fastest(toy_bundle, 1)
    choice.load_fastest(toy_bundle, 1)
    assert list(choice._known.values()) == [openvino]


@needs_openvino
@pytest.mark.parametrize(("ratio", "gap"), [(1.14, 0.0), (3.0, 2e-4)])
def test_the_usual_engine_stays_where_the_other_gains_little_or_differs(
    toy_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, ratio: float, gap: float
) -> None:
    monkeypatch.setattr(choice, "_best", lambda *_: ratio)
    monkeypatch.setattr(choice, "_gap", lambda *_: gap)
    choice.load_fastest(toy_bundle, 1)
    assert list(choice._known.values()) == [onnxruntime]


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
    assert choice._known == {}
    with pytest.raises(ConfigError, match="uv sync --group openvino"):
        choice.load_fastest(toy_bundle, 1, "openvino")


@needs_openvino
def test_an_engine_that_fails_is_not_taken(
    toy_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ModelError("no")

    monkeypatch.setattr(choice, "openvino", broken)
    choice.load_fastest(toy_bundle, 1)
    assert list(choice._known.values()) == [onnxruntime]
