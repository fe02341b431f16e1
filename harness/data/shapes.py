"""The images of ``vision_tiny_v1``: a circle, a cross, a square or a triangle, somewhere, in some size and colour, under noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import shake_256
from random import Random

import numpy as np
import torch

from harness.data.record import Record

Plane = np.ndarray
"""A coordinate of every pixel relative to the shape's centre and size, float64 ``[H, W]`` or what broadcasts to it."""

SHAPES: dict[str, Callable[[Plane, Plane], np.ndarray]] = {
    "circle": lambda u, v: u * u + v * v <= 1,
    "cross": lambda u, v: np.minimum(abs(u), abs(v)) <= 0.3,
    "square": lambda u, v: np.maximum(abs(u), abs(v)) <= 0.85,
    "triangle": lambda u, v: (abs(u) <= (v + 1) / 1.8) & (v <= 0.8),
}
"""What is inside a shape, by its name; the names are in sorted order, as class ids are."""

_NOISE = 0.15


@dataclass(frozen=True)
class ShapeSource:
    """Rows that are drawn when they are asked for; a row depends on its number, the seed and the size alone.

    Attributes:
        name: The dataset in messages.
        seed: Names the split, so that no two splits share a row.
        rows: How many there are.
        size: ``(C, H, W)`` in pixels.
        num_classes: How many of the shapes there are.
    """

    name: str
    seed: str
    rows: int
    size: tuple[int, int, int]
    num_classes: int

    def __len__(self) -> int:
        """How many there are."""
        return self.rows

    def __getitem__(self, index: int) -> Record:
        """A row: ``pixel_values`` float32 ``[C, H, W]`` from 0 to 1, and the shape's name."""
        label = list(SHAPES)[: self.num_classes][index % min(self.num_classes, len(SHAPES))]
        image = draw_shape(label, self.size, f"{self.seed}:{index}")
        return Record(f"{self.name}, row {index + 1}", {"pixel_values": torch.from_numpy(image), "label": label})

    def __iter__(self) -> Iterator[Record]:
        """All of them."""
        return (self[index] for index in range(self.rows))


def draw_shape(name: str, size: tuple[int, int, int], seed: str) -> np.ndarray:
    """Draws a shape, the same to the byte on every machine: nothing here rounds differently elsewhere.

    Returns:
        Float32 ``[C, H, W]`` in steps of 1/255.
    """
    channels, height, width = size
    rng = Random(seed)
    centre_x, centre_y, radius = (low + span * rng.random() for low, span in ((0.36, 0.28), (0.36, 0.28), (0.22, 0.12)))
    u = ((np.arange(width) + 0.5) / width - centre_x)[None, :] / radius
    v = ((np.arange(height) + 0.5) / height - centre_y)[:, None] / radius
    box = np.maximum(abs(u), abs(v)) <= 1
    inside = (SHAPES[name](u, v) & box)[None]
    light = np.array([0.65 + 0.35 * rng.random() for _ in range(channels)])[:, None, None]
    dark = np.array([0.3 * rng.random() for _ in range(channels)])[:, None, None]
    noise = np.frombuffer(shake_256(seed.encode()).digest(channels * height * width), dtype=np.uint8).reshape(size)
    image = np.where(inside, light, dark) + _NOISE * (noise / 127.5 - 1)
    return (np.rint(np.clip(image, 0, 1) * 255) / 255).astype(np.float32)
