"""Per-sample scores for the tests of the gate."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.experiments import Scores
from harness.monitoring.gate import compare_all_scores
from harness.monitoring.gate.comparison import Comparison


def scores(metric: str, values: Any, dataset: str = "digits") -> Scores:
    return Scores(metric, np.asarray(values, np.float64), dataset)


def compare_scores(
    baseline: Scores, candidate: Scores, *, higher_is_better: bool, margin: float | None = None, **options: Any
) -> Comparison:
    """The comparison by one score."""
    name = candidate.metric
    margins = {} if margin is None else {name: margin}
    both = {name: baseline}, {name: candidate}
    return compare_all_scores(*both, margins=margins, higher_is_better={name: higher_is_better}, **options)[name]


def right_or_wrong(samples: int, worse: int, better: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A baseline and a candidate of which ``worse`` samples are right in the first alone, ``better`` in the second alone, in no order."""
    order = np.random.default_rng(0).permutation(samples)
    baseline, candidate = np.ones(samples), np.ones(samples)
    candidate[order[:worse]] = 0
    baseline[order[worse : worse + better]] = 0
    return baseline, candidate


def losses(samples: int, seed: int = 0, worsening: float = 0.0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Losses of two models on samples of like difficulty."""
    random = np.random.default_rng(seed)
    difficulty = random.lognormal(size=samples)
    return difficulty * random.exponential(size=samples), difficulty * random.exponential(size=samples) + worsening
