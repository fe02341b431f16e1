"""Rows compared as a whole: whether a classifier tells those of a window from those of the reference, though no column by itself has changed."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import DataError
from harness.monitoring.statistics import Usual
from harness.wording import figure, listed, p_value

Floats = NDArray[np.float64]

JOINT = "joint"
"""The name under which rows of a reference are kept, and the aspect of windows that is how well a classifier tells their rows."""

WHOLE_ROWS = "rows as a whole"
"""What differs then, beside the features."""

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
_ROWS_OF_SPREAD = 300
_NOTABLE = 4.0

FEWEST_BEFORE = 10
"""Where windows come after each other, each is compared with those before it, if there are so many."""


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
        usual: The largest area of windows that are sound, and what these are, in words; ``None`` where nobody knows.
    """

    auc: float
    p: float
    rows: tuple[int, int]
    pair: tuple[str, ...] = ()
    usual: tuple[float, str] | None = None

    @property
    def is_found(self) -> bool:
        """Whether it is neither chance nor too small to matter."""
        return self.p <= LEVEL and self.auc >= FLOOR

    @property
    def message(self) -> str:
        """One sentence."""
        where = f"; most of all {listed(list(self.pair))} go together otherwise" if self.pair else ""
        usual = "" if self.usual is None else f"; at most {figure(self.usual[0], 2)} in {self.usual[1]}"
        return (
            f"the rows as a whole have drifted: a classifier tells them from the reference's with AUC = {self.auc:.2f} (by chance 0.5, allowed "
            f"below {FLOOR:g}{usual}), {p_value(self.p)}; {self.rows[1]:,} rows against {self.rows[0]:,}{where}"
        )

    def to_json(self) -> dict[str, Any]:
        """The comparison as JSON values."""
        return {"auc": self.auc, "p": self.p, "rows": list(self.rows), "pair": list(self.pair), "is_found": self.is_found}


def joint_drift(
    reference: RowsKept, window: RowsKept, windows: int = 1, usual: Usual | None = None, spread: str = ""
) -> JointDrift | None:
    """Compares rows as a whole; ``None`` where there are fewer than 50 on a side, or no column has two values.

    The classifier is a kernel ridge regression on normal scores of all rows together, each row judged by what was learnt from the others
    (Lopez-Paz and Oquab 2017, "Revisiting classifier two-sample tests"). Its p-value comes from shuffling the rows between both, which is exact
    whatever the rows are like. Rows are dealt out until ten such values are as large (Besag and Clifford 1991, "Sequential Monte Carlo
    p-values"), so that a window without drift takes few.

    Args:
        reference: Rows of the reference.
        window: Rows of the window; columns that only one of the two has are left out.
        windows: How many windows in a row share the level.
        usual: How well the rows of sound windows are told, by ``joint_effect``; where it is known, these must be told better.
        spread: What those windows are, in words.
    """
    most = MOST_ROWS if usual is None else _ROWS_OF_SPREAD
    told = _told_apart(reference, window, min(most, _ROWS_OF_MANY) if windows > _MANY_WINDOWS else most)
    if told is None:
        return None
    m, n = told.rows
    auc = told.area(told.of_window)
    known = None if usual is None else (0.5 + usual.largest, spread)
    by_windows = 0.0 if usual is None else usual.p_value(auc - 0.5, _noise(m, n))
    if windows * by_windows > LEVEL:
        return JointDrift(auc, min(1.0, windows * by_windows), (m, n), usual=known)
    rng, larger, draws = np.random.default_rng(0), 0, 0
    most_draws = math.ceil(5 * windows / LEVEL)
    while larger < _ENOUGH and draws < most_draws:
        dealt = np.stack([rng.permutation(told.of_window) for _ in range(min(_AT_ONCE, most_draws - draws))], axis=1)
        larger += int((_areas(told.smoother, told.own, dealt) >= auc).sum())
        draws += dealt.shape[1]
    p = min(1.0, windows * max(by_windows, (larger + 1) / (draws + 1)))
    return JointDrift(auc, p, (m, n), _pair(told.scores[:m], told.scores[m:], told.names), known)


def joint_effect(others: RowsKept, window: RowsKept) -> dict[str, dict[str, tuple[float, float]]]:
    """How well the rows of a window are told from others, as ``effects_of`` gives what differs; nothing where rows are too few."""
    told = _told_apart(others, window, _ROWS_OF_SPREAD)
    if told is None:
        return {}
    return {WHOLE_ROWS: {JOINT: (round(told.area(told.of_window) - 0.5, 4), _noise(*told.rows))}}


def joint_effects(windows: Mapping[str, RowsKept], *, in_order: bool) -> dict[str, dict[str, dict[str, tuple[float, float]]]]:
    """The same of each of several windows, by label, compared with those before it, or with all others."""
    found = {}
    labels = sorted(windows)
    for place, label in enumerate(labels):
        others = labels[:place] if in_order and place >= FEWEST_BEFORE else [each for each in labels if each != label]
        rows = np.concatenate([windows[each].values for each in others]) if others else np.zeros((0, 0))
        found[label] = joint_effect(RowsKept.of(windows[label].names, rows), windows[label])
    return found


@dataclass(frozen=True, eq=False)
class _ToldApart:
    """A classifier of the rows of both sides.

    Attributes:
        names: The columns that it learnt from.
        scores: Normal scores of all rows, ``[N, D]``.
        rows: Of the reference and of the window.
        smoother: What turns labels into predictions.
        own: Its diagonal.
    """

    names: Sequence[str]
    scores: Floats
    rows: tuple[int, int]
    smoother: Floats
    own: Floats

    @property
    def of_window(self) -> NDArray[np.bool_]:
        """Which rows are the window's."""
        return np.arange(sum(self.rows)) >= self.rows[0]

    def area(self, of_window: NDArray[np.bool_]) -> float:
        """The area under its curve."""
        return float(_areas(self.smoother, self.own, of_window[:, None])[0])


def _told_apart(reference: RowsKept, window: RowsKept, most: int) -> _ToldApart | None:
    names = [name for name in reference.names if name in window.names]
    sides = [side.values[:most, [side.names.index(name) for name in names]].astype(np.float64) for side in (reference, window)]
    m, n = map(len, sides)
    if not names or min(m, n) < _FEWEST:
        return None
    scores = _normal_scores(np.concatenate(sides))
    varied = scores.std(axis=0) > 0
    if not varied.any():
        return None
    scores, names = scores[:, varied], [name for name, kept in zip(names, varied, strict=True) if kept]
    return _ToldApart(names, scores, (m, n), *_left_one_out(scores))


def _noise(m: int, n: int) -> float:
    """The variance of the area where nothing differs."""
    return float(f"{(m + n + 1) / (12 * m * n):.3g}")


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
