"""Twelve faults of machine learning in otherwise whole bundles: a staged test names each.

Every fault is real: networks are trained on data that are wrong, or a sound bundle is changed and
summed up again, so that all its digests are right. The suite is the one that guards production.
"""

import contextlib
import dataclasses
import multiprocessing
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pulmo.config.compose import compose
from pulmo.config.schema import Config
from pulmo.config.settings import Settings
from pulmo.core.bundle import WEIGHTS, Bundle, model_digest, sha256, verify, write
from pulmo.core.ports import Check
from pulmo.data.cache import open_pixels
from pulmo.data.manifest import DataSet, Manifest, Row, load, store

NAME = "phantom-demo"
PROCESSES = 2
SOUND = "none"


def configured(home: Path, *more: str) -> Config:
    return compose(
        [
            "data=phantom",
            "data.phantom.images=700",
            "data.phantom.size=32",
            "data.phantom.noise=0.2",
            "model=small_cnn",
            "model.image_size=32",
            "model.options.width=12",
            "recipe=finetune",
            "trainer.max_epochs=6",
            "trainer.threads=1",
            "trainer.accelerator=cpu",
            "evaluate.resamples=100",
            "gate.min_per_class=10",
            "gate.resamples=200",
            "gate.ece=0.3",
            "gate.nonsense=0.3",
            "gate.direction=0.5",
            "gate.grey_gain=0.2",
            "gate.above_baseline=-0.1",
            f"run.root={home / 'runs'}",
            *more,
        ]
    )


@dataclass(frozen=True)
class Bench:
    """One phantom, one sound model, and what a fault is made with."""

    home: Path

    @property
    def settings(self) -> Settings:
        return Settings(
            data_dir=self.home / "data",
            registry_url=f"sqlite:///{self.home / 'registry.db'}",
            files_url=str(self.home / "bundles"),
        )

    @property
    def data(self) -> DataSet:
        return load(self.home / "data", "phantom")

    @property
    def sound(self) -> Bundle:
        return verify(self.home / "runs/sound/bundle")

    def network(self, bundle: Bundle) -> Any:
        from pulmo.models.export import from_weights

        return from_weights((bundle.path / WEIGHTS).read_bytes(), bundle.info.specification)

    def trained(
        self,
        name: str,
        change: Callable[[Row], Row] = lambda row: row,
        repaint: Callable[[np.ndarray], np.ndarray] | None = None,
        *more: str,
    ) -> Bundle:
        """A model trained on a changed copy of the data: other rows, or other cached pixels."""
        from pulmo.jobs.train import input_spec, train

        manifest = self.data.manifest
        # Other patients' names give another digest: equal data sets would share their pixels.
        rows = tuple(
            dataclasses.replace(change(row), patient=f"{name}/{row.patient}")
            for row in manifest.rows
        )
        copy = Manifest(name, manifest.classes, manifest.channels, rows)
        dataset = store(copy, self.data.root, self.home / "data")
        config = configured(
            self.home, f"data.name={name}", f"run.dir={self.home / 'runs' / name}", *more
        )
        if repaint is not None:
            pixels = repaint(np.array(open_pixels(dataset, input_spec(config))))
            (path,) = dataset.folder.glob("pixels-*.npy")
            np.save(path, pixels)
            path.with_suffix(".sha256").write_text(f"{sha256(path.read_bytes())}\n", "ascii")
        return train(config, self.home / "data").bundle

    def changed(
        self,
        name: str,
        *,
        network: Any = None,
        graph_only: bool = False,
        origin: Bundle | None = None,
        **specification: Any,
    ) -> Bundle:
        """The sound bundle with another network or specification, all digests made anew."""
        from pulmo.models.export import to_graph, to_weights

        sound = origin or self.sound
        spec = sound.info.specification.model_copy(update=specification)
        graph, weights = sound.graph, (sound.path / WEIGHTS).read_bytes()
        if network is not None:
            graph = to_graph(network, spec.temperature, spec.input)
            weights = weights if graph_only else to_weights(network)
        digest = model_digest(graph, weights, spec)
        return write(
            self.home / "faulty" / name,
            graph=graph,
            weights=weights,
            reference=sound.reference(),
            members=sound.members(),
            info=sound.info.model_copy(update={"specification": spec, "model_digest": digest}),
            card="# faulty\n",
        )


