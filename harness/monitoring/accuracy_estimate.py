"""Accuracy without labels: how probable it is that each answer is right, as learnt from labelled rows and from copies of them that were shifted.

What is known of a row is how near it is to training rows, or how sure the model is of it. How that goes with being right is learnt where labels
are: on the reference, and on rows of it that were shifted on purpose (Schelter et al. 2020, "Learning to validate the predictions of black box
classifiers on unseen data"). How far such an estimate is off is measured on kinds of shift that were left out when it was learnt.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.errors import DataError

Floats = NDArray[np.float64]

ESTIMATE_LEVEL = 0.9
"""How often the interval of an estimate is to hold the accuracy."""

_Z = 1.645  # deviations either side that hold so much of a normal distribution
_LEFT_OUT = 0.95  # of the estimates of left-out kinds, so that ESTIMATE_LEVEL of those of kinds that nobody thought of are held
_LEAST_ERROR = 0.3  # a shift like none that was simulated may be off by as much, however well these are estimated
_UNCHECKED = 1.0  # the error where no shift could be simulated: rows that lie elsewhere may all be right, or all wrong
_LEAST_MOVED = 0.1  # of a window that moved less, a wrong estimate says nothing of those that moved more
_KS_NOISE = 1.36  # the distance of two samples of one distribution, in units of sqrt(1/n + 1/m), that chance rarely exceeds
_QUANTILES = 201
_LEAST_SPREAD = 1e-9


def confidence_measures(entropy: ArrayLike) -> Floats:
    """What the entropy of each row says of it, ``[N, 2]``: with its sign changed, and the logarithm of its inverse; NaN for a row with NaN.

    Args:
        entropy: In nats, ``[N]``.
    """
    nats = np.asarray(entropy, np.float64)
    return np.stack([-nats, -np.log(np.maximum(nats, 0.0) + 1e-4)], axis=1)


@dataclass(frozen=True, eq=False)
class RowMeasures:
    """What is known of the rows of a window without their labels.

    Attributes:
        values: Of each row, ``[N, F]``; NaN for a row that the model says nothing of.
        at_most: The most that the accuracy can be where the classes of the rows are as frequent as in the reference; 1 where nothing says so.
    """

    values: Floats
    at_most: float = 1.0


@dataclass(frozen=True)
class AnsweredRows:
    """Rows of which it is known whether the model is right.

    Attributes:
        measures: What is known of each without its label, ``[N, F]``; NaN for a row that the model says nothing of.
        correct: 0 or 1, ``[N]``; NaN for a row without a label.
        kind: By what kind of shift they were made; empty for the reference.
        at_most: As of ``RowMeasures``.
    """

    measures: Floats
    correct: Floats
    kind: str = ""
    at_most: float = 1.0

    def labelled(self) -> AnsweredRows:
        """Those with a label.

        Raises:
            DataError: ``correct`` is something else than 0, 1 and NaN, or there are not as many of the one as of the other.
        """
        if self.measures.ndim != 2 or self.correct.shape != self.measures.shape[:1]:
            shapes = f"{list(self.measures.shape)} and {list(self.correct.shape)}"
            raise DataError(f"expected measures and an outcome for each row, got shapes {shapes}")
        if not (np.isin(self.correct, (0, 1)) | np.isnan(self.correct)).all():
            raise DataError("expected 0 or 1 for each answer: whether it is right")
        kept = ~np.isnan(self.correct)
        return AnsweredRows(self.measures[kept], self.correct[kept], self.kind, self.at_most)


@dataclass(frozen=True)
class AccuracyEstimate:
    """How often a model is right in a window.

    Attributes:
        accuracy: As counted or estimated; that of the reference where the window is empty.
        interval: What it lies in, by ``level``; of an estimate with its own error.
        reference_accuracy: What it was on the labelled reference.
        loss: By how much it fell.
        loss_interval: What that lies in.
        n: Rows of the window.
        reference_n: Rows of the reference.
        is_measured: Whether the window has labels, by which this was counted and not estimated.
        level: How often such intervals hold the accuracy.
        checked_on: How many kinds of simulated shift the error of an estimate was measured on.
        by_class: Whether each class counts as in the reference, as labels have come for some classes first.
    """

    accuracy: float
    interval: tuple[float, float]
    reference_accuracy: float
    loss: float
    loss_interval: tuple[float, float]
    n: int
    reference_n: int
    is_measured: bool = False
    level: float = 0.95
    checked_on: int = 0
    by_class: bool = False

    def to_json(self) -> dict[str, Any]:
        """The estimate as JSON-ready values."""
        return {**asdict(self), "interval": list(self.interval), "loss_interval": list(self.loss_interval)}


@dataclass(frozen=True, eq=False)
class AccuracyEstimator:
    """Estimates accuracy from what is known of rows without labels.

    It holds a few hundred numbers and no rows, and is kept with the run that its reference belongs to, beside the reference's profile.

    Attributes:
        accuracy: Of the reference.
        n: Labelled rows of the reference.
        weights: Of the measures, in the logarithm of the odds that an answer is right, ``[F]``.
        constant: What is added to them.
        slope: By how much accuracy falls where the mean probability falls by 1.
        quantiles: Of the probabilities of the reference's rows, ``[Q]``.
        error: By how much the estimate of a window whose rows all lie elsewhere may be off, beside chance: what 19 of 20 estimates of left-out
            kinds of shift were off by at most, as a share of how far their windows had moved, and at least 0.3.
        kinds: The kinds of shift that it was learnt from and measured on.
    """

    accuracy: float
    n: int
    weights: Floats
    constant: float
    slope: float
    quantiles: Floats
    error: float = _UNCHECKED
    kinds: tuple[str, ...] = ()

    def probabilities(self, measures: Floats) -> Floats:
        """How probable it is that each answer is right, ``[M]``; 0 of rows that the model says nothing of."""
        from scipy.special import expit

        said = np.isfinite(measures).all(axis=1)
        found = np.zeros(len(measures))
        found[said] = expit(measures[said] @ self.weights + self.constant)
        return found

    def estimate(self, measures: ArrayLike, at_most: float = 1.0) -> AccuracyEstimate:
        """The accuracy of a window.

        Args:
            measures: What is known of each row, as of those of the reference, ``[M, F]``.
            at_most: What the classes that the model says leave at most. The interval reaches to what the measures say, as the classes may have
                changed too.

        Raises:
            DataError: They are of another width.
        """
        rows = np.asarray(measures, np.float64)
        if rows.ndim != 2 or rows.shape[1] != len(self.weights):
            raise DataError(f"expected {len(self.weights)} measures a row, got shape {list(rows.shape)}")
        n, before = len(rows), self.accuracy
        if not n:
            return AccuracyEstimate(before, (0.0, 1.0), before, 0.0, (before - 1, before), 0, self.n, level=ESTIMATE_LEVEL)
        chances = self.probabilities(rows)
        most = self._accuracy_of(chances)
        now = min(most, at_most)
        half = self._chance(n, now) + self.error * self._moved(chances)
        return AccuracyEstimate(
            now,
            (max(0.0, now - half), min(1.0, most + half)),
            before,
            before - now,
            (max(before - 1, before - most - half), min(before, before - now + half)),
            n,
            self.n,
            level=ESTIMATE_LEVEL,
            checked_on=len(self.kinds),
        )

    def _accuracy_of(self, chances: Floats) -> float:
        """That of the reference, less what the mean probability fell by: an error of all rows alike cancels out."""
        fall = float(self.quantiles.mean() - chances.mean())
        return min(1.0, max(0.0, self.accuracy - self.slope * fall))

    def _chance(self, n: int, now: float) -> float:
        """What chance alone makes of the difference of two shares, either way."""
        return _Z * math.sqrt(variance_of_share(now, n) + variance_of_share(self.accuracy, self.n))

    def _moved(self, chances: Floats) -> float:
        """How far a window's probabilities lie from the reference's, from 0 to 1, beyond what chance explains."""
        return max(0.0, _distance(chances, self.quantiles) - _noise(len(chances), self.n))

    def to_json(self) -> dict[str, Any]:
        """The estimator as JSON-ready values."""
        return {**vars(self), "weights": self.weights.tolist(), "quantiles": self.quantiles.tolist(), "kinds": list(self.kinds)}

    @classmethod
    def from_json(cls, data: Any) -> AccuracyEstimator:
        """The inverse of ``to_json``.

        Raises:
            DataError: It is something else, or an older version stored it.
        """
        try:
            accuracy, constant, slope, error = (float(data[name]) for name in ("accuracy", "constant", "slope", "error"))
            weights, quantiles = (np.asarray(data[name], np.float64) for name in ("weights", "quantiles"))
            return cls(accuracy, int(data["n"]), weights, constant, slope, quantiles, error, tuple(map(str, data["kinds"])))
        except (KeyError, TypeError, ValueError):
            raise DataError(
                "what is stored to estimate accuracy is not readable by this version: store the reference again with `modeltiers profile`"
            ) from None


def fit_estimator(reference: AnsweredRows, shifted: Sequence[AnsweredRows] = ()) -> AccuracyEstimator:
    """The estimator for a model, from rows that it was not trained on.

    Args:
        reference: The rows of the reference.
        shifted: Rows that were shifted, each as its own window.

    Raises:
        DataError: There are no labelled rows, or they are something else.
    """
    known = reference.labelled()
    if not len(known.correct):
        raise DataError("expected at least one labelled row")
    windows = [one for one in (each.labelled() for each in shifted) if len(one.correct)]
    fitted = _fitted(known, windows)
    errors = list(_errors_of_left_out(known, windows))
    if not errors:
        return fitted
    kinds = tuple(dict.fromkeys(one.kind for one in windows))
    return replace(fitted, error=max(_LEAST_ERROR, float(np.quantile(errors, _LEFT_OUT))), kinds=kinds)


def _errors_of_left_out(reference: AnsweredRows, windows: Sequence[AnsweredRows]) -> Iterator[float]:
    """How far estimates of each kind of shift are off beyond chance, learnt from the others, as a share of how far the windows moved."""
    kinds = dict.fromkeys(one.kind for one in windows)
    for kind in kinds if len(kinds) > 1 else ():
        fitted = _fitted(reference, [one for one in windows if one.kind != kind])
        for one in windows:
            if one.kind == kind:
                chances = fitted.probabilities(one.measures)
                most, true = fitted._accuracy_of(chances), float(one.correct.mean())
                now = min(most, one.at_most)
                off = max(now - true, true - most) - fitted._chance(len(chances), now)
                yield max(0.0, off) / max(fitted._moved(chances), _LEAST_MOVED)


def _fitted(reference: AnsweredRows, windows: Sequence[AnsweredRows]) -> AccuracyEstimator:
    parts = [reference, *windows]
    # the reference weighs as much as a quarter of all windows: it is what most rows of most nights are like
    shares = [max(1.0, sum(len(one.correct) for one in windows) / 4 / len(reference.correct)), *[1.0] * len(windows)]
    measures = np.concatenate([one.measures for one in parts])
    correct = np.concatenate([one.correct for one in parts])
    weights = np.concatenate([np.full(len(one.correct), share) for one, share in zip(parts, shares, strict=True)])
    said = np.isfinite(measures).all(axis=1)
    slopes, constant = _log_odds(measures[said], correct[said] > 0, weights[said])
    accuracy = float(reference.correct.mean())
    first = AccuracyEstimator(accuracy, len(reference.correct), slopes, constant, 1.0, np.zeros(1))
    chances = first.probabilities(reference.measures)
    quantiles = np.quantile(chances, (np.arange(_QUANTILES) + 0.5) / _QUANTILES)
    falls = np.array([chances.mean() - first.probabilities(one.measures).mean() for one in windows])
    losses = np.array([accuracy - one.correct.mean() for one in windows])
    # a ridge towards 1, as of a window of ten points
    slope = float((falls @ losses + 0.01) / (falls @ falls + 0.01)) if windows else 1.0
    return AccuracyEstimator(accuracy, len(reference.correct), slopes, constant, max(slope, 0.0), quantiles)


def _log_odds(measures: Floats, right: NDArray[np.bool_], weights: Floats) -> tuple[Floats, float]:
    """Logistic regression with a ridge penalty of 1 in units of each measure's spread; no measure counts against an answer where it is high.

    Returns:
        Weights of the measures, and the constant.
    """
    from scipy.optimize import minimize

    if not len(measures):
        return np.zeros(measures.shape[1]), 0.0
    centre, spread = measures.mean(axis=0), np.maximum(measures.std(axis=0), _LEAST_SPREAD)
    standard = np.c_[(measures - centre) / spread, np.ones(len(measures))]
    loss = partial(_logistic_loss, standard, np.where(right, 1.0, -1.0), weights)
    bounds = [*[(0, None)] * measures.shape[1], (None, None)]
    found = minimize(loss, np.zeros(measures.shape[1] + 1), jac=True, bounds=bounds, method="L-BFGS-B").x
    slopes = np.asarray(found[:-1] / spread)
    return slopes, float(found[-1] - centre @ slopes)


def _logistic_loss(rows: Floats, signs: Floats, weights: Floats, at: Floats) -> tuple[float, Floats]:
    """The loss and its gradient; the constant, which is last, is not penalised."""
    from scipy.special import expit

    margins = signs * (rows @ at)
    penalised = np.append(at[:-1], 0.0)
    value = float(weights @ np.logaddexp(0.0, -margins) + penalised @ penalised / 2)
    return value, penalised - rows.T @ (weights * signs * expit(-margins))


def variance_of_share(share: float, n: int) -> float:
    """Of a share among so many rows; never nothing, as of a share of all of them."""
    shrunk = (share * n + 1) / (n + 2)
    return shrunk * (1 - shrunk) / n


def beyond_chance(usual: Floats, values: Floats) -> float:
    """By how much more values lie above some point than usual ones do, from 0 to 1, beyond what chance explains."""
    points = np.concatenate([usual, values])
    more = float((_share_up_to(np.sort(usual))(points) - _share_up_to(np.sort(values))(points)).max())
    noise = _noise(len(usual), len(values))
    return max(0.0, more - noise) / (1 - noise) if noise < 1 else 0.0


def _noise(one: int, other: int) -> float:
    return _KS_NOISE * math.sqrt(1 / one + 1 / other)


def _distance(values: Floats, others: Floats) -> float:
    """The most by which the share of values below some point differs."""
    points = np.concatenate([values, others])
    shares: list[Floats] = [_share_up_to(np.sort(each))(points) for each in (values, others)]
    return float(np.abs(shares[0] - shares[1]).max())


def _share_up_to(ordered: Floats) -> Callable[[Floats], Floats]:
    return lambda points: np.searchsorted(ordered, points, "right") / len(ordered)
