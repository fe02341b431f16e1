"""How much worse a candidate did on paired samples, and how small a worsening this many samples can show."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.monitoring.gate.paired_tests import BootstrapMean, StudentMean, mcnemar_p, tango_interval, tango_margin_p
from harness.monitoring.gate.pairs import Pairs
from harness.statistics import sign_flip_p

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
    """Compares paired scores; right-or-wrong ones by their counts, others by their differences."""
    of_kind = _of_counts if pairs.is_right_or_wrong else _of_differences
    interval, p, margin_p, precision = of_kind(pairs.worsening, margin, alpha)
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


def _of_differences(worsening: NDArray[np.float64], margin: float, alpha: float) -> _Found:
    """By two tests that must agree.

    The bootstrap holds its level for skewed differences of equal mean, but on heavy tails raises false alarms in 8 to 13% of comparisons at
    an alpha of 5%, at any n; sign flips are exact there, but assume that equal models are exchangeable. The larger p is at most alpha where
    either's assumption holds.
    """
    unit = float(np.abs(worsening).max()) or 1.0  # squares of very large or small differences would leave the range of float64
    scaled = worsening / unit
    resampled = len(scaled) >= _ENOUGH_TO_RESAMPLE and bool(np.ptp(scaled))
    mean = BootstrapMean(scaled) if resampled else StudentMean(scaled)
    low, high = (unit * end for end in mean.interval(alpha))
    p = max(mean.p_at_most(0.0), sign_flip_p(scaled))
    low = min(low, 0.0) if p > alpha else low
    precision = Precision(len(scaled), unit * float(scaled.std(ddof=1)), is_right_or_wrong=False)
    return (low, high), p, mean.p_at_least(margin / unit), precision


USUAL_POWER = 0.8
_HALVINGS = 50


@dataclass(frozen=True)
class Precision:
    """What decides the power of a comparison.

    Attributes:
        samples: n.
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
        low, high = 0.0, 1.0
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if self.power(middle, alpha) < power else (low, middle)
        return high

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
