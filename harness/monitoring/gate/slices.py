"""Parts of the samples that share a property, such as a class or a length."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harness.monitoring.errors import ComparisonError
from harness.monitoring.gate.pairs import Pairs

if TYPE_CHECKING:
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


FEWEST = 20
"""Below as many samples a slice shows nothing but a collapse, and would only take from the level of the others."""

SliceLabels = Mapping[str, NDArray[Any]]
"""A label a sample, ``[N]``, under the name of what is labelled: ``{"class": classes, "length": buckets}``."""


@dataclass(frozen=True)
class Sliced:
    """The slices of some pairs.

    Attributes:
        parts: The pairs of each slice by its name, such as ``class=7``.
        left_out: How many slices hold too few samples.
    """

    parts: dict[str, Pairs]
    left_out: int

    @classmethod
    def of(cls, pairs: Pairs, labels: SliceLabels) -> Sliced:
        """Cuts pairs into slices, once for each kind of label.

        Raises:
            ComparisonError: There is not one label a sample.
        """
        parts: dict[str, Pairs] = {}
        left_out = 0
        for name, given in labels.items():
            for value, places in _places(_labels(name, given, pairs)):
                if len(places) < FEWEST:
                    left_out += 1
                else:
                    parts[f"{name}={value}"] = pairs.part(places)
        return cls(parts, left_out)


def _labels(name: str, given: NDArray[Any], pairs: Pairs) -> NDArray[Any]:
    labels = np.asarray(given)
    if labels.shape != pairs.labelled.shape:
        raise ComparisonError(
            f"slices of {name!r}: expected a label for each of {len(pairs.labelled):,} samples, got shape {list(labels.shape)}"
        )
    return labels[pairs.labelled]


def _places(labels: NDArray[Any]) -> list[tuple[Any, NDArray[np.intp]]]:
    """Each label, and where it is; the labels sorted."""
    values, which = np.unique(labels, return_inverse=True)
    order = np.argsort(which, kind="stable")
    ends = np.searchsorted(which[order], np.arange(1, len(values)))
    return list(zip(values.tolist(), np.split(order, ends), strict=True))
