"""Numbers and texts as bytes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray


class Writer:
    """Puts values one behind the other; what they are is known to whoever reads them."""

    def __init__(self) -> None:
        self.content = bytearray()

    def count(self, value: int) -> None:
        """A whole number that is not negative, seven bits a byte."""
        while value > 127:
            self.content.append(value & 127 | 128)
            value >>= 7
        self.content.append(value)

    def counts(self, values: Iterable[int]) -> None:
        """Several of them, without their number."""
        for value in values:
            self.count(int(value))

    def whole(self, value: int) -> None:
        """A whole number of either sign."""
        self.count(2 * value if value >= 0 else -2 * value - 1)

    def text(self, value: str) -> None:
        """A text."""
        self.blob(value.encode("utf-8", "surrogatepass"))

    def blob(self, value: bytes) -> None:
        """Bytes."""
        self.count(len(value))
        self.content += value

    def floats(self, values: NDArray[np.float64]) -> None:
        """Floats; each in four bytes where none loses anything by that."""
        with np.errstate(over="ignore"):
            small = values.astype("<f4")
        exact = np.array_equal(small.astype(np.float64), values)
        self.count(4 if exact else 8)
        self.blob((small if exact else values.astype("<f8")).tobytes())


class Reader:
    """Takes values in the order in which they were put.

    Raises:
        ValueError: The bytes end too early, or say something impossible.
    """

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._place = 0

    def count(self) -> int:
        """A whole number that is not negative."""
        value = shift = 0
        while True:
            byte = self._take(1)[0]
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    def counts(self, number: int) -> Sequence[int]:
        """So many of them."""
        return [self.count() for _ in range(number)]

    def whole(self) -> int:
        """A whole number of either sign."""
        value = self.count()
        return -(value + 1) // 2 if value & 1 else value // 2

    def text(self) -> str:
        """A text."""
        return self.blob().decode("utf-8", "surrogatepass")

    def blob(self) -> bytes:
        """Bytes."""
        return self._take(self.count())

    def floats(self) -> NDArray[np.float64]:
        """Floats."""
        size = self.count()
        return np.frombuffer(self.blob(), {4: "<f4", 8: "<f8"}.get(size, "V0")).astype(np.float64)

    @property
    def is_at_end(self) -> bool:
        """Whether nothing is left."""
        return self._place == len(self._content)

    def _take(self, number: int) -> bytes:
        taken = self._content[self._place : self._place + number]
        if len(taken) < number:
            raise ValueError("the bytes end too early")
        self._place += number
        return taken
