"""What is known of a per-sample score by its name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from harness.errors import did_you_mean
from harness.monitoring.errors import ComparisonError
from harness.monitoring.gate.pairs import Pairs

SHARE_MARGIN = 0.005
"""Half a point, the default margin of shares of right answers.

A true fall of one point should fail. On 5,000 samples of which 4% change, the fall that is seen strays from the true one by 0.3 points
(standard deviation), so a margin above 0.6 would let more than one such fall in ten pass. A margin below 0.5 would add nothing there: at an
alpha of 0.05 a fall is significant from 0.47 points. On fewer samples significance is the harder key, on more samples the margin is.
"""

SPREAD_MARGIN = 0.02
"""The default margin of other scores, in standard deviations of the baseline's scores over the samples.

It does not depend on the score's unit or its zero, and of a model with 93% right answers it is half a point as well.
"""


@dataclass(frozen=True)
class ScoreKind:
    """A kind of score.

    Attributes:
        label: What its mean is called.
        higher_is_better: What a greater one means.
        is_share: Whether its mean is a share of right answers, which is told in points of a hundred.
    """

    label: str
    higher_is_better: bool
    is_share: bool

    def default_margin(self, metric: str, pairs: Pairs) -> float:
        """The margin where the user gives none.

        Raises:
            ComparisonError: None follows from a baseline whose scores are all equal.
        """
        if self.is_share:
            return SHARE_MARGIN
        if not np.ptp(pairs.baseline):
            raise ComparisonError(f"the baseline's {metric!r} is the same everywhere, so no margin follows from it: give one")
        return SPREAD_MARGIN * float(pairs.baseline.std())


# A mean over samples is another number than a mean over all tokens, which is what an evaluation calls `loss` and `accuracy`.
_KINDS = {
    "loss": ScoreKind("loss per sample", higher_is_better=False, is_share=False),
    "squared_error": ScoreKind("squared error", higher_is_better=False, is_share=False),
    "absolute_error": ScoreKind("absolute error", higher_is_better=False, is_share=False),
    "correct": ScoreKind("accuracy", higher_is_better=True, is_share=True),
    "accuracy": ScoreKind("accuracy per sample", higher_is_better=True, is_share=True),
    "error_rate": ScoreKind("error rate per sample", higher_is_better=False, is_share=False),
}


def _known(metric: str) -> ScoreKind | None:
    """The kind of a score by its name, behind that of an output where there are several."""
    output, _, name = metric.rpartition(".")
    kind = _KINDS.get(name)
    return replace(kind, label=f"{kind.label} of {output}") if kind is not None and output else kind


def kind_of(metric: str, pairs: Pairs) -> ScoreKind:
    """The kind of a score whose direction is known; of other names, by its values."""
    known = _known(metric) or ScoreKind(metric, pairs.higher_is_better, pairs.is_right_or_wrong)
    return replace(known, higher_is_better=pairs.higher_is_better)


def direction_of(metric: str, given: Mapping[str, bool]) -> bool:
    """Whether a greater score is better.

    Args:
        metric: Name of the score.
        given: What the user says of scores with other names.

    Raises:
        ComparisonError: Neither the user nor the name says so.
    """
    if metric in given:
        return given[metric]
    known = _known(metric)
    if known is None:
        raise ComparisonError(
            f"is a greater {metric!r} better?{did_you_mean(metric, _KINDS)} Known are {', '.join(_KINDS)}; of others say it with "
            f"`higher_is_better={{{metric!r}: True}}`, or leave it out of `metrics`"
        )
    return known.higher_is_better
