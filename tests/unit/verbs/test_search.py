"""`sweep` from the command line."""

import json
from collections.abc import Callable

import pytest

pytest.importorskip("optuna")

Cli = Callable[..., tuple[int, str, str]]

TINY = (
    "data=phantom",
    "debug=fast",
    "data.phantom.images=80",
    "data.phantom.size=32",
    "model.options.width=4",
    "trainer.accelerator=cpu",
)


def test_a_sweep_tells_its_best_settings(cli: Cli) -> None:
    assert cli("data", *TINY)[0] == 0
    code, out, _ = cli("sweep", *TINY, "sweep.trials=1")
    assert code == 0
    assert "recipe.learning_rate=" in out
    assert "val_auroc " in out
    assert "phantom-demo-finetune.yaml to configs/experiment" in out
    code, out, _ = cli("sweep", *TINY, "sweep.trials=1", "--json")
    assert code == 0
    assert json.loads(out)["counts"] == {"complete": 1}


def test_many_values_on_train_lead_to_the_sweep(cli: Cli) -> None:
    code, _, err = cli("train", "-m", "recipe.learning_rate=0.1,0.2")
    assert code == 2
    assert "pulmo sweep" in err
