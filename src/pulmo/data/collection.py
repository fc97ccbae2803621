"""What a source holds: files of pictures with their class, and what is known of each."""

import os
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from pulmo.config.schema import DataConfig, Role
from pulmo.core.preprocess import SUFFIXES, is_picture
from pulmo.errors import DataError

_SYSTEM_NAMES = {"__MACOSX", "Thumbs.db", "desktop.ini"}


@dataclass(frozen=True)
class Found:
    """One file of a class; `path` is relative to the root, with forward slashes.

    `patient` is what a table says; `slices` are names and values, sorted by name, the same names
    for all files of a source.
    """

    path: str
    label: str
    role: Role
    patient: str | None = None
    slices: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Collection:
    """What a source holds; `skipped` are files and folders that are no pictures of a class."""

    root: Path
    classes: tuple[str, ...]
    files: tuple[Found, ...]
    skipped: tuple[str, ...]


def from_folder(config: DataConfig, root: Path) -> Collection:
    """Class folders beneath the official split folders, or beneath the root without those."""
    skipped: list[str] = []
    entries = visible(root)
    roles = {name.lower(): role for name, role in config.splits.official.items()}
    parts = [(entry, roles[entry.name.lower()]) for entry in entries if _is_part(entry, roles)]
    if parts:
        skipped += [relative(entry, root) for entry in entries if not _is_part(entry, roles)]
    found: list[Found] = []
    for part, role in parts or [(root, "pool")]:
        for entry in visible(part):
            known = config.classes is None or entry.name in config.classes
            if entry.is_dir() and known:
                label = relative(entry, part)
                found += [Found(p, label, role) for p in _pictures(entry, root, skipped)]
            else:
                skipped.append(relative(entry, root))
    classes = classes_of(config, root, found, skipped)
    return Collection(root, classes, tuple(found), tuple(sorted(skipped)))


def _is_part(entry: Path, roles: dict[str, Role]) -> bool:
    return entry.name.lower() in roles and entry.is_dir()


def classes_of(
    config: DataConfig, root: Path, found: list[Found], skipped: list[str]
) -> tuple[str, ...]:
    """The classes of a source in their order. Raises DataError where some or most are missing."""
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


def visible(folder: Path) -> list[Path]:
    """What a folder holds, sorted, without hidden and system files. Raises DataError."""
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
        skipped += [relative(Path(here, name), root) for name in names if _is_link(here, name)]
        for leaf in sorted(filter(_is_visible, leaves)):
            path = relative(Path(here, leaf), root)
            if is_picture(Path(here, leaf)):
                yield path
            else:
                skipped.append(path)


def _is_link(here: str, name: str) -> bool:
    return Path(here, name).is_symlink()


def _refuse(error: OSError) -> NoReturn:
    raise DataError(f"{error.filename} cannot be listed: {error.strerror}") from error


def relative(path: Path, root: Path) -> str:
    """A path below `root` with forward slashes. Raises DataError for one no manifest can hold."""
    relative = path.relative_to(root).as_posix()
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in relative):
        raise DataError(f"{str(path)!a} has control characters or is not UTF-8: rename it")
    return relative
