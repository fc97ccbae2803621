"""Where pictures come from: a source to a folder on disk with one folder for each class."""

import os
import shutil
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn

import numpy as np

from pulmo.config.schema import DataConfig, PhantomConfig
from pulmo.core.arrays import read_arrays
from pulmo.core.bundle import sha256
from pulmo.core.preprocess import SUFFIXES, Pixels
from pulmo.data import files, phantom
from pulmo.data.download import fetch
from pulmo.data.manifest import home_of
from pulmo.data.png import encode
from pulmo.errors import ConfigError, DataError, ModelError
from pulmo.progress import track

Role = Literal["pool", "test"]

_SYSTEM_NAMES = {"__MACOSX", "Thumbs.db", "desktop.ini"}
_MEDMNIST_CLASSES = ("NORMAL", "PNEUMONIA")  # labels 0 and 1


@dataclass(frozen=True)
class Found:
    """One file of a class; `path` is relative to the root, with forward slashes."""

    path: str
    label: str
    role: Role


@dataclass(frozen=True)
class Collection:
    """What a source holds; `skipped` are files and folders that are no pictures of a class."""

    root: Path
    classes: tuple[str, ...]
    files: tuple[Found, ...]
    skipped: tuple[str, ...]


def collect(config: DataConfig, data_dir: Path) -> Collection:
    """The pictures of the configured source, made below `data_dir` where they are made here.

    Raises ConfigError where the source is not described, DataError where it is not there, has no
    pictures, or lacks a configured class.
    """
    if config.source == "folder":
        return _collect_folder(config, _root(config))
    home = home_of(data_dir, config.name)
    made = _make_phantom if config.source == "phantom" else _make_medmnist
    return _collect_folder(config, made(config, home))


def _root(config: DataConfig) -> Path:
    if config.root is None:
        raise ConfigError(
            f"where are the pictures? uv run main.py data data={config.name} "
            "data.root=/path/to/folder"
        )
    root = Path(config.root).expanduser().resolve()
    if not root.is_dir():
        raise DataError(f"data.root={config.root} is no folder (looked for {root})")
    return root


def _collect_folder(config: DataConfig, root: Path) -> Collection:
    """Class folders beneath the official split folders, or beneath the root without those."""
    skipped: list[str] = []
    entries = _visible(root)
    roles = {name.lower(): role for name, role in config.splits.official.items()}
    parts = [(entry, roles[entry.name.lower()]) for entry in entries if _is_part(entry, roles)]
    if parts:
        skipped += [_relative(entry, root) for entry in entries if not _is_part(entry, roles)]
    found: list[Found] = []
    for part, role in parts or [(root, "pool")]:
        for entry in _visible(part):
            known = config.classes is None or entry.name in config.classes
            if entry.is_dir() and known:
                label = _relative(entry, part)
                found += [Found(p, label, role) for p in _pictures(entry, root, skipped)]
            else:
                skipped.append(_relative(entry, root))
    classes = _classes(config, root, found, skipped)
    return Collection(root, classes, tuple(found), tuple(sorted(skipped)))


def _is_part(entry: Path, roles: dict[str, Role]) -> bool:
    return entry.name.lower() in roles and entry.is_dir()


def _classes(
    config: DataConfig, root: Path, found: list[Found], skipped: list[str]
) -> tuple[str, ...]:
    labels = sorted({one.label for one in found})
    if not labels:
        raise DataError(
            f"{root} has no pictures ({', '.join(sorted(SUFFIXES))}) of a class: it needs one "
            f"folder for each class{_wanted(config)}"
        )
    classes = tuple(config.classes or labels)
    if missing := [name for name in classes if name not in labels]:
        folders = {Path(name).name for name in skipped if (root / name).is_dir()}
        there = ", ".join(sorted(folders.union(labels)))
        raise DataError(
            f"{root} has no pictures of class {', '.join(missing)}, but folders {there}: "
            "add what is missing or set data.classes"
        )
    if len(classes) < 2:
        raise DataError(f"{root} has the class {classes[0]} alone: at least two are needed")
    return classes


def _wanted(config: DataConfig) -> str:
    return f": {', '.join(config.classes)}" if config.classes else ""


def _visible(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if _is_visible(path.name))
    except OSError as error:
        _refuse(error)


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and name not in _SYSTEM_NAMES


def _pictures(folder: Path, root: Path, skipped: list[str]) -> Iterator[str]:
    for here, names, leaves in os.walk(folder, onerror=_refuse):
        names[:] = sorted(filter(_is_visible, names))
        # A linked folder may lead in a circle; a linked file is as good as any.
        skipped += [_relative(Path(here, name), root) for name in names if _is_link(here, name)]
        for leaf in sorted(filter(_is_visible, leaves)):
            path = _relative(Path(here, leaf), root)
            if Path(leaf).suffix.lower() in SUFFIXES:
                yield path
            else:
                skipped.append(path)


def _is_link(here: str, name: str) -> bool:
    return Path(here, name).is_symlink()


def _refuse(error: OSError) -> NoReturn:
    raise DataError(f"{error.filename} cannot be listed: {error.strerror}") from error


def _relative(path: Path, root: Path) -> str:
    relative = path.relative_to(root).as_posix()
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in relative):
        raise DataError(f"{str(path)!a} has control characters or is not UTF-8: rename it")
    return relative


def _make_phantom(config: DataConfig, home: Path) -> Path:
    options = config.phantom or PhantomConfig()
    stamp = sha256(f"{phantom.VERSION} {options.model_dump_json()}".encode())[:12]
    drawn = ((f"{label}/{name}", p) for label, name, p in phantom.pictures(options))
    return _write_pictures(home / "raw" / stamp, drawn, options.images, "drawing")


def _make_medmnist(config: DataConfig, home: Path) -> Path:
    """MedMNIST's arrays as picture files (Yang et al. 2023, medmnist.com)."""
    if config.url is None or config.md5 is None:
        raise ConfigError(f"data={config.name} needs data.url and data.md5")
    target = home / "raw" / config.md5[:12]
    if target.is_dir():
        return target
    archive = fetch(config.url, config.md5, home / "raw" / f"{config.md5[:12]}.npz")
    try:
        arrays = read_arrays(archive)
        splits = {
            s: (arrays[f"{s}_images"], arrays[f"{s}_labels"]) for s in ("train", "val", "test")
        }
    except (ModelError, KeyError) as error:
        raise DataError(f"{archive} is no MedMNIST archive: {error}") from error
    for split, (images, labels) in splits.items():
        fits = images.ndim == 3 and images.dtype == np.uint8 and labels.shape == (len(images), 1)
        if not fits or not np.isin(labels, (0, 1)).all():
            raise DataError(f"{archive} is no grey two-class MedMNIST archive: look at {split}")
    named = (
        (f"{split}/{_MEDMNIST_CLASSES[int(labels[i, 0])]}/{i:05}.png", images[i])
        for split, (images, labels) in splits.items()
        for i in range(len(images))
    )
    return _write_pictures(target, named, sum(len(i) for i, _ in splits.values()), "unpacking")


def _write_pictures(
    target: Path, pictures: Iterable[tuple[str, Pixels]], total: int, label: str
) -> Path:
    """Write grey pictures below `target`, which appears when the last one is written."""
    if target.is_dir():
        return target
    part = files.part_of(target)
    try:
        for name, pixels in track(pictures, label, total):
            path = part / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(pixels))
        files.publish(part, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target