def labels_swapped(bench: Bench) -> Bundle:
    other = dict(zip(bench.data.manifest.classes, bench.data.manifest.classes[::-1], strict=True))
    return bench.trained("swapped", lambda row: dataclasses.replace(row, label=other[row.label]))


def preprocessing_changed(bench: Bench) -> Bundle:
    def stretched(pixels: np.ndarray) -> np.ndarray:
        low = pixels.min(axis=(1, 2, 3), keepdims=True).astype(np.float64)
        high = pixels.max(axis=(1, 2, 3), keepdims=True)
        halved: np.ndarray = ((pixels - low) / np.maximum(high - low, 1) * 127).astype(np.uint8)
        return halved

    return bench.trained("stretched", repaint=stretched)


def class_order_swapped(bench: Bench) -> Bundle:
    return bench.changed("order", classes=bench.sound.info.specification.classes[::-1])


def temperature_lost(bench: Bench) -> Bundle:
    return bench.changed("temperature", network=bench.network(bench.sound), temperature=1.0)


def leaked_test(bench: Bench) -> Bundle:
    def leak(row: Row) -> Row:
        return dataclasses.replace(row, split="train") if row.split == "test" else row

    return bench.trained("leaked", leak)


def trained_on_blank_images(bench: Bench) -> Bundle:
    return bench.trained("blank", repaint=np.zeros_like)


def threshold_from_test(bench: Bench) -> Bundle:
    from pulmo.core.calibration import threshold
    from pulmo.inference.engine import load as engine

    sound = bench.sound
    spec = sound.info.specification
    rows = [i for i, row in enumerate(bench.data.manifest.rows) if row.split == "test"]
    truth = [bench.data.manifest.rows[i].label == spec.decision.positive for i in rows]
    pixels = np.ascontiguousarray(open_pixels(bench.data, spec.input)[rows])
    scores = engine(sound)(pixels).probabilities[:, spec.classes.index("PNEUMONIA")]
    chosen = threshold(scores, np.array(truth), "balanced_accuracy")
    return bench.changed(
        "threshold", decision=spec.decision.model_copy(update={"threshold": chosen})
    )


def stale_normalisation(bench: Bench) -> Bundle:
    network = bench.network(bench.sound)
    network.mean.fill_(0.1307)  # that of another data set
    network.std.fill_(0.3081)
    return bench.changed("stale", network=network)


def one_class_dropped(bench: Bench) -> Bundle:
    kept: list[str] = []

    def drop(row: Row) -> Row:
        if row.split != "train" or row.label != "PNEUMONIA":
            return row
        kept.append(row.path)  # none at all is refused by training itself
        return row if len(kept) <= 2 else dataclasses.replace(row, split="excluded")

    return bench.trained("dropped", drop)


def weights_of_another_epoch(bench: Bench) -> Bundle:
    early = bench.trained("early", lambda row: row, None, "trainer.max_epochs=2")
    return bench.changed("epoch", network=bench.network(early))


def quantised_badly(bench: Bench) -> Bundle:
    import torch

    network = bench.network(bench.sound)
    with torch.no_grad():
        for weight in network.parameters():
            step = weight.abs().max() / 3  # three bits
            weight.copy_((weight / step).round() * step)
    return bench.changed("quantised", network=network, graph_only=True)


def random_head(bench: Bench) -> Bundle:
    import torch

    network = bench.network(bench.sound)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        network.head.weight.copy_(torch.randn(network.head.weight.shape, generator=generator))
    return bench.changed("head", network=network)


