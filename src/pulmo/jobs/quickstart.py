"""The whole loop on one machine: data, training, gate, promotion, a refusal and a rollback.

Every step looks at what is already there, so that a second run, or one after a kill, goes on
from where the first one stopped.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pulmo.config.schema import Config
from pulmo.config.settings import Settings
from pulmo.core.bundle import WEIGHTS, Bundle, model_digest, verify
from pulmo.core.ports import PRODUCTION, ModelRef, Registry, Version
from pulmo.data.manifest import DataSet
from pulmo.errors import RefusedError
from pulmo.jobs import release, run_folder
from pulmo.jobs.data import prepare
from pulmo.jobs.evaluate import evaluate
from pulmo.jobs.lineage import CHANGED
from pulmo.jobs.predict import predict
from pulmo.jobs.train import resume

if TYPE_CHECKING:
    from pulmo.models.tracking import Tracker

ACTOR = "quickstart"
PICTURES = 6

Say = Callable[[str], None]


@dataclass(frozen=True)
class Summary:
    """What the loop left behind."""

    production: Version
    refused: Version
    retrained: Version
    report: Path
    overlays: Path
    lines: tuple[str, ...]


def quickstart(
    config: Config,
    settings: Settings,
    registry: Registry,
    say: Say,
    tracker: "Tracker | None" = None,
) -> Summary:
    """Run the loop for the configured data set; `say` is told each step as it begins."""
    root = Path(config.run.root) / f"quickstart-{config.registry.name}"
    say(f"1  data: {config.data.name}")
    dataset = prepare(config, settings.data_dir).dataset
    say("2  train the first model")
    first = _trained(config, settings, root / "first", tracker)
    say("3  evaluate it on validation and test")
    report = _evaluated(first, dataset, config, root / "first" / "evaluation")
    say("4  register it, stage it, test it; promote it if it passes")
    champion = _released(registry, root / "first", config, settings)
    say(f"5  predict {PICTURES} test pictures with {champion.label}")
    overlays = _predicted(registry, champion, dataset, root / "overlays")
    say("6  stage a spoilt model: the gate must refuse it")
    refused = _refused(registry, _spoilt(first, config, root / "spoilt"), config, settings)
    say("7  retrain with another seed, stage it: an equal model may follow")
    again = config.model_copy(update={"seed": config.seed + 1})
    _trained(again, settings, root / "second", tracker)
    retrained = _released(registry, root / "second", config, settings)
    say("8  roll back to the first model")
    production = _rolled_back(registry, champion)
    refused, retrained = (
        registry.get(ModelRef(version.name, version=version.number))  # with its aliases of now
        for version in (refused, retrained)
    )
    return Summary(production, refused, retrained, report, overlays, _next(config, production))


def _trained(config: Config, settings: Settings, folder: Path, tracker: "Tracker | None") -> Bundle:
    """The bundle of the run in `folder`, which is begun, gone on with or found finished."""
    placed = config.model_copy(update={"run": config.run.model_copy(update={"dir": str(folder)})})
    return resume(placed, settings.data_dir, tracker).bundle


def _evaluated(bundle: Bundle, dataset: DataSet, config: Config, out: Path) -> Path:
    report = out / "report.html"
    if not report.is_file():
        evaluate(bundle, dataset, ("val", "test"), out, config.evaluate)
    return report


def _released(registry: Registry, run: Path, config: Config, settings: Settings) -> Version:
    """Register and stage a run, unless its model was promoted before."""
    version = release.resolve(registry, str(run), actor=ACTOR)
    promoted = {m.after for m in registry.history(version.name) if m.action == "promote"}
    if version.number not in promoted:
        release.stage(
            registry, version.label, config, settings, actor=ACTOR, reason="the quickstart's loop"
        )
    return version


def _predicted(registry: Registry, version: Version, dataset: DataSet, out: Path) -> Path:
    """Overlays of a few test pictures, spread over the split."""
    rows = [row for row in dataset.manifest.rows if row.split == "test"]
    chosen = [rows[i] for i in np.linspace(0, len(rows) - 1, PICTURES).round().astype(int)]
    bundle = verify(registry.fetch(ModelRef(version.name, version=version.number)))
    for _ in predict(bundle, [str(dataset.root / row.path) for row in chosen], overlay=out):
        pass
    return out


def _spoilt(bundle: Bundle, config: Config, folder: Path) -> Path:
    """A bundle with the first model's body and a head of noise: what a broken job might upload."""
    import torch

    from pulmo.jobs.bundling import publish
    from pulmo.models.export import from_weights, to_graph, to_weights

    target = folder / run_folder.BUNDLE
    if target.is_dir():
        return target
    info = bundle.info
    specification = info.specification
    network = from_weights((bundle.path / WEIGHTS).read_bytes(), specification)
    generator = torch.Generator().manual_seed(config.seed)
    with torch.no_grad():
        network.head.weight.copy_(torch.randn(network.head.weight.shape, generator=generator))
    graph = to_graph(network, specification.temperature, specification.input)
    weights = to_weights(network)
    note = f"{CHANGED}: its head was replaced by noise to show that the gate refuses it"
    spoilt = info.model_copy(
        update={
            "model_digest": model_digest(graph, weights, specification),
            "lineage": info.lineage.model_copy(update={"notes": (note,)}),
        }
    )
    run_folder.discard(folder)
    publish(
        target,
        graph=graph,
        weights=weights,
        reference=bundle.reference(),
        members=bundle.members(),
        info=spoilt,
        card=f"# {info.name}, spoilt\n\nNever use this model: {note}.\n",
    )
    return target


def _refused(registry: Registry, folder: Path, config: Config, settings: Settings) -> Version:
    """Stage a model that must fail; a pass means that the gate is broken."""
    version = release.resolve(registry, str(folder), actor=ACTOR)
    seen = registry.verdicts(version.name, version.model_digest)
    if seen and not seen[-1].passed:
        return version
    try:
        release.stage(
            registry, version.label, config, settings, actor=ACTOR, reason="a spoilt model"
        )
    except RefusedError:
        return version
    raise RefusedError(f"the gate let a spoilt model pass: {version.label}; look at its limits")


def _rolled_back(registry: Registry, champion: Version) -> Version:
    production = ModelRef(champion.name, alias=PRODUCTION)
    if registry.get(production).number != champion.number:
        reason = "the quickstart shows the way back"
        registry.rollback(champion.name, to=champion.number, actor=ACTOR, reason=reason)
    return registry.get(production)


def _next(config: Config, production: Version) -> tuple[str, ...]:
    data = f"data={config.data.name}"
    return (
        f"pulmo registry history {production.name}",
        f"pulmo predict PICTURE --model {production.name}:{PRODUCTION}",
        f"pulmo train {data} --stage",
        "pulmo data data=folder data.root=/path/to/pictures registry.name=my-task",
    )
