"""How much worse a candidate did on paired samples, how small a worsening this many samples can show, and the tests that say so.

Differences are tested by the bootstrap, Student's t and sign flips; right and wrong answers by McNemar's test and Tango's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from harness.monitoring.gate.pairs import Pairs
from harness.statistics import Cumulants, blocks, normal_score, sign_flip_p, tilt_at_score, tilt_of

_ENOUGH_TO_RESAMPLE = 10


@dataclass(frozen=True)
class Measurement:
    """What paired scores say.

    Attributes:
        baseline: Mean score of the baseline.
        candidate: Mean score of the candidate.
        worsening: By how much the candidate is worse on average; negative where it is better.
        interval: Confidence interval of the worsening.
        p: Against the candidate not being worse, one-sided, not yet corrected.
        margin_p: Against the candidate being worse by the margin or more, one-sided.
        precision: What decides the power.
        identical: Whether every sample has the same score in both.
    """

    baseline: float
    candidate: float
    worsening: float
    interval: tuple[float, float]
    p: float
    margin_p: float
    precision: Precision
    identical: bool


def measure(pairs: Pairs, margin: float, alpha: float) -> Measurement:
    """Compares paired scores: those of groups by the means of the groups, right-or-wrong ones by their counts, others by their differences."""
    if pairs.groups is not None and pairs.units < len(pairs):
        found = _of_groups(pairs.worsening, pairs.groups, margin, alpha)
    elif pairs.is_right_or_wrong:
        found = _of_counts(pairs.worsening, margin, alpha)
    else:
        found = _of_differences(pairs.worsening, pairs.worsening, margin, alpha)
    interval, p, margin_p, precision = found
    return Measurement(
        baseline=float(pairs.baseline.mean()),
        candidate=float(pairs.candidate.mean()),
        worsening=float(pairs.worsening.mean()),
        interval=interval,
        p=p,
        margin_p=margin_p,
        precision=precision,
        identical=not pairs.worsening.any(),
    )


_Found = tuple[tuple[float, float], float, float, "Precision"]


def _of_counts(worsening: NDArray[np.float64], margin: float, alpha: float) -> _Found:
    counts = int((worsening > 0).sum()), int((worsening < 0).sum())
    samples = len(worsening)
    return (
        tango_interval(*counts, samples, alpha),
        mcnemar_p(*counts),
        tango_margin_p(*counts, samples, margin),
        Precision.of_counts(*counts, samples),
    )


def _of_groups(worsening: NDArray[np.float64], groups: NDArray[np.int64], margin: float, alpha: float) -> _Found:
    """By what each group adds, as samples of a group may get worse or better together.

    The mean over samples is a ratio of two sums over groups, of worsenings and of sizes; each group adds to it what its linear part says
    (the clustered errors of Miller, "Adding Error Bars to Evals", arXiv 2411.00640, 2024, and Liang and Zeger, Biometrika 73, 1986). Signs are
    flipped for whole groups: two models that are equal but for chance swap the scores of a group all at once.
    """
    _, which, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    sums = np.bincount(which, worsening)
    mean = float(worsening.mean())
    return _of_differences(mean + (sums - mean * sizes) / sizes.mean(), sums / sizes.mean(), margin, alpha)


def _of_differences(worsening: NDArray[np.float64], flipped: NDArray[np.float64], margin: float, alpha: float) -> _Found:
    """By two tests that must agree.

    Args:
        worsening: What each sample or group adds to the mean, ``[n]``.
        flipped: What changes its sign where the models swap their scores, ``[n]``.
        margin: How much worse is allowed.
        alpha: Of the interval.

    The bootstrap holds its level for skewed differences of equal mean, but on heavy tails raises false alarms in 8 to 13% of comparisons at
    an alpha of 5%, at any n; sign flips are exact there, but assume that equal models are exchangeable. The larger p is at most alpha where
    either's assumption holds.
    """
    unit = float(np.abs(worsening).max()) or 1.0  # squares of very large or small differences would leave the range of float64
    scaled = worsening / unit
    resampled = len(scaled) >= _ENOUGH_TO_RESAMPLE and bool(np.ptp(scaled))
    mean = BootstrapMean(scaled) if resampled else StudentMean(scaled)
    low, high = (unit * end for end in mean.interval(alpha))
    p = max(mean.p_at_most(0.0), sign_flip_p(flipped / unit))
    low = min(low, 0.0) if p > alpha else low
    precision = Precision(len(scaled), unit * float(scaled.std(ddof=1)), is_right_or_wrong=False)
    return (low, high), p, mean.p_at_least(margin / unit), precision


USUAL_POWER = 0.8


@dataclass(frozen=True)
class Precision:
    """What decides the power of a comparison.

    Attributes:
        samples: n, of samples or of groups.
        deviation: Standard deviation of a sample's worsening where the models are equal; of right-or-wrong scores, the root of the share of
            samples that change.
        is_right_or_wrong: Whether samples change by 1 or not at all. The test then is exact, and as many samples must change as the mean
            worsens: the variance grows with the effect (Connor, Biometrics 43, 1987).
    """

    samples: int
    deviation: float
    is_right_or_wrong: bool

    @classmethod
    def of_counts(cls, worse: int, better: int, samples: int) -> Precision:
        """Of right-or-wrong scores. One change and one sample are added, as no change in n samples does not mean that none ever changes."""
        return cls(samples, math.sqrt((worse + better + 1) / (samples + 2)), True)

    def power(self, effect: float, alpha: float) -> float:
        """How likely a true worsening of ``effect`` is significant at one-sided ``alpha``."""
        from scipy.special import ndtr, ndtri

        if self.samples < fewest_samples(alpha):
            return 0.0
        null, alternative = self._deviations(effect)
        reach = (effect - self._step / self.samples) * math.sqrt(self.samples) + float(ndtri(alpha)) * null
        return float(ndtr(reach / alternative)) if alternative > 0 else float(reach > 0)

    def detectable(self, alpha: float, power: float = USUAL_POWER) -> float | None:
        """The least true worsening that is significant with ``power``; ``None`` where n is too small for any."""
        from scipy.special import ndtri

        if self.samples < fewest_samples(alpha):
            return None
        if not self.is_right_or_wrong:
            return float(ndtri(power) - ndtri(alpha)) * self.deviation / math.sqrt(self.samples)
        if self.power(1.0, alpha) < power:
            return None
        return _crossing(lambda effect: self.power(effect, alpha) < power, 0.0, 1.0)

    def needed(self, effect: float, alpha: float, power: float = USUAL_POWER) -> int:
        """How many samples make a true worsening of ``effect`` significant with ``power``."""
        from scipy.special import ndtri

        null, alternative = self._deviations(effect)
        reach = float(ndtri(power)) * alternative - float(ndtri(alpha)) * null
        root = (reach + math.hypot(reach, 2 * math.sqrt(effect * self._step))) / (2 * effect)
        return max(math.ceil(root**2), fewest_samples(alpha))

    @property
    def _step(self) -> float:
        """What an exact test of counts loses to a continuous one, in samples."""
        return 0.5 if self.is_right_or_wrong else 0.0

    def _deviations(self, effect: float) -> tuple[float, float]:
        """Standard deviations of a sample's worsening, as the test assumes it and as it is under the effect."""
        if not self.is_right_or_wrong:
            return self.deviation, self.deviation
        changing = max(self.deviation**2, effect)
        return math.sqrt(changing), math.sqrt(max(changing - effect**2, 0.0))


