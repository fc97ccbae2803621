"""A model as a folder of its own, such as for a container image: whole, and checked."""

import shutil
from pathlib import Path

from pulmo.core.bundle import FILES, SIGNATURE, SUMS, Bundle, verify
from pulmo.core.ports import Registry, Version
from pulmo.errors import ConfigError, ModelError, RefusedError


def download(bundle: Bundle, folder: Path) -> Bundle:
    """Copy a verified bundle into a new folder and verify the copy.

    Raises ConfigError where the folder holds something, ModelError where the copy is another model.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is not empty: a model is written into a folder of its own")
    folder.mkdir(parents=True, exist_ok=True)
    signed = (SIGNATURE,) if bundle.signature is not None else ()
    for name in (*FILES, *signed, SUMS):
        shutil.copyfile(bundle.path / name, folder / name)
    copy = verify(folder)
    if copy.digest != bundle.digest:
        raise ModelError(f"{bundle.path} changed while it was copied: try again")
    return copy


def require_tested(registry: Registry, version: Version) -> None:
    """Raise RefusedError unless the newest verdict on this version's model passes."""
    verdicts = registry.verdicts(version.name, version.model_digest)
    again = f"`pulmo registry stage {version.label}` tests it"
    if not verdicts:
        raise RefusedError(f"{version.label} has not been tested: {again}")
    if not verdicts[-1].passed:
        failed = ", ".join(check.name for check in verdicts[-1].checks if not check.passed)
        raise RefusedError(f"{version.label} did not pass its newest tests ({failed}): {again}")
