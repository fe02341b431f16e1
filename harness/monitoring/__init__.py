"""The options of monitoring: how much drift matters, the limits of metrics, and how much worse than a baseline a model may be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from statistics import NormalDist
from typing import TYPE_CHECKING

from harness.evaluation import check_metrics, chosen_metrics
from harness.evidence import Status
from harness.tasks import TaskSpec

if TYPE_CHECKING:
    from typing_extensions import Self

IMPACT = "harm"
"""The key of ``margins`` for the loss of accuracy on drifted data."""

IMPACT_MARGIN = 0.05

COMPARISONS = 7
"""How many comparisons with a baseline share alpha, where the config does not say: the most that keep each 80% of the power of the only one
(`benchmarks/gate.py --only looks`)."""

_LOWER_IS_BETTER = ("perplexity", "mae", "rmse")


NOTED_POWER = 0.5
"""Where no power is asked for, it is said that rows are too few if what matters would more likely be missed than seen."""


class Finding(str, Enum):
    """What a comparison comes to. A member is its name in words, and what that means for the gate."""

    status: Status

    def __new__(cls, words: str, status: Status) -> Self:
        """A member: ``DRIFTED = "drifted", Status.FAIL``."""
        found = str.__new__(cls, words)
        found._value_ = words
        found.status = status
        return found

    @property
    def code(self) -> str:
        """The finding in snake case; empty where it is no reason to warn."""
        return "" if self.status is Status.OK else self.value.replace(" ", "_")


@dataclass(frozen=True)
class FeatureFloor:
    """The least change of a feature that matters, in units that a person has.

    Attributes:
        share: So large a share of the rows has another value: of numbers lies on the other side of some point, of categories is in another of
            two that were equally frequent.
        deviations: The mean of numbers is so many of their standard deviations away.

    Raises:
        ValueError: Not exactly one of the two is given, or the share is more than 1.
    """

    share: float | None = None
    deviations: float | None = None

    def __post_init__(self) -> None:
        if (self.share is None) == (self.deviations is None):
            raise ValueError(
                "a floor of a feature is a `share` of the rows, or a number of standard `deviations`: give one of them"
            )
        if self.share is not None and self.share > 1:
            raise ValueError(f"a share of the rows is at most 1, got {self.share:g}: write 0.05 for 5%")

    @property
    def effect(self) -> float:
        """As a KS distance and as Cramér's V; a normal distribution that moves by ``d`` deviations has a distance of ``2 F(d/2) - 1``."""
        return self.share if self.share is not None else 2 * NormalDist().cdf((self.deviations or 0.0) / 2) - 1


@dataclass(frozen=True)
class Floors:
    """The least effects that matter, whatever the number of rows.

    Attributes:
        ks: Kolmogorov and Smirnov's distance D of numbers: the most by which the share of values below some point differs.
        cramers_v: Bias-corrected Cramér's V of categories, for samples of one size: 0.15 is two equally frequent categories at 58% and 42%.
        features: Other floors of single features, by name.
    """

    ks: float = 0.1
    cramers_v: float = 0.15
    features: Mapping[str, FeatureFloor] = field(default_factory=dict)

    def of(self, feature: str) -> Floors:
        """The floors of a feature."""
        own = self.features.get(feature)
        return self if own is None else Floors(own.effect, own.effect)

    def __post_init__(self) -> None:
        if not (0 <= self.ks <= 1 and 0 <= self.cramers_v <= 1):
            raise ValueError(f"a floor must be 0 to 1, got ks={self.ks} and cramers_v={self.cramers_v}")


@dataclass(frozen=True)
class DriftOptions:
    """How two profiles are compared.

    Attributes:
        alpha: The probability of a failure without drift, at most.
        floors: The least effects that matter.
        min_power: How likely a drift at its floor must be detected, or else the window warns that its rows are too few. ``None``: below 0.5
            that is said, and no warning; 0: it is not said either.
        windows: How many windows share alpha, such as the nights of a year: any of them fails by mistake with a probability of at most alpha.
        least_expected: Values that a cell of a table of categories expects of either sample at least; more than 5 where the level is so small
            that no number of random tables would reach it, and the chi-square distribution must hold.
        draws: The most random tables that are drawn where no formula gives a p-value; more where there are many features. 0 where only
            effects are wanted, and no p-values.

    Raises:
        ValueError: ``alpha`` or ``min_power`` is not a probability that can be asked for.
    """

    alpha: float = 0.05
    floors: Floors = Floors()
    min_power: float | None = None
    draws: int = 1_999
    windows: int = 1
    least_expected: float = 5.0

    def __post_init__(self) -> None:
        if self.windows < 1:
            raise ValueError(f"alpha is shared by one window at least, got {self.windows}")
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha must be above 0 and below 1, got {self.alpha}")
        if self.min_power is not None and not 0 <= self.min_power < 1:
            raise ValueError(f"min_power must be 0 or more and below 1, got {self.min_power}")

    @property
    def noted_power(self) -> float:
        """The power below which it is said that rows are too few."""
        return NOTED_POWER if self.min_power is None else self.min_power


DEFAULT_DRIFT_OPTIONS = DriftOptions()


YEAR = 365
"""Windows of a year of nights."""


def windows_at(place: int) -> int:
    """How many windows share alpha with one that has so many before it, where windows have no end.

    The windows of a year share a part of alpha alike, and years have parts that fall with the square of their number, so that all windows of
    all time fail by mistake with a probability of at most alpha. The first year shares as 601 windows would, the tenth as 60,041.
    """
    return math.ceil(YEAR * (place // YEAR + 1) ** 2 * math.pi**2 / 6)


@dataclass(frozen=True)
class Limits:
    """The limits a model is monitored by.

    Attributes:
        thresholds: The limit of a metric by name: a minimum, or a maximum for losses and errors.
        margins: How much worse than its baseline a model may be, by the name of a per-sample score and in its units (``correct`` and
            ``accuracy``: 0.005 is half a point); ``harm`` for the accuracy on drifted data.
        drift: How the data is compared with the reference; its ``alpha`` and ``min_power`` are also those of the comparison with a baseline.
        expected_comparisons: How many comparisons in a row with one baseline share alpha.
        is_unlimited: Whether the windows that share alpha have no end; ``drift`` has the number for the first of them.
    """

    thresholds: Mapping[str, float] = field(default_factory=dict)
    margins: Mapping[str, float] = field(default_factory=dict)
    drift: DriftOptions = DriftOptions()
    expected_comparisons: int = COMPARISONS
    is_unlimited: bool = False

    @property
    def impact_margin(self) -> float:
        """The loss of accuracy that is allowed, as a share."""
        return self.margins.get(IMPACT, IMPACT_MARGIN)

    @property
    def score_margins(self) -> dict[str, float]:
        """The margins of the comparison with a baseline."""
        return {name: margin for name, margin in self.margins.items() if name != IMPACT}

    def metrics(self, task: TaskSpec) -> tuple[str, ...]:
        """What must be measured: the task's metrics, and those with a threshold.

        Raises:
            ConfigError: The task has no metric of a name.
        """
        check_metrics(task, self.thresholds, "thresholds")
        return tuple(dict.fromkeys((*chosen_metrics(task), *self.thresholds)))


DEFAULT_LIMITS = Limits()


def is_better_low(metric: str) -> bool:
    """Whether a smaller value of a metric is better, as of losses and errors; an output's metric begins with its name."""
    name = metric.rpartition(".")[2].lower()
    return name in _LOWER_IS_BETTER or "loss" in name or "error" in name