def fewest_samples(alpha: float) -> int:
    """Below as many samples no outcome is significant: were all of them worse, chance would do the same once in ``2 ** n``."""
    return math.ceil(-math.log2(alpha))


class BootstrapMean:
    """The BCa bootstrap (Efron, JASA 82, 1987) of the mean of paired differences.

    The mean of a resample is a sum of n draws from the differences, whose distribution a saddlepoint approximation gives directly (Davison
    and Hinkley, Biometrika 75, 1988). So the result is not random and needs no seed, takes a few passes over the data, and
    resolves p-values far below what 10,000 resamples could, which corrected levels ask for. For a mean, bias correction and acceleration
    are the same number, a sixth of the skewness of the mean. Normal quantiles are widened to those of Student's t (Hesterberg, The American
    Statistician 69, 2015), without which any bootstrap interval is too narrow at small n.

    Args:
        values: The differences, ``[n]``, not all equal.
    """

    def __init__(self, values: NDArray[np.float64]) -> None:
        self._count = len(values)
        self._mean = float(values.mean())
        centred = values - self._mean
        self._scale = math.sqrt(float(np.square(centred).sum()))
        self._centred = centred / self._scale

    def interval(self, alpha: float) -> tuple[float, float]:
        """The confidence interval of the mean, with alpha on either side."""
        return self._end(alpha), self._end(1 - alpha)

    def p_at_most(self, bound: float) -> float:
        """How far the mean speaks against a true mean of ``bound`` or less: the alpha whose interval begins at ``bound``."""
        return self._level(bound)

    def p_at_least(self, bound: float) -> float:
        """How far the mean speaks against a true mean of ``bound`` or more: the alpha whose interval ends at ``bound``."""
        return 1 - self._level(bound)

    @cached_property
    def _acceleration(self) -> float:
        return float((self._centred * self._centred * self._centred).sum()) / 6

    @property
    def _widening(self) -> float:
        return math.sqrt(self._count / (self._count - 1))

    def _end(self, level: float) -> float:
        from scipy.special import stdtrit

        shift = self._acceleration
        moved = shift + self._widening * float(stdtrit(self._count - 1, level))
        stretch = 1 - shift * moved
        score = shift + moved / stretch if stretch > 0 else math.copysign(math.inf, moved)
        return self._quantile(score)

    def _quantile(self, score: float) -> float:
        least, greatest = float(self._centred.min()), float(self._centred.max())
        if math.isinf(score):
            return self._mean + self._scale * (greatest if score > 0 else least)
        tilt = tilt_at_score(self._cumulants, score)
        return self._mean + self._scale * self._cumulants(tilt).slope / self._count

    def _level(self, bound: float) -> float:
        """The level at which an end of the interval is ``bound``."""
        from scipy.special import stdtr

        score, shift = self._score(bound), self._acceleration
        stretch = 1 + shift * (score - shift)
        if math.isinf(score) or stretch <= 0:
            return 0.0 if score < 0 else 1.0
        return float(stdtr(self._count - 1, ((score - shift) / stretch - shift) / self._widening))

    def _score(self, bound: float) -> float:
        """The normal quantile of the share of resamples whose mean is at most ``bound``."""
        target = (bound - self._mean) / self._scale
        if target <= self._centred.min():
            return -math.inf
        if target >= self._centred.max():
            return math.inf
        tilt = tilt_of(self._cumulants, target * self._count)
        return normal_score(tilt, self._cumulants(tilt))

    def _cumulants(self, tilt: float) -> Cumulants:
        """Of the sum of n draws."""
        peak = max(tilt * float(self._centred.min()), tilt * float(self._centred.max()))
        weight = first = second = 0.0
        for part in blocks(self._centred):
            weights = np.exp(tilt * part - peak)
            weight += float(weights.sum())
            first += float(weights @ part)
            second += float(weights @ (part * part))
        mean = first / weight
        return Cumulants(
            value=self._count * (peak + math.log(weight / self._count)),
            slope=self._count * mean,
            curvature=self._count * max(second / weight - mean * mean, 0.0),
        )


