"""Per-sample scores of two runs, compared."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

from harness.monitoring.errors import ComparisonError
from harness.monitoring.gate.alpha_spending import AlphaSpending
from harness.monitoring.gate.comparison import Comparison, Comparisons
from harness.monitoring.gate.measurement import Measurement, measure
from harness.monitoring.gate.pairs import Pairs
from harness.monitoring.gate.score_kinds import ScoreKind, direction_of, kind_of
from harness.monitoring.gate.slices import Sliced, SliceLabels
from harness.statistics import holm

if TYPE_CHECKING:
    from harness.experiments.records import Scores

_SLICES_SHARE = 0.5


def compare_scores(
    baseline: Scores,
    candidate: Scores,
    *,
    margin: float | None = None,
    alpha: float = 0.05,
    higher_is_better: bool,
    slices: SliceLabels | None = None,
    spending: AlphaSpending | None = None,
) -> Comparison:
    """Compares a candidate with a baseline by one score; see ``Comparison`` for how the verdict comes about.

    Args:
        baseline: The baseline's scores, ``[N]``.
        candidate: The candidate's, of the same samples in the same order. NaN marks a sample without a label.
        margin: How much worse is allowed, in the score's own units; by default half a point of a share of right answers, a fiftieth of
            the standard deviation of the baseline's scores otherwise.
        alpha: The probability of failing a candidate that is not worse.
        higher_is_better: What a greater score means.
        slices: A label a sample, ``[N]``, under the name of what is labelled; each part is compared as well. The whole keeps half of alpha.
        spending: How often the baseline was compared with before; by default this is the only time.

    Raises:
        ComparisonError: The scores cannot be paired, or an argument is impossible.
    """
    metric = candidate.metric
    margins = {} if margin is None else {metric: margin}
    directions = {metric: higher_is_better}
    both = {metric: baseline}, {metric: candidate}
    found = compare_all_scores(*both, margins=margins, alpha=alpha, higher_is_better=directions, slices=slices, spending=spending)
    return found[metric]


def compare_all_scores(
    baseline: Mapping[str, Scores],
    candidate: Mapping[str, Scores],
    *,
    margins: Mapping[str, float] | None = None,
    alpha: float = 0.05,
    higher_is_better: Mapping[str, bool] | None = None,
    slices: SliceLabels | None = None,
    spending: AlphaSpending | None = None,
) -> Comparisons:
    """Compares a candidate with a baseline by several scores, of which any may fail it; alpha is for all of them together.

    Args:
        baseline: The baseline's scores by name.
        candidate: The candidate's, under the same names.
        margins: How much worse is allowed, by name.
        alpha: The probability of failing a candidate that is not worse by any score.
        higher_is_better: What a greater score means, of names the project does not know.
        slices: As for ``compare_scores``.
        spending: As for ``compare_scores``.

    Raises:
        ComparisonError: The scores cannot be paired, or an argument is impossible.
    """
    if set(baseline) != set(candidate):
        raise ComparisonError(
            f"the scores have other names: the baseline's {', '.join(baseline)}; the candidate's {', '.join(candidate)}"
        )
    given = higher_is_better or {}
    pairs = {name: Pairs.of(baseline[name], candidate[name], direction_of(name, given)) for name in candidate}
    return Family.of(pairs, margins or {}, alpha, slices or {}).judged(spending)


@dataclass(frozen=True)
class _Member:
    """A score, measured on all samples and on slices."""

    metric: str
    kind: ScoreKind
    margin: float
    whole: Measurement
    is_right_or_wrong: bool
    parts: dict[str, Measurement]
    left_out: int

    @property
    def tests(self) -> list[Measurement]:
        return [self.whole, *self.parts.values()]

    @property
    def weights(self) -> list[float]:
        """Shares of the score's part of alpha: the slices together get half of it."""
        if not self.parts:
            return [1.0]
        return [1 - _SLICES_SHARE, *[_SLICES_SHARE / len(self.parts)] * len(self.parts)]


