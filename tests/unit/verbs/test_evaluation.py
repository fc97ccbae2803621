"""The verb that measures, on toy models and a toy data set."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from pulmo.core.bundle import Bundle

Cli = Callable[..., tuple[int, str, str]]

SETUP = (
    "data=folder",
    "evaluate.resamples=100",
    "evaluate.robustness=4",
    "doctor.allow_errors=true",
)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Dark and bright pictures, a class folder each, all of them for the test split."""
    for i in range(24):
        for label, level in (("DARK", 20 + 4 * i), ("BRIGHT", 140 + 4 * i)):
            path = tmp_path / "pictures" / "test" / label / f"p{i}_{label}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (16, 16), level).save(path)
    return tmp_path / "pictures"


@pytest.fixture
def prepared(cli: Cli, pictures: Path) -> Path:
    code, _, err = cli(
        "data",
        "data=folder",
        f"data.root={pictures}",
        "data.channels=1",
        "doctor.allow_errors=true",
    )
    assert code == 0, err
    return pictures


def test_a_model_is_measured_beside_another_data_set(
    cli: Cli, prepared: Path, make_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    make_bundle(tmp_path / "a")
    asked = ("evaluate", *SETUP, "--model", "./a", "--split", "test", "--out", "here")
    code, out, err = cli(*asked, "--external", prepared / "test", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert list(found["splits"]) == ["test"]
    assert found["external"]["counts"]["pictures"] == 48
    assert found["external"]["data"]["name"] == "external-test"
    assert found["robustness"]["pictures"] == 4
    assert json.loads((tmp_path / "here" / "metrics.json").read_text()) == {
        key: value for key, value in found.items() if key != "out"
    }
    code, out, _ = cli(*asked, "evaluate.robustness=0", "--external", "external-test")
    assert code == 0
    assert out.split()[:4] == ["test", "value", "low", "high"]
    assert "external-test" in out
    assert "report  here/report.html" in out


def test_two_models_are_compared(
    cli: Cli, prepared: Path, make_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    make_bundle(tmp_path / "a")
    make_bundle(tmp_path / "b", weights=b"others")
    code, out, err = cli("evaluate", *SETUP, "--compare", "./a", "./b", "--out", "here")
    assert code == 0, err
    assert out.split()[:6] == ["test", "./a", "./b", "A", "-", "B"]
    assert "McNemar  p 1: 0 pictures only A gets right, 0 only B" in out
    assert "DeLong   AUROC +0.0000" in out
    assert (tmp_path / "here" / "comparison.html").is_file()
    code, out, _ = cli("evaluate", *SETUP, "--compare", "./a", "./b", "--json")
    assert code == 0
    assert json.loads(out)["mcnemar"]["p"] == 1.0


def test_a_comparison_takes_no_other_model(cli: Cli) -> None:
    code, _, err = cli("evaluate", "--compare", "a:latest", "b:latest", "--model", "a:latest")
    assert (code, "--compare takes one --split" in err) == (2, True)


def test_what_was_never_trained_cannot_be_evaluated(cli: Cli) -> None:
    code, _, err = cli("evaluate", "data=phantom")
    assert (code, "no finished run of phantom-demo" in err) == (1, True)
    code, _, err = cli("evaluate", "--model", "no/such/folder")
    assert (code, "no/such/folder is no folder" in err) == (1, True)


def test_a_data_set_that_is_not_there_is_no_external_one(
    cli: Cli, prepared: Path, make_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    make_bundle(tmp_path / "a")
    code, _, err = cli("evaluate", *SETUP, "--model", "./a", "--external", "nowhere")
    assert (code, "there is no data set 'nowhere'" in err) == (1, True)
