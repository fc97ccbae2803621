"""Where pictures come from: a source to a folder on disk with one folder for each class."""

import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from pulmo.config.schema import DataConfig, PhantomConfig
from pulmo.core.arrays import read_arrays
from pulmo.core.bundle import sha256
from pulmo.core.preprocess import Pixels
from pulmo.data import files, phantom
from pulmo.data.archives import brought, descend
from pulmo.data.collection import Collection, from_folder
from pulmo.data.download import fetch, wanted
from pulmo.data.manifest import home_of
from pulmo.data.png import encode
from pulmo.data.tables import from_table
from pulmo.errors import ConfigError, DataError, ModelError
from pulmo.progress import track

_MEDMNIST_CLASSES = ("NORMAL", "PNEUMONIA")  # labels 0 and 1


def collect(config: DataConfig, data_dir: Path) -> Collection:
    """The pictures of the configured source, made or brought below `data_dir` where need be.

    Raises ConfigError where the source is not described, DataError where it is not there, has no
    pictures, or lacks a configured class.
    """
    home = home_of(data_dir, config.name)
    if config.source == "phantom":
        return from_folder(config, _make_phantom(config, home))
    if config.source == "npz":
        return from_folder(config, _make_medmnist(config, home))
    root = _root(config, home)
    return from_table(config, root) if config.source == "csv" else from_folder(config, root)


def _root(config: DataConfig, home: Path) -> Path:
    if config.root is None and config.url is not None:
        return descend(brought(wanted(config), home / "raw"), config.splits.official)
    if config.root is None and config.source == "csv" and config.table is not None:
        return Path(config.table).expanduser().resolve().parent
    if config.root is None:
        raise ConfigError(
            f"where are the pictures? uv run main.py data data={config.name} "
            "data.root=/path/to/folder"
        )
    root = Path(config.root).expanduser().resolve()
    if not root.is_dir():
        raise DataError(f"data.root={config.root} is no folder (looked for {root})")
    return root


def _make_phantom(config: DataConfig, home: Path) -> Path:
    options = config.phantom or PhantomConfig()
    stamp = sha256(f"{phantom.VERSION} {options.model_dump_json()}".encode())[:12]
    drawn = ((f"{label}/{name}", p) for label, name, p in phantom.pictures(options))
    return _write_pictures(home / "raw" / stamp, drawn, options.images, "drawing")


def _make_medmnist(config: DataConfig, home: Path) -> Path:
    """MedMNIST's arrays as picture files (Yang et al. 2023, medmnist.com)."""
    remote = wanted(config)
    target = home / "raw" / remote.key
    if target.is_dir():
        return target
    archive = fetch(remote, target.with_suffix(".npz"))
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
