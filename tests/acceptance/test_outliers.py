"""The X-ray model knows what it does not know: photographs are referred, X-rays are not."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image

Record = Callable[[str, object], None]


def pictures(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))


def outlying(home: Path, pulmo: Callable[..., object], *inputs: str) -> Iterator[bool]:
    """For every picture, whether the answer is that it is out of distribution."""
    done = pulmo(home, "predict", "--model", "./run", "--json", *inputs)
    for line in done.stdout.splitlines():  # type: ignore[attr-defined]
        answer = json.loads(line)
        assert answer["error"] is None, answer
        unlike = any("unlike those" in reason for reason in answer["reasons"])
        assert unlike == (answer["label"] is None)
        assert answer["decision"] == "refer" or not unlike
        yield unlike


def share(found: Iterator[bool]) -> tuple[float, int]:
    answers = list(found)
    return sum(answers) / len(answers), len(answers)


def test_grey_photographs_are_out_of_distribution(
    xray_home: Path, shared_data: Path, pulmo: Callable[..., object], record_property: Record
) -> None:
    grey = xray_home / "grey"
    grey.mkdir()
    for number, path in enumerate(pictures(shared_data / "imagenette160" / "val")):
        with Image.open(path) as picture:
            picture.convert("L").save(grey / f"{number}.png")
    referred, count = share(outlying(xray_home, pulmo, str(grey)))
    record_property("photographs", referred)
    assert count == 1000
    assert referred >= 0.95


def test_xrays_that_chose_nothing_are_not(
    xray_home: Path, shared_data: Path, pulmo: Callable[..., object], record_property: Record
) -> None:
    """The validation split set the limit, so the official test split is asked as well."""
    dataset = next((xray_home / "data" / "chest_xray").glob("*/manifest.csv"))
    rows = [line.split(",") for line in dataset.read_text().splitlines()[1:]]
    root = shared_data / "chest_xray"
    val = [str(root / row[0]) for row in rows if row[2] == "val"]
    for name, inputs in (("validation", val), ("test", [str(root / "test")])):
        referred, count = share(outlying(xray_home, pulmo, *inputs))
        record_property(f"{name} X-rays", referred)
        assert count > 300
        assert referred <= 0.05


def test_adult_xrays_are_reported(
    xray_home: Path, shared_data: Path, pulmo: Callable[..., object], record_property: Record
) -> None:
    referred, count = share(outlying(xray_home, pulmo, str(shared_data / "adult_nih")))
    record_property("X-rays of adults", referred)
    assert count == 120
