"""Small folders of pictures and the configuration of a data set."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pulmo.config.schema import DataConfig

Draw = Callable[[Path, int], Path]


@pytest.fixture
def draw() -> Draw:
    """`draw(path, seed)` writes a small grey picture that the seed decides."""

    def write(path: Path, seed: int) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (12, 16), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        return path

    return write


@pytest.fixture
def configure() -> Callable[..., DataConfig]:
    """A folder data set with the given differences."""

    def make(**changes: Any) -> DataConfig:
        known = {"name": "pets", "source": "folder", "intended_use": "tests"}
        return DataConfig.model_validate(known | changes)

    return make
