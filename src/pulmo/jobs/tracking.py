"""What a tracking service is told of one training run: configuration, figures, plots and card."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pulmo.core.bundle import CARD, Bundle
from pulmo.jobs import plots, run_folder

if TYPE_CHECKING:
    from pulmo.models.tracking import Tracker

CURVES = "curves.png"


@contextmanager
def followed(tracker: "Tracker | None", run_dir: Path) -> Iterator[None]:
    """Tell that the run in `run_dir` goes on, and how it ended."""
    if tracker is None:
        yield
        return
    origin = run_folder.read_lineage(run_dir)
    facts = {"data_digest": origin.data_digest, "commit": origin.commit, "clean": origin.clean}
    known = run_folder.tracked(run_dir, tracker.kind)
    tracker.begin(run_dir, known, {**origin.configuration, "origin": facts})
    _note(tracker, run_dir)
    try:
        yield
    except BaseException as error:
        stopped = isinstance(error, SystemExit | KeyboardInterrupt)
        tracker.finish("stopped" if stopped else "failed")
        raise
    tracker.finish("done")
    _note(tracker, run_dir)  # what was kept is known now


def tell(tracker: "Tracker", run_dir: Path, bundle: Bundle) -> None:
    """Tell what came out: digest, metrics with their intervals, plots, model card."""
    info = bundle.info
    tracker.configure({"model_digest": info.model_digest, "bundle_digest": bundle.digest})
    tracker.log_metrics(figures(bundle))
    for name, png in drawn(run_dir, bundle).items():
        tracker.picture(name, png)
    tracker.text(CARD, (bundle.path / CARD).read_text(encoding="utf-8"))


def figures(bundle: Bundle) -> dict[str, float]:
    """`val/auroc`, `val/auroc_low`, `val/auroc_high` …: what is defined of every metric."""
    found = {}
    for split, values in bundle.info.metrics.items():
        for name, estimate in values.items():
            ends = {"": estimate.value, "_low": estimate.low, "_high": estimate.high}
            told = {f"{split}/{name}{end}": x for end, x in ends.items() if x is not None}
            found.update(told)
    return found


def drawn(run_dir: Path, bundle: Bundle) -> dict[str, bytes]:
    """The plots of a run as PNG: its training, and its model on validation data."""
    curves, values = bundle.info.curves, bundle.info.metrics["val"]
    found = {"training": (run_dir / CURVES).read_bytes()}
    if "roc" in curves:
        found["roc"] = plots.roc(curves["roc"], values["auroc"].value)
        found["precision_recall"] = plots.precision_recall(
            curves["pr"], values["auprc"].value, None
        )
    if "reliability" in curves:
        found["reliability"] = plots.reliability(curves["reliability"], values["ece"].value)
    return found


def _note(tracker: "Tracker", run_dir: Path) -> None:
    if tracker.version is not None:
        told = {"kind": tracker.kind, "id": tracker.version, "where": tracker.where}
        run_folder.update(run_dir, tracking=told)
