"""The sizes that a free axis may have: its step, its smallest and its largest size, found by calling the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Takes = Callable[[int], bool]
"""Whether the model takes a size of the axis."""

_STEPS = (2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 24, 28, 32, 48, 64, 128)

_PROBES = (2, 4, 8, 16)
"""What is added to a size where one more works: half of each step that sizes are often multiples of."""

_DRAWN = 12
"""Sizes that the suite draws of an axis without an upper limit, in steps from the smallest one."""


@dataclass(frozen=True)
class Found:
    """The sizes of an axis.

    Attributes:
        least: The smallest.
        most: The largest; ``None`` where every size that was tried works.
        step: What sizes are multiples of.
    """

    least: int
    most: int | None
    step: int = 1

    def keys(self) -> dict[str, int]:
        """As the config says it."""
        keys = {
            "min": self.least if self.least > 1 else None,
            "max": self.most,
            "multiple_of": self.step if self.step > 1 else None,
        }
        return {key: value for key, value in keys.items() if value is not None}


def sizes_of(size: int, takes: Takes, reads: Takes, likely_most: int | None = None) -> Found | None:
    """The sizes of an axis; ``None`` where there is only the one of the example.

    Args:
        size: That of the example.
        takes: Tries one.
        reads: Whether the last element matters at a size, which that of a patch cut off at the edge does not.
        likely_most: A size that may be the largest, such as the rows of a table of positions.
    """
    step = _step_of(size, takes)
    if step == 1 and takes(size + 1) and not reads(size + 1) and reads(size):
        steps = (step for step in _steps(size) if takes(size + step) and reads(size + step))
        step = next(steps, None if _most(size, 1, size, takes) is not None else 1)
    if step == 1 and not all(takes(size + more) for more in _PROBES):
        # Some sizes work by luck, such as those that two strides round to the same; twice the size shows that there is no limit.
        rounded = (other for other in _steps(size) if all(takes(size + n * other) for n in (1, 2, 3)))
        step = next(rounded, 1) if takes(2 * size) else 1
    if step is None:
        return None
    least = _least(size, step, takes)
    if likely_most is not None and likely_most >= size and takes(likely_most) and not takes(likely_most + step):
        return Found(least, likely_most, step)
    return Found(least, _most(size, step, least, takes), step)


def _step_of(size: int, takes: Takes) -> int | None:
    if takes(size + 1) or (size > 1 and takes(size - 1)):
        return 1
    return next((step for step in _steps(size) if takes(size + step) or (size > step and takes(size - step))), None)


def _steps(size: int) -> list[int]:
    return [step for step in dict.fromkeys((*_STEPS, size)) if size % step == 0 and step > 1]


def _least(size: int, step: int, takes: Takes) -> int:
    """The smallest size, as far as all above it work."""
    if takes(step):
        return step
    low, high = 1, size // step
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if takes(middle * step) else (middle, high)
    return high * step


def _most(size: int, step: int, least: int, takes: Takes) -> int | None:
    """The largest size; ``None`` where twice the example's and all that the suite draws work."""
    far = max(2 * size, least + _DRAWN * step) // step * step
    if takes(far):
        return None
    low, high = size // step, far // step
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if takes(middle * step) else (low, middle)
    return low * step
