"""The kinds of samples a comparison looks at one by one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from harness.data.dataset import Dataset
from harness.evaluation.evaluation import Evaluation

_MOST_CLASSES = 20
_LENGTHS = 4


def slices_of(data: Dataset, evaluation: Evaluation) -> dict[str, NDArray[np.str_]]:
    """A label a sample under the name of what it says: its class, and which quarter of the lengths it is in, ``[N]`` each.

    Args:
        data: The samples.
        evaluation: What is known of them.
    """
    found: dict[str, NDArray[np.str_]] = {}
    label, length = (evaluation.facts.get(name) for name in ("label", "length"))
    if label is not None and 2 <= len(np.unique(label)) <= _MOST_CLASSES:
        names = data.origin.classes.names if data.origin.classes else ()
        found["class"] = np.array([_name(int(number), names) for number in label])
    if length is not None and len(np.unique(length)) > 1:
        found["length"] = _ranges(length.astype(np.int64))
    return found


def _name(number: int, names: tuple[str, ...]) -> str:
    return names[number] if 0 <= number < len(names) else str(number)


def _ranges(lengths: NDArray[np.int64]) -> NDArray[np.str_]:
    """``3-8``: the smallest and the largest length of a quarter."""
    ends = np.unique(np.quantile(lengths, np.arange(1, _LENGTHS + 1) / _LENGTHS, method="higher"))
    part = np.searchsorted(ends, lengths)
    said = [f"{lengths[part == number].min()}-{lengths[part == number].max()}" for number in range(len(ends))]
    return np.array(said)[part]
