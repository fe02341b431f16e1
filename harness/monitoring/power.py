"""How many rows a window needs, known before there is one: for drift, for a loss of accuracy, and for thresholds."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from harness.config import SuiteConfig
from harness.errors import ConfigError
from harness.monitoring.drift import compare_profiles
from harness.monitoring.drift.verdict import Verdict
from harness.monitoring.features import GOOD_POWER
from harness.monitoring.memory import Memory
from harness.monitoring.reference import Reference, load_reference
from harness.monitoring.run import limits_of
from harness.wording import Answer, aligned

_TWO_SIDED = NormalDist().inv_cdf(0.975)
_POWER = NormalDist().inv_cdf(GOOD_POWER)
_TIMES = 2.0
"""Of how many floors or margins an effect is whose failure is planned for: one that is just at its floor is above it by chance only."""


@dataclass(frozen=True)
class Need:
    """The rows that a window needs for one verdict.

    Attributes:
        check: The check.
        what: What is to be found, in words.
        verdict: ``significant`` or ``fail``.
        rows: With which it is found in 80% of windows; ``None`` where no number of rows is enough, as the reference is too small.
    """

    check: str
    what: str
    verdict: str
    rows: int | None

    def to_json(self) -> dict[str, Any]:
        """The need as JSON-ready values."""
        return {**vars(self), "power": GOOD_POWER}

    @property
    def cells(self) -> list[str]:
        """A line of the table."""
        return [self.check, self.what, self.verdict, "the reference is too small" if self.rows is None else f"{self.rows:,}"]


def power_config(config: SuiteConfig) -> Answer:
    """The rows that windows of a config need; what ``modeltiers power`` prints.

    Raises:
        ConfigError: The config names neither a reference nor a threshold of accuracy.
        ExperimentError: There is no such reference.
    """
    reference = None
    if config.reference_profile_id is not None:
        with Memory(config.database).opened("reference_profile_id") as db:
            reference = load_reference(db, config.reference_profile_id)
    needs = [*([] if reference is None else _of_reference(config, reference)), *_of_thresholds(config)]
    if not needs:
        raise ConfigError("nothing to plan for: name a `reference_profile_id`, or a threshold of `accuracy` in `thresholds`")
    data = {"status": "ok", "needs": [need.to_json() for need in needs]}
    head = f"rows with which a window finds it, in {GOOD_POWER:.0%} of windows:"
    return Answer(data, "\n".join([head, "", aligned([["CHECK", "WHAT", "VERDICT", "ROWS"], *(need.cells for need in needs)])]))


def _of_reference(config: SuiteConfig, reference: Reference) -> Iterator[Need]:
    limits = limits_of(config)
    report = compare_profiles(reference.profile, reference.profile, limits.drift)
    for feature in report.features:
        for verdict in feature.verdicts:
            if verdict.difference.is_tested:
                yield from _of_drift(verdict)
    if reference.estimator is not None:
        margin = limits.impact_margin
        before, m = reference.estimator.accuracy, reference.estimator.n
        lost = _TIMES * margin
        if before > lost:
            what = f"a loss of {100 * lost:g} points from {before:.1%}, by labels (allowed {100 * margin:g})"
            yield Need("harm", what, "fail", rows_to_fail_a_loss(before, m, lost, margin))


def _of_drift(verdict: Verdict) -> Iterator[Need]:
    difference, effect = verdict.difference, verdict.difference.effect
    about = f"{'' if difference.aspect == 'values' else difference.aspect + ' of '}{difference.feature}: {effect.name} ="
    unusual = effect.none if verdict.usual is None else effect.none + verdict.usual.detectable(0.0, verdict.level)
    least, why = (effect.floor, "the floor") if unusual <= effect.floor else (unusual, f"more than in {verdict.spread}")
    if least < difference.resolution.most:
        rows = difference.resolution.needed(least, verdict.level, GOOD_POWER)
        yield Need("drift", f"{about} {least:.3g}, {why}", "significant", rows)
    large = effect.none + _TIMES * (least - effect.none)
    if effect.none < large <= difference.resolution.most:
        yield Need("drift", f"{about} {large:.3g}", "fail", rows_to_fail(verdict, large, least))


def rows_to_fail(verdict: Verdict, effect: float, least: float) -> int | None:
    """The rows with which a drift of a size is significant and measured above the least that counts in 80% of windows.

    Args:
        verdict: On the feature; its reference and number of tests count, and nothing of its window.
        effect: The true effect.
        least: The floor, or what is usual where that is more; below the effect.

    Returns:
        The rows; ``None`` where none are enough.
    """
    resolution, level = verdict.difference.resolution, verdict.level
    significant = resolution.needed(effect, level, GOOD_POWER)
    # a deviation of the measured effect, in units of sqrt(1/n + 1/m): what one more deviation of power costs
    deviation = (resolution.constant(level, GOOD_POWER) - resolution.constant(level, 0.5)) / _POWER
    spread = (effect - least) / (_POWER * deviation)
    inverse = spread**2 / resolution.design - 1 / resolution.reference_n
    if significant is None or inverse <= 0:
        return None
    return max(significant, math.ceil(1 / inverse / resolution.per_row))


def rows_to_fail_a_loss(before: float, m: int, loss: float, margin: float) -> int | None:
    """The labelled rows with which a loss of accuracy fails in 80% of windows; ``None`` where the reference is too small.

    Args:
        before: The accuracy of the reference.
        m: Its rows.
        loss: The true loss, above the margin.
        margin: The loss that is allowed.
    """
    now = before - loss
    variance = ((loss - margin) / (_TWO_SIDED + _POWER)) ** 2 - before * (1 - before) / m
    return None if variance <= 0 else math.ceil(now * (1 - now) / variance)


def _of_thresholds(config: SuiteConfig) -> Iterator[Need]:
    limit = config.thresholds.get("accuracy")
    for points in (0.02, 0.05, 0.1) if limit is not None else ():
        if limit is not None and limit - points > 0 and limit < 1:
            what = f"accuracy of {limit - points:.1%} below the threshold {limit:g}"
            yield Need("evaluation", what, "fail", rows_to_miss(limit, limit - points))


def rows_to_miss(limit: float, accuracy: float) -> int:
    """The rows with which a true accuracy misses a threshold with its whole interval in 80% of windows.

    Args:
        limit: The threshold.
        accuracy: The true accuracy, below it.
    """
    reach = _TWO_SIDED * math.sqrt(limit * (1 - limit)) + _POWER * math.sqrt(accuracy * (1 - accuracy))
    return math.ceil((reach / (limit - accuracy)) ** 2)