# Each fault, and the words by which a failing test must call it.
FAULTS: dict[str, tuple[Callable[[Bench], Bundle], str]] = {
    "labels swapped": (labels_swapped, "labels were swapped"),
    "preprocessing changed": (preprocessing_changed, "preprocessing has changed"),
    "class order swapped": (class_order_swapped, "class order swapped"),
    "temperature lost": (temperature_lost, "temperature was lost"),
    "leaked test": (leaked_test, "leaked into training"),
    "trained on blank images": (trained_on_blank_images, "blank"),
    "threshold from test": (threshold_from_test, "threshold was chosen on other pictures, or on"),
    "stale normalisation": (stale_normalisation, "normalisation is stale"),
    "one class dropped": (one_class_dropped, "PNEUMONIA was dropped"),
    "weights of another epoch": (weights_of_another_epoch, "weights of another epoch"),
    "quantised badly": (quantised_badly, "quantised badly"),
    "random head": (random_head, "another head"),
}


def judged(home: Path, fault: str) -> list[Check]:
    """Make the fault, register it, run the staged tests on it in this process."""
    from pulmo.jobs.release import suite_folder
    from pulmo.jobs.staged import REF_VARIABLE, TERMS_VARIABLE, Terms
    from pulmo.jobs.verdict import read_junit
    from pulmo.wiring import open_registry

    bench = Bench(home)
    folder = home / "said" / fault.replace(" ", "-")
    folder.mkdir(parents=True)
    with (folder / "output.log").open("w") as log, contextlib.redirect_stdout(log):
        bundle = bench.sound if fault == SOUND else FAULTS[fault][0](bench)
        version = open_registry(bench.settings).register(bundle.path, actor="proof")
        config = configured(home)
        (folder / "terms.json").write_text(Terms.of(config).model_dump_json(), "utf-8")
        os.environ |= bench.settings.environment()
        os.environ[REF_VARIABLE] = f"{NAME}@{version.model_digest}"
        os.environ[TERMS_VARIABLE] = str(folder / "terms.json")
        pytest.main([str(suite_folder()), "-q", f"--junitxml={folder / 'junit.xml'}"])
    return read_junit(folder / "junit.xml", config.gate.required)


def test_every_injected_fault_is_caught_by_a_test_that_names_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forks = multiprocessing.get_context("fork")
    with forks.Pool(1) as first:
        first.apply(_prepare, (tmp_path,))
    import pulmo.jobs.bundling  # noqa: F401 - once, for all the forks

    with forks.Pool(PROCESSES, maxtasksperchild=1) as pool:
        tasks = [(tmp_path, fault) for fault in (SOUND, *FAULTS)]
        found = dict(zip((SOUND, *FAULTS), pool.starmap(judged, tasks, chunksize=1), strict=True))
    failed = {fault: [c for c in checks if not c.passed] for fault, checks in found.items()}
    named = {
        fault: [c.name for c in failed[fault] if words in f"{c.name}: {c.detail}"]
        for fault, (_, words) in FAULTS.items()
    }
    told = [f"sound model: {len(found[SOUND])} tests, {len(failed[SOUND])} failed"]
    for fault, names in named.items():
        told.append(f"{fault:25} {len(failed[fault]):2} failed; named by {', '.join(names) or '-'}")
    with capsys.disabled():
        print("", *told, sep="\n")  # noqa: T201 - the table is what this is for
    assert failed[SOUND] == []
    assert {fault: failed[fault] for fault, names in named.items() if not names} == {}


def _prepare(home: Path) -> None:
    """The phantom and the sound model."""
    from pulmo.jobs.data import prepare
    from pulmo.jobs.train import train

    config = configured(home, f"run.dir={home / 'runs/sound'}")
    prepare(config, home / "data")
    train(config, home / "data")
