"""Faults planted into real X-rays are found, every one, and sound X-rays raise no error."""

import csv
import hashlib
import io
import json
import random
import re
import shutil
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Command = Callable[..., Any]
NUMBER = 20
TRAIN, TEST = 260, 100  # pictures of each class that are copied


@dataclass(frozen=True)
class Copied:
    """A part of the X-rays, copied: paths of each class, below `root`."""

    root: Path
    train: dict[str, list[str]]
    test: dict[str, list[str]]


@pytest.fixture
def xrays(shared_data: Path, tmp_path: Path) -> Copied:
    """Different pictures only, in an order that a seed decides."""
    source, seen = shared_data / "chest_xray", set()
    found: dict[str, dict[str, list[str]]] = {"train": {}, "test": {}}
    for part, number in (("train", TRAIN), ("test", TEST)):
        for label in ("NORMAL", "PNEUMONIA"):
            paths = sorted((source / part / label).iterdir())
            random.Random(7).shuffle(paths)
            chosen = []
            for path in paths:
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                if digest not in seen and len(chosen) < number:
                    seen.add(digest)
                    chosen.append(path.relative_to(source).as_posix())
                    (tmp_path / "xrays" / chosen[-1]).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(path, tmp_path / "xrays" / chosen[-1])
            found[part][label] = chosen
    return Copied(tmp_path / "xrays", found["train"], found["test"])


def examined(pulmo: Command, folder: Path, *arguments: str, expect: int) -> dict[str, Any]:
    done = pulmo(folder, "validate", *arguments, "--json", expect=expect)
    report: dict[str, Any] = json.loads(done.stdout)["report"]
    return report


def found(report: dict[str, Any], check: str) -> list[dict[str, Any]]:
    return [one for one in report["findings"] if one["check"] == check]


def groups(report: dict[str, Any], check: str) -> list[set[str]]:
    return [set(group) for one in found(report, check) for group in one["groups"]]


def names(paths: list[str]) -> set[str]:
    return set(paths)


