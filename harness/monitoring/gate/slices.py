"""Parts of the samples that share a property, such as a class or a length."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.monitoring.gate.errors import ComparisonError
from harness.monitoring.gate.pairs import Pairs

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
