"""A profile of either recipe: traces that Perfetto reads, and a table that names the bottleneck."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

DATA = ("data=phantom", "data.phantom.images=200", "data.phantom.size=64")
RECIPES = {
    "probe": ("recipe=probe", "model.image_size=64", "trainer.max_epochs=3"),
    "finetune": ("debug=fast", "trainer.batch_size=8"),
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_profile_names_the_bottleneck(
    tmp_path: Path, pulmo: Callable[..., Any], tell: Callable[[str], None], recipe: str
) -> None:
    pulmo(tmp_path, "data", *DATA)
    given = (*DATA, *RECIPES[recipe], "trainer.accelerator=cpu", "profiler=pytorch", "run.dir=run")
    said = pulmo(tmp_path, "train", *given).stderr
    folder = tmp_path / "run/profile"
    traces = {path.stem for path in folder.glob("*.json")}
    assert traces == ({"embedding", "training"} if recipe == "probe" else {"training"})
    for name in traces:
        events = json.loads((folder / f"{name}.json").read_text("utf-8"))["traceEvents"]
        whole = [one for one in events if one.get("ph") == "X"]  # slices: a time and a duration
        assert len(whole) > 50
        assert all(one["ts"] >= 0 and one["dur"] >= 0 for one in whole)
        named = {str(one["name"]) for one in whole}
        assert any("backward" in one for one in named) or name == "embedding"
        assert any(one.startswith("aten::") for one in named)
    lines = [line for line in said.splitlines() if line.startswith("bottleneck of the")]
    assert len(lines) == len(traces)
    table = (folder / "profile.txt").read_text("utf-8")
    assert all(line in table for line in lines)
    tell("\n".join(lines))
