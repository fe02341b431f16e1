"""What is measured of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from harness.data.record import Example
from harness.monitoring.profiles.values import Numbers, Values


def image_values(examples: Sequence[Example]) -> Mapping[str, Values]:
    """Brightness, contrast and sharpness of each image, and mean and standard deviation of each channel.

    Brightness is the mean of the grey image (the mean of its channels), contrast its standard deviation, sharpness the variance of its
    Laplacian (Pech-Pacheco et al. 2000); images of less than three pixels a side have none.

    Args:
        examples: With ``pixel_values`` ``[C, H, W]``.
    """
    measured = [_measure(example["pixel_values"].numpy().astype(np.float64)) for example in examples]
    return {name: Numbers(np.array([values[name] for values in measured])) for name in measured[0]}


def _measure(pixels: np.ndarray) -> dict[str, float]:
    """Of one image at a time, so that no number depends on the images beside it."""
    grey = pixels.mean(axis=0)
    measured = {"brightness": grey.mean(), "contrast": grey.std()}
    if min(grey.shape) > 2:
        around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
        measured["sharpness"] = (around - 4 * grey[1:-1, 1:-1]).var()
    for number, channel in enumerate(pixels):
        measured[f"channel_{number}.mean"] = channel.mean()
        measured[f"channel_{number}.std"] = channel.std()
    return measured
