"""NumPy's numbers and arrays of numbers in a file of ``torch.save``, made from their bytes.

A checkpoint often holds some: a learning rate that a schedule computed, a metric, the state of a generator. NumPy's own functions for
unpickling take more than a file from elsewhere may ask of them (a data type of any layout, Python objects), so these stand in their place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch

_NUMBERS = re.compile(r"[biufc]\d{1,2}")
"""Data types of numbers, as NumPy writes them: a letter and how many bytes."""

NOT_NUMBERS = "NumPy values"
"""How the reason begins why a file is refused that holds other ones."""


class _NumberType:
    """In place of ``numpy.dtype``: a data type of numbers, nothing else."""

    def __init__(self, code: str, *_rest: Any) -> None:
        if not _NUMBERS.fullmatch(code):
            raise UnpicklingError(f"{NOT_NUMBERS} of type {code!r:.20}, where only numbers are read; save them as lists or text")
        self.dtype: np.dtype[Any] = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] == ">":
            self.dtype = self.dtype.newbyteorder(">")

    def values(self, content: bytes) -> np.ndarray[Any, Any]:
        """What the bytes say, a copy of them."""
        return np.frombuffer(content, self.dtype).copy()


class _Array:
    """In place of ``numpy.ndarray``: what an array is made from, until the whole file is read.

    Attributes:
        content: The array; ``None`` before its bytes were read.
    """

    def __init__(self, *_of_what: Any) -> None:
        self.content: np.ndarray[Any, Any] | None = None

    def __setstate__(self, state: tuple[int, tuple[int, ...], _NumberType, bool, bytes]) -> None:
        _version, shape, kind, by_columns, content = state
        self.content = kind.values(content).reshape(shape, order="F" if by_columns else "C")


def _scalar(kind: _NumberType, content: bytes) -> Any:
    (value,) = kind.values(content)
    return value


@contextmanager
def reading_numbers() -> Iterator[None]:
    """A block in which ``torch.load(weights_only=True)`` reads NumPy's numbers; give what it returns to ``with_arrays``."""
    names: dict[Any, tuple[str, ...]] = {
        _NumberType: ("numpy.dtype",),
        _Array: ("numpy.ndarray",),
        _scalar: ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"),
        _array_of: ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"),
    }
    with torch.serialization.safe_globals([(ours, name) for ours, theirs in names.items() for name in theirs]):
        yield


def _array_of(*_of_what: Any) -> _Array:
    return _Array()


def with_arrays(value: Any) -> Any:
    """What was read, with the arrays in their places; dicts and lists are changed in place."""
    if isinstance(value, _Array):
        return value.content
    if isinstance(value, dict):
        value.update({name: with_arrays(each) for name, each in value.items() if isinstance(each, (_Array, dict, list, tuple))})
    elif isinstance(value, list):
        value[:] = [with_arrays(each) for each in value]
    elif type(value) is tuple:
        return tuple(with_arrays(each) for each in value)
    return value
