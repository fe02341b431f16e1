"""A sweep as a PNG picture: a curve for one key, a heat map for two, a chart a key for more."""

from harness.sweeps.picture.page import to_png

__all__ = ["to_png"]