class StudentMean:
    """The mean of paired differences by Student's t (1908).

    Args:
        values: The differences, ``[n]`` with n of at least 2.
    """

    def __init__(self, values: NDArray[np.float64]) -> None:
        self._freedom = len(values) - 1
        self._mean = float(values.mean())
        self._error = float(values.std(ddof=1)) / math.sqrt(len(values))

    def interval(self, alpha: float) -> tuple[float, float]:
        """The confidence interval of the mean, with alpha on either side."""
        from scipy.special import stdtrit

        half = -float(stdtrit(self._freedom, alpha)) * self._error
        return self._mean - half, self._mean + half

    def p_at_most(self, bound: float) -> float:
        """How far the mean speaks against a true mean of ``bound`` or less."""
        return self._upper_tail(self._mean - bound)

    def p_at_least(self, bound: float) -> float:
        """How far the mean speaks against a true mean of ``bound`` or more."""
        return self._upper_tail(bound - self._mean)

    def _upper_tail(self, excess: float) -> float:
        from scipy.special import stdtr

        if self._error == 0:
            return 0.0 if excess > 0 else 1.0
        return float(stdtr(self._freedom, -excess / self._error))


_HALVINGS = 60
_CORRECTION = 0.5


def mcnemar_p(worse: int, better: int) -> float:
    """The exact one-sided McNemar test (1947): how likely as many are worse, were each change as likely the other way.

    Given how many samples changed, ``worse`` is binomial with a half. The mid-p variant counts the observed outcome by half and so has more
    power, but exceeds alpha at some n; a gate whose rate of false alarms is promised at every n cannot use it.
    """
    from scipy.special import betainc

    return float(betainc(worse, better + 1, 0.5)) if worse else 1.0


