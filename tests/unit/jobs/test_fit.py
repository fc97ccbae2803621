"""Training: the same weights however often it was stopped, and no weights from a bad run."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pulmo.config.compose import compose
from pulmo.config.schema import Config
from pulmo.core.bundle import NetworkSpec
from pulmo.data.cache import open_pixels
from pulmo.data.manifest import DataSet
from pulmo.errors import DataError, ModelError, UntrainableError
from pulmo.jobs import fit as job
from pulmo.jobs.data import prepare
from pulmo.jobs.train import input_spec
from pulmo.models.catalog import build
from pulmo.models.checkpoint import Stopped
from pulmo.models.export import to_weights
from pulmo.models.module import Batch, ClassifierModule

TINY = (
    "data=phantom",
    "debug=fast",
    "data.phantom.images=80",
    "data.phantom.size=32",
    "model.options.width=4",
    "trainer.max_epochs=2",
    "trainer.batch_size=16",
    "trainer.accelerator=cpu",
)

PARTIAL = ("recipe=partial", "model=small_cnn", "recipe.views=2", "trainer.max_epochs=1")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    return prepare(compose(TINY), tmp_path_factory.mktemp("data")).dataset


@pytest.fixture
def fit(dataset: DataSet, tmp_path: Path) -> Callable[..., bytes]:
    """`fit("one", "seed=1")`: train in the folder `one` and give the weights."""

    def train(folder: str, *overrides: str) -> bytes:
        config = compose((*TINY, *overrides))
        (tmp_path / folder).mkdir(exist_ok=True)
        pixels = open_pixels(dataset, input_spec(config))
        return to_weights(job.fit(config, dataset, pixels, tmp_path / folder))

    return train


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Send this process a SIGTERM while it works on one step."""
    plain = ClassifierModule.training_step

    def training_step(self: ClassifierModule, batch: Batch, batch_idx: int) -> Tensor:
        if self.global_step == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(self, batch, batch_idx)

    monkeypatch.setattr(ClassifierModule, "training_step", training_step)


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("recipe.ema=0.8", "trainer.checkpoint_every=2", "trainer.patience=1"),
        ("recipe=probe", "model=small_cnn", "recipe.views=2", "trainer.max_epochs=3"),
        (*PARTIAL, "trainer.max_epochs=2", "trainer.batch_size=28", "recipe.ema=0.8"),
    ],
    ids=["finetune", "average", "probe", "partial"],
)
def test_a_run_stopped_at_every_step_ends_as_an_unbroken_one(
    fit: Callable[..., bytes], tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    unbroken = fit("unbroken", *overrides)
    step, codes = 0, []
    while True:
        with pytest.MonkeyPatch.context() as patch:
            stop_at(patch, step)
            try:
                found = fit("broken", *overrides)
            except Stopped as stopped:
                codes.append(stopped.code)
            else:
                break
        step += 1
    assert len(codes) >= 6
    assert set(codes) == {143}
    assert found == unbroken
    tables = [(tmp_path / name / "metrics.csv").read_text() for name in ("broken", "unbroken")]
    assert tables[0] == tables[1]
    assert len(list((tmp_path / "broken" / "checkpoints").iterdir())) == 2
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    "overrides",
    [("recipe.ema=0.8",), ("recipe=probe", "model=small_cnn"), PARTIAL],
    ids=["finetune", "probe", "partial"],
)
def test_every_recipe_trains_in_mixed_precision(
    fit: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch, overrides: tuple[str, ...]
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)  # else it is refused
    full = fit("full", *overrides)
    assert fit("mixed", *overrides, "trainer.precision=bf16-mixed") != full


