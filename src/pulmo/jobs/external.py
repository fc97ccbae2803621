"""Another data set of the same classes, to see how a model bears a new place."""

import re
from pathlib import Path

from pulmo.config.schema import Config, DataConfig, SplitConfig
from pulmo.core.bundle import Bundle
from pulmo.data.manifest import DataSet, load
from pulmo.jobs.data import prepare

_UNDEALT = SplitConfig(val=0, gate=0, test=0)


def open_external(target: str, bundle: Bundle, config: Config, data_dir: Path) -> DataSet:
    """The data set called `target`, or one made of the folder `target` with a folder a class.

    A folder becomes the data set `external-<folder>`, read as the model reads pictures; nothing is
    dealt out to splits. Raises DataError where there is neither, RefusedError where the pictures
    have errors.
    """
    folder = Path(target).expanduser()
    if not folder.is_dir():
        return load(data_dir, target)
    spec = bundle.info.specification
    data = DataConfig(
        name=_name(folder.resolve().name),
        source="folder",
        root=str(folder),
        classes=list(spec.classes),
        channels=spec.input.channels,
        dicom=spec.input.dicom,
        patient=config.data.patient,
        intended_use="External validation.",
        splits=_UNDEALT,
    )
    return prepare(config.model_copy(update={"data": data}), data_dir).dataset


def _name(folder: str) -> str:
    plain = re.sub(r"[^a-z0-9]+", "-", folder.lower()).strip("-")
    return f"external-{plain[:48].strip('-') or 'pictures'}"
