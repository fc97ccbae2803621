"""Named statistics of model inputs: what drift and a reader look at beside the embedding."""

import numpy as np
from numpy.typing import NDArray

from pulmo.core.preprocess import Pixels


def picture_statistics(pixels: Pixels) -> dict[str, NDArray[np.float32]]:
    """Statistics of uint8 [N, C, H, W], each float32 [N], in units of the full range (0 to 1).

    `brightness` and `contrast` are mean and standard deviation, `dark` and `bright` the shares of
    pixels within 2 % of black and white, `sharpness` the mean absolute difference of neighbours.
    """
    grey = pixels.astype(np.float32).mean(axis=1) / 255.0
    across = np.abs(np.diff(grey, axis=2)).mean(axis=(1, 2))
    down = np.abs(np.diff(grey, axis=1)).mean(axis=(1, 2))
    values = {
        "brightness": grey.mean(axis=(1, 2)),
        "contrast": grey.std(axis=(1, 2)),
        "dark": (grey < 0.02).mean(axis=(1, 2)),
        "bright": (grey > 0.98).mean(axis=(1, 2)),
        "sharpness": (across + down) / 2,
    }
    return {name: value.astype(np.float32) for name, value in values.items()}