def reencoded(path: Path, way: int) -> tuple[bytes, str]:
    """The same picture in another encoding: qualities, sizes, formats."""
    with Image.open(path) as image:
        image.load()
    stream = io.BytesIO()
    if way % 4 == 0:
        image.save(stream, "JPEG", quality=40 + 2 * way)
        return stream.getvalue(), "jpeg"
    if way % 4 == 1:
        image.save(stream, "PNG")
        return stream.getvalue(), "png"
    if way % 4 == 2:
        image.resize((image.width // 2, image.height // 2), Image.Resampling.BICUBIC).save(
            stream, "JPEG", quality=85
        )
        return stream.getvalue(), "jpeg"
    image.resize((image.width * 3 // 2, image.height * 3 // 2)).save(stream, "WEBP", quality=80)
    return stream.getvalue(), "webp"


def test_every_planted_fault_is_found(pulmo: Command, xrays: Copied, tmp_path: Path) -> None:
    root, data = xrays.root, f"data.root={xrays.root}"
    clean = examined(pulmo, tmp_path, data, expect=0)
    assert [one for one in clean["findings"] if one["severity"] == "error"] == []
    assert clean["counts"]["excluded"] == {"NORMAL": 0, "PNEUMONIA": 0}

    normal, ill = iter(xrays.train["NORMAL"]), iter(xrays.train["PNEUMONIA"])
    held = iter(xrays.test["NORMAL"])

    def add(encoded: bytes, label: str, name: str) -> str:
        (root / "train" / label / name).write_bytes(encoded)
        return f"train/{label}/{name}"

    truncated = [next(ill) for _ in range(NUMBER)]
    for i, path in enumerate(truncated):
        whole = (root / path).read_bytes()
        left = (len(whole) - 1 - i // 4) if i % 4 == 0 else len(whole) * (i + 1) // (NUMBER + 1)
        (root / path).write_bytes(whole[:left])
    blank = []
    for i in range(NUMBER):
        level = np.full((224, 224), i * 255 // (NUMBER - 1), np.uint8)
        if i % 2:  # a detector's noise shows nothing either
            noise = np.random.default_rng(i).normal(0, 2, level.shape)
            level = np.clip(level + noise, 0, 255).astype(np.uint8)
        stream = io.BytesIO()
        Image.fromarray(level).save(stream, "JPEG")
        blank.append(add(stream.getvalue(), "NORMAL", f"IM-{9000 + i}-0001.jpeg"))
    exact, again = {}, {}
    for i in range(NUMBER):
        path = next(held)
        exact[add((root / path).read_bytes(), "NORMAL", f"IM-{8000 + i}-0001.jpeg")] = path
        path = next(held)
        encoded, suffix = reencoded(root / path, i)
        again[add(encoded, "NORMAL", f"IM-{7000 + i}-0001.{suffix}")] = path
    conflicts = {}
    for i in range(NUMBER):
        path = next(normal)
        encoded, suffix = reencoded(root / path, i)
        if i < NUMBER // 2:
            encoded, suffix = (root / path).read_bytes(), "jpeg"
        conflicts[add(encoded, "PNEUMONIA", f"person{9000 + i}_virus_1.{suffix}")] = path

    report = examined(pulmo, tmp_path, data, expect=3)
    (unreadable,) = found(report, "unreadable")
    assert {line.split(": ")[0] for line in unreadable["where"]} == names(truncated)
    assert set().union(*groups(report, "blank")) == names(blank)
    left_out = groups(report, "excluded")
    for copy, path in {**exact, **again}.items():
        assert {copy, path} in left_out, f"{copy} repeats {path}"
    told = groups(report, "label_conflict")
    assert len(told) == NUMBER
    for copy, path in conflicts.items():
        assert {copy, path} in told, f"{copy} contradicts {path}"
    assert {one["check"] for one in report["findings"] if one["severity"] == "error"} == {
        "unreadable", "blank", "label_conflict",
    }  # fmt: skip


def test_every_leaked_patient_is_found(pulmo: Command, xrays: Copied, tmp_path: Path) -> None:
    patients = defaultdict(list)
    for label, paths in xrays.train.items():
        for path in paths:
            who = re.match(r"(person\d+)_|((?:NORMAL2-)?IM-\d+)-", Path(path).name)
            patients[who[1] or who[2] if who else path].append((path, label))
    several = [who for who, pictures in patients.items() if len(pictures) > 1][:NUMBER]
    assert len(several) == NUMBER

    def table(leaks: list[str]) -> Path:
        path = tmp_path / f"{len(leaks)}.csv"
        with path.open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(("path", "label", "split", "patient"))
            for i, (who, pictures) in enumerate(patients.items()):
                split = ("train", "train", "val", "gate", "test")[i % 5]
                for k, picture in enumerate(pictures):
                    other = "test" if split != "test" else "train"
                    leaked = who in leaks and k == 0
                    writer.writerow((*picture, other if leaked else split, who))
        return path

    options = ("data=chest_xray", "data.source=csv", f"data.root={xrays.root}")
    clean = examined(pulmo, tmp_path, *options, f"data.table={table([])}", expect=0)
    assert found(clean, "patient_leak") == []
    report = examined(pulmo, tmp_path, *options, f"data.table={table(several)}", expect=3)
    (leak,) = found(report, "patient_leak")
    assert {line.split(": ")[0] for line in leak["where"]} == {f"all/{who}" for who in several}
    assert [one["check"] for one in report["findings"] if one["severity"] == "error"] == [
        "patient_leak"
    ]


def test_the_real_set_has_equal_files_and_no_errors(
    pulmo: Command, shared_data: Path, tmp_path: Path
) -> None:
    root = shared_data / "chest_xray"
    equal = defaultdict(set)
    for path in root.rglob("*.jpeg"):
        equal[hashlib.sha256(path.read_bytes()).hexdigest()].add(path.relative_to(root).as_posix())
    expected = [group for group in equal.values() if len(group) > 1]
    report = examined(pulmo, tmp_path, f"data.root={root}", expect=0)
    assert [one for one in report["findings"] if one["severity"] == "error"] == []
    told = groups(report, "duplicates")
    assert sorted(map(sorted, told)) == sorted(map(sorted, expected))