@dataclass(frozen=True)
class Family:
    """Everything that is tested of one candidate, measured but not yet judged.

    Attributes:
        members: One a score.
        alpha: The error allowed to them together.
    """

    members: tuple[_Member, ...]
    alpha: float

    @classmethod
    def of(cls, pairs: Mapping[str, Pairs], margins: Mapping[str, float], alpha: float, slices: SliceLabels) -> Family:
        """Measures pairs by the names of their scores.

        Raises:
            ComparisonError: An argument is impossible.
        """
        if not 0 < alpha < 0.5:
            raise ComparisonError(f"`alpha` is the probability of a false alarm, above 0 and below 0.5, not {alpha}")
        if not pairs:
            raise ComparisonError("there is no score to compare by")
        unknown = [name for name in margins if name not in pairs]
        if unknown:
            raise ComparisonError(f"a margin is given for {unknown[0]!r}, which is not compared: {', '.join(pairs)}")
        return cls(tuple(_measured(name, paired, margins.get(name), alpha, slices) for name, paired in pairs.items()), alpha)

    def judged(self, spending: AlphaSpending | None) -> Comparisons:
        """The verdicts, each at the level that Holm's correction and the alpha spending leave it."""
        weights = [weight / len(self.members) for member in self.members for weight in member.weights]
        p_values = [test.p for member in self.members for test in member.tests]
        adjusted = [min(1.0, p / _share(spending)) for p in holm(p_values, weights)]
        given = iter(zip(adjusted, weights, strict=True))
        return Comparisons(
            tuple(self._judge(member, list(islice(given, len(member.tests))), spending) for member in self.members)
        )

    def _judge(self, member: _Member, given: list[tuple[float, float]], spending: AlphaSpending | None) -> Comparison:
        names = ["", *member.parts]
        whole, *parts = (
            self._comparison(member, name, test, p, weight, spending)
            for name, test, (p, weight) in zip(names, member.tests, given, strict=True)
        )
        return replace(whole, slices=tuple(parts), slices_left_out=member.left_out)

    def _comparison(
        self, member: _Member, name: str, test: Measurement, p: float, weight: float, spending: AlphaSpending | None
    ) -> Comparison:
        level = self.alpha * _share(spending) * weight
        low, high = test.interval
        better_up = member.kind.higher_is_better
        return Comparison(
            metric=member.metric,
            slice=name,
            samples=test.precision.samples,
            baseline=test.baseline,
            candidate=test.candidate,
            difference=-test.worsening if better_up else test.worsening,
            interval=(-high, -low) if better_up else (low, high),
            p=test.p,
            p_adjusted=p,
            margin=member.margin,
            margin_p=test.margin_p,
            power=test.precision.power(member.margin, level),
            detectable=test.precision.detectable(level),
            needed=test.precision.needed(member.margin, level),
            alpha=self.alpha,
            look=spending.number if spending else 1,
            higher_is_better=better_up,
            label=member.kind.label,
            is_share=member.kind.is_share,
            is_same=self._is_same,
        )

    @property
    def _is_same(self) -> bool:
        """Equal answers may be chance where they are right or wrong; losses equal to the last bit are the same model's."""
        all_equal = all(member.whole.identical for member in self.members)
        return all_equal and not all(member.is_right_or_wrong for member in self.members)


def _measured(metric: str, pairs: Pairs, given: float | None, alpha: float, labels: SliceLabels) -> _Member:
    kind = kind_of(metric, pairs)
    margin = kind.default_margin(metric, pairs) if given is None else given
    if not (math.isfinite(margin) and margin > 0):
        raise ComparisonError(f"the margin of {metric!r} is how much worse is allowed, a number above 0, not {margin}")
    sliced = Sliced.of(pairs, labels)
    parts = {name: measure(part, margin, alpha) for name, part in sliced.parts.items()}
    return _Member(metric, kind, margin, measure(pairs, margin, alpha), pairs.is_right_or_wrong, parts, sliced.left_out)


def _share(spending: AlphaSpending | None) -> float:
    return spending.share if spending else 1.0
