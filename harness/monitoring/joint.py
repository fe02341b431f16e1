"""Rows compared as a whole: whether a classifier tells those of a window from those of the reference, though no column by itself has changed."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import DataError
from harness.wording import listed, p_value

Floats = NDArray[np.float64]

JOINT = "joint"
"""The name under which rows of a reference are kept."""

MOST_ROWS = 1000
"""Rows that are kept of a reference, and looked at of a window."""

FLOOR = 0.57
"""The area under the curve from which a difference matters: that of a column that moved by a quarter of its deviation (KS D = 0.1)."""

LEVEL = 0.01
"""The probability of a finding without drift, beside that of the tests of single columns."""

_RIDGE = 1.0
_ENOUGH = 10
_AT_ONCE = 100
_FEWEST = 50
_MANY_WINDOWS, _ROWS_OF_MANY = 20, 500
_NOTABLE = 4.0


@dataclass(frozen=True, eq=False)
class RowsKept:
    """Some rows of a dataset, in random order.

    Attributes:
        names: Of the columns.
        values: float32 ``[N, D]``, NaN where one is missing.
    """

    names: tuple[str, ...]
    values: NDArray[np.float32]

    @classmethod
    def of(cls, names: Sequence[str], values: NDArray[Any]) -> RowsKept:
        """At most 1,000 of some rows, the same in every run."""
        order = np.random.default_rng(0).permutation(len(values))[:MOST_ROWS]
        with np.errstate(over="ignore"):
            return cls(tuple(names), np.asarray(values)[order].astype(np.float32))

    def to_json(self) -> dict[str, Any]:
        """The rows as JSON-ready values: four bytes a number."""
        packed = base64.b64encode(self.values.astype("<f4").tobytes()).decode()
        return {"names": list(self.names), "shape": list(self.values.shape), "float32": packed}

    @classmethod
    def from_json(cls, data: Any) -> RowsKept:
        """The inverse of ``to_json``.

        Raises:
            DataError: It is something else, or an older version stored it.
        """
        try:
            values = np.frombuffer(base64.b64decode(data["float32"]), "<f4").reshape(data["shape"])
            return cls(tuple(map(str, data["names"])), values)
        except (KeyError, TypeError, ValueError):
            raise DataError(
                "the rows that are kept of the reference are not readable by this version: store it again with `modeltiers profile --joint`"
            ) from None


@dataclass(frozen=True)
class JointDrift:
    """How well a classifier tells the rows of a window from those of a reference.

    Attributes:
        auc: The probability that it takes a row of the window for more likely to be one than a row of the reference; 0.5 by chance.
        p: How likely so large a value is where rows are dealt out at random, for all windows that share the level.
        rows: Of the reference and of the window.
        pair: The two columns whose product changed most, where one did; empty otherwise.
    """

    auc: float
    p: float
    rows: tuple[int, int]
    pair: tuple[str, ...] = ()

    @property
    def is_found(self) -> bool:
        """Whether it is neither chance nor too small to matter."""
        return self.p <= LEVEL and self.auc >= FLOOR

    @property
    def message(self) -> str:
        """One sentence."""
        where = f"; most of all {listed(list(self.pair))} go together otherwise" if self.pair else ""
        return (
            f"the rows as a whole have drifted: a classifier tells them from the reference's with AUC = {self.auc:.2f} (by chance 0.5, allowed "
            f"below {FLOOR:g}), {p_value(self.p)}; {self.rows[1]:,} rows against {self.rows[0]:,}{where}"
        )

    def to_json(self) -> dict[str, Any]:
        """The comparison as JSON values."""
        return {"auc": self.auc, "p": self.p, "rows": list(self.rows), "pair": list(self.pair), "is_found": self.is_found}


def joint_drift(reference: RowsKept, window: RowsKept, windows: int = 1) -> JointDrift | None:
    """Compares rows as a whole; ``None`` where there are fewer than 50 on a side, or no column has two values.

    The classifier is a kernel ridge regression on normal scores of all rows together, each row judged by what was learnt from the others
    (Lopez-Paz and Oquab 2017, "Revisiting classifier two-sample tests"). Its p-value comes from shuffling the rows between both, which is exact
    whatever the rows are like. Rows are dealt out until ten such values are as large (Besag and Clifford 1991, "Sequential Monte Carlo
    p-values"), so that a window without drift takes few.

    Args:
        reference: Rows of the reference.
        window: Rows of the window; columns that only one of the two has are left out.
        windows: How many windows in a row share the level.
    """
    names = [name for name in reference.names if name in window.names]
    most = _ROWS_OF_MANY if windows > _MANY_WINDOWS else MOST_ROWS
    sides = [side.values[:most, [side.names.index(name) for name in names]].astype(np.float64) for side in (reference, window)]
    m, n = map(len, sides)
    if not names or min(m, n) < _FEWEST:
        return None
    scores = _normal_scores(np.concatenate(sides))
    varied = scores.std(axis=0) > 0
    if not varied.any():
        return None
    scores, names = scores[:, varied], [name for name, kept in zip(names, varied, strict=True) if kept]
    smoother, own = _left_one_out(scores)
    of_window = np.arange(m + n) >= m
    auc = float(_areas(smoother, own, of_window[:, None])[0])
    rng, larger, draws = np.random.default_rng(0), 0, 0
    most_draws = math.ceil(5 * windows / LEVEL)
    while larger < _ENOUGH and draws < most_draws:
        dealt = np.stack([rng.permutation(of_window) for _ in range(min(_AT_ONCE, most_draws - draws))], axis=1)
        larger += int((_areas(smoother, own, dealt) >= auc).sum())
        draws += dealt.shape[1]
    p = min(1.0, windows * (larger + 1) / (draws + 1))
    return JointDrift(auc, p, (m, n), _pair(scores[:m], scores[m:], names))


def _normal_scores(rows: Floats) -> Floats:
    """Each column as the quantiles of a normal distribution that its ranks stand for; equal values alike, missing ones in the middle."""
    from scipy.special import ndtri

    found = np.zeros(rows.shape)
    for place, column in enumerate(rows.T):
        there = ~np.isnan(column)
        _, where, counts = np.unique(column[there], return_inverse=True, return_counts=True)
        if len(counts) > 1:
            found[there, place] = ndtri((np.cumsum(counts) - counts / 2)[where] / there.sum())
    return found


def _left_one_out(scores: Floats) -> tuple[Floats, Floats]:
    """What turns centred labels into predictions of a ridge regression on a Gaussian kernel of median width, and its diagonal."""
    squares = (scores**2).sum(axis=1)
    distances = np.maximum(squares[:, None] + squares - 2 * scores @ scores.T, 0)
    kernel = np.exp(-distances / max(float(np.median(distances)), 1e-9))
    kernel -= kernel.mean(axis=0)
    kernel -= kernel.mean(axis=1)[:, None]
    kernel /= np.trace(kernel) / len(kernel)
    kernel[np.diag_indices_from(kernel)] += _RIDGE
    smoother = -_RIDGE * np.linalg.inv(kernel)
    smoother[np.diag_indices_from(smoother)] += 1
    return smoother, np.diag(smoother).copy()


def _areas(smoother: Floats, own: Floats, of_window: NDArray[np.bool_]) -> Floats:
    """The area under the curve for each way to deal out the rows, ``[K]``, of bool ``[N, K]``."""
    labels = of_window - of_window.mean(axis=0)
    predicted = (smoother @ labels - own[:, None] * labels) / (1 - own[:, None])
    ranks = np.argsort(np.argsort(predicted, axis=0), axis=0) + 1
    n = of_window.sum(axis=0)
    return np.asarray(((ranks * of_window).sum(axis=0) - n * (n + 1) / 2) / (n * (len(own) - n)))


def _pair(before: Floats, now: Floats, names: Sequence[str]) -> tuple[str, ...]:
    """The two columns whose product has changed by most standard errors; none where it is few."""
    if len(names) < 2:
        return ()
    means = [side.T @ side / len(side) for side in (before, now)]
    spreads = [(side**2).T @ (side**2) / len(side) - mean**2 for side, mean in zip((before, now), means, strict=True)]
    errors = np.sqrt(spreads[0] / len(before) + spreads[1] / len(now)) + 1e-9
    apart = np.triu(np.abs(means[1] - means[0]) / errors, 1)
    first, second = np.unravel_index(int(apart.argmax()), apart.shape)
    return (names[int(first)], names[int(second)]) if apart[first, second] >= _NOTABLE else ()