def tango_margin_p(worse: int, better: int, samples: int, margin: float) -> float:
    """Tests whether the candidate is worse by the margin or more; small where it is shown not to be.

    Tango's score test of non-inferiority for paired proportions (Statistics in Medicine 17, 1998), with a continuity correction of half a
    sample. Uncorrected it exceeds alpha by up to a half at n below 100. Corrected it never does, by complete enumeration at n from 5 to 700
    and alpha of 0.05 and 0.025, for margins up to 0.3 and as long as one sample in ten stays as it was; at alpha of 0.005 it does by at
    most a tenth.
    """
    from scipy.special import ndtr

    return float(ndtr(_tango_score(worse, better, samples, margin, _CORRECTION)))


def tango_interval(worse: int, better: int, samples: int, alpha: float) -> tuple[float, float]:
    """The confidence interval of the worsening, a difference of shares, with alpha on either side.

    It holds the differences that Tango's score test, corrected for continuity, does not reject; whether 0 is among them is left to the
    exact McNemar test, so that the interval and the p-value never contradict each other.
    """
    from scipy.special import ndtri

    bar = float(-ndtri(alpha))
    estimate = (worse - better) / samples
    low = _crossing(lambda share: _tango_score(worse, better, samples, share, -_CORRECTION) > bar, -1.0, estimate)
    high = _crossing(lambda share: _tango_score(worse, better, samples, share, _CORRECTION) >= -bar, estimate, 1.0)
    significant = mcnemar_p(worse, better) <= alpha
    return (max(low, 0.0) if significant else min(low, 0.0)), high


def _tango_score(worse: int, better: int, samples: int, share: float, correction: float) -> float:
    """Tango's statistic for a true difference of ``share``; greater where the counts speak for a greater difference."""
    linear = (2 * samples - worse + better) * share - worse - better
    constant = better * share * (1 - share)
    only_candidate = (math.sqrt(max(linear**2 + 8 * samples * constant, 0.0)) - linear) / (4 * samples)
    variance = samples * (2 * only_candidate + share * (1 - share))
    excess = worse - better - samples * share + correction
    return excess / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, excess)


def _crossing(holds: Callable[[float], bool], low: float, high: float) -> float:
    """Where a condition that holds at ``low`` ceases to."""
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