def test_a_finished_training_is_not_repeated(
    fit: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    once = fit("one")

    def training_step(*_: object) -> None:
        raise AssertionError("no step is left")

    monkeypatch.setattr(ClassifierModule, "training_step", training_step)
    assert fit("one") == once


def test_early_stopping_survives_a_kill_after_its_last_epoch(
    fit: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    patient = ("trainer.max_epochs=9", "trainer.patience=1", "recipe.learning_rate=0.3")
    once = fit("one", *patient)

    def training_step(*_: object) -> None:
        raise AssertionError("the training was over")

    monkeypatch.setattr(ClassifierModule, "training_step", training_step)
    assert fit("one", *patient) == once


def test_an_averaged_training_gives_other_weights(fit: Callable[..., bytes]) -> None:
    assert fit("plain") != fit("averaged", "recipe.ema=0.9")


def test_a_partial_training_leaves_what_is_frozen_as_it_was(
    dataset: DataSet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = compose((*TINY, *PARTIAL))
    pixels = open_pixels(dataset, input_spec(config))
    trained = job.fit(config, dataset, pixels, tmp_path).state_dict()
    job._make_deterministic(config)
    spec = NetworkSpec(architecture="small_cnn", options=config.model.options)
    classes, channels = len(dataset.manifest.classes), config.data.channels
    begun = build(spec, channels=channels, classes=classes, weights=None).state_dict()
    changed = {name for name in begun if not torch.equal(begun[name], trained[name])}
    thawed = {name for name in begun if name.startswith(("body.8", "body.9", "body.12", "body.13"))}
    assert changed == {"head.weight", "head.bias"} | thawed
    assert "recipe=partial on random weights learns little" in caplog.text


def test_equal_seeds_give_equal_partial_trainings(fit: Callable[..., bytes]) -> None:
    once = fit("one", *PARTIAL)
    assert fit("two", *PARTIAL) == once
    assert fit("three", *PARTIAL, "seed=1") != once
    assert fit("four", *PARTIAL, "recipe.thaw=1") != once


def test_a_network_whose_stages_are_unknown_is_refused(fit: Callable[..., bytes]) -> None:
    with pytest.raises(ModelError, match="take recipe=probe or recipe=finetune"):
        fit("one", *PARTIAL, "model.architecture=resnetv2_18", "~model.options.width")


def test_a_loss_that_is_not_finite_stops_the_run(
    fit: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ClassifierModule, "_loss", lambda *_: torch.tensor(float("nan")))
    with pytest.raises(UntrainableError, match="the loss is nan at step 0: nothing is kept"):
        fit("one")


def test_a_gradient_that_is_not_finite_stops_the_run(
    fit: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain: Callable[..., Tensor] = ClassifierModule._loss

    def loss(self: Any, logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
        if logits.requires_grad and self.global_step == 1:
            logits.register_hook(lambda gradient: gradient * float("inf"))
        return plain(self, logits, labels, smoothing)

    monkeypatch.setattr(ClassifierModule, "_loss", loss)
    with pytest.raises(UntrainableError, match=r"gradient's norm is .* at step 1"):
        fit("one")


def test_a_validation_loss_that_is_never_finite_gives_no_weights(
    fit: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain: Callable[..., Tensor] = ClassifierModule._loss

    def loss(self: Any, logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
        value = plain(self, logits, labels, smoothing)
        return value if self.trainer.training else value * float("nan")

    monkeypatch.setattr(ClassifierModule, "_loss", loss)
    with pytest.raises(UntrainableError, match="no epoch gave a finite validation loss"):
        fit("one")


def test_a_disk_without_room_is_told_before_the_start(
    fit: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    full = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda _: full)
    with pytest.raises(DataError, match=r"three checkpoints and a bundle need about"):
        fit("one")


@pytest.mark.parametrize("name", ["simple", "pytorch"])
def test_a_profile_is_one_override_away(
    fit: Callable[..., bytes], tmp_path: Path, name: str
) -> None:
    fit("one", f"trainer.profiler={name}", "trainer.max_epochs=1")
    assert list((tmp_path / "one").glob("*profile*"))


def test_a_class_without_pictures_and_an_empty_split_are_told(
    dataset: DataSet, tmp_path: Path
) -> None:
    config: Config = compose(TINY)
    pixels = open_pixels(dataset, input_spec(config))
    with pytest.raises(DataError, match="no pictures in its split 'nowhere'"):
        job.samples(dataset, pixels, "nowhere")
    train = job.samples(dataset, pixels, "train")
    with pytest.raises(DataError, match="no training picture shows THIRD"):
        job._class_shares(train.labels, (*dataset.manifest.classes, "THIRD"))


def test_a_gpu_that_is_not_there_is_told(
    fit: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ModelError, match="torch sees no GPU"):
        fit("one", "trainer.accelerator=gpu")
