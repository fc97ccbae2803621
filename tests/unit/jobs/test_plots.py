"""Figures: real pictures, the same bytes every time, and errors that say what is missing."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pulmo.errors import DataError
from pulmo.jobs import plots

ROC = {"fpr": [0.0, 0.1, 1.0], "tpr": [0.0, 0.8, 1.0]}
PR = {"recall": [0.0, 0.8, 1.0], "precision": [1.0, 0.9, 0.5]}
RELIABILITY = {"confidence": [0.1, 0.6], "frequency": [0.2, 0.5], "count": [10.0, 30.0]}
SCORES = {"WELL": np.array([0.1, 0.2]), "SICK": np.array([0.8, 0.9, 0.9])}
TABLE = """epoch,step,train_loss,val_loss,val_auroc
0,0,0.9,,
0,9,0.7,,
0,9,,0.6,0.8
1,19,0.5,nan,
1,19,,0.4,0.9
"""


def _image(png: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(png))
    image.load()
    return image.convert("RGB")


def _share(png: bytes, colour: str) -> float:
    """The share of pixels that have exactly this colour."""
    wanted = tuple(bytes.fromhex(colour[1:]))
    return float((np.asarray(_image(png)) == wanted).all(axis=-1).mean())


DRAWN = {
    "roc": lambda: plots.roc(ROC, 0.91),
    "roc without area": lambda: plots.roc(ROC, None),
    "pr": lambda: plots.precision_recall(PR, 0.9, 0.5),
    "pr of many classes": lambda: plots.precision_recall(PR, 0.9, None),
    "reliability": lambda: plots.reliability(RELIABILITY, 0.05),
    "histogram": lambda: plots.histogram(SCORES, "probability", 0.5, (0.4, 0.6)),
    "histogram without band": lambda: plots.histogram(SCORES, "probability", None, (0.0, 0.0)),
}


@pytest.mark.parametrize("name", DRAWN)
def test_a_figure_is_a_picture_with_a_line_and_the_same_twice(name: str) -> None:
    png = DRAWN[name]()
    assert _image(png).size == (484, 462)
    assert _share(png, plots.BLUE) > 0.0005
    assert png == DRAWN[name]()
    assert b"Software" not in png


@pytest.mark.parametrize("classes", [2, 4, 10, 40])
def test_a_confusion_matrix_is_darkest_where_the_answers_lie(classes: int) -> None:
    counts = np.eye(classes, dtype=np.int64) * 9
    right = plots.confusion(counts, [f"a class of long name {i}" for i in range(classes)])
    empty = plots.confusion(counts * 0, [f"a class of long name {i}" for i in range(classes)])
    assert np.asarray(_image(right)).mean() < np.asarray(_image(empty)).mean()


def test_training_curves_draw_loss_and_ranking(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(TABLE)
    plots.training_curves(tmp_path / "metrics.csv", tmp_path / "curves.png")
    png = (tmp_path / "curves.png").read_bytes()
    assert _share(png, plots.BLUE) > 0.001
    assert _share(png, plots.ORANGE) > 0.0005
    assert plots._column(tmp_path / "metrics.csv", "train_loss") == {0: 0.7, 1: 0.5}
    assert plots._column(tmp_path / "metrics.csv", "val_loss") == {0: 0.6, 1: 0.4}


def test_a_column_that_is_not_there_is_not_drawn(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("epoch,step,train_loss\n0,1,0.5\n1,2,0.4\n")
    plots.training_curves(tmp_path / "metrics.csv", tmp_path / "curves.png")
    png = (tmp_path / "curves.png").read_bytes()
    assert _share(png, plots.ORANGE) > 0.0005
    assert _share(png, plots.BLUE) == 0


@pytest.mark.parametrize("text", [None, "", "epoch,step\n", "epoch,train_loss\nx,0.5\n"])
def test_a_table_without_curves_is_refused(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "metrics.csv").write_text(text)
    with pytest.raises(DataError, match=r"metrics\.csv"):
        plots.training_curves(tmp_path / "metrics.csv", tmp_path / "curves.png")


def test_drawing_leaves_matplotlib_as_it_was() -> None:
    code = (
        "import sys; from pulmo.jobs import plots\n"
        "assert 'matplotlib' not in sys.modules\n"
        "plots.roc({'fpr': [0, 1], 'tpr': [0, 1]}, 0.5)\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
