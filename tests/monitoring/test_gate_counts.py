"""Right-or-wrong scores: the tests and the interval, against references and by complete enumeration."""

from __future__ import annotations

import math

import numpy as np
import pytest
from gate_scores import compare_scores, right_or_wrong, scores
from scipy.optimize import minimize_scalar
from scipy.stats import binom, binomtest, multinomial

from harness.evidence import Status
from harness.monitoring.gate.paired_tests import Precision, _tango_score, mcnemar_p, tango_interval, tango_margin_p


@pytest.mark.parametrize(("worse", "better"), [(0, 0), (5, 0), (0, 5), (7, 1), (60, 40), (2500, 2400)])
def test_p_is_that_of_the_binomial_test(worse: int, better: int) -> None:
    expected = binomtest(worse, worse + better, alternative="greater").pvalue if worse + better else 1.0
    assert mcnemar_p(worse, better) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("changing", [0.04, 0.2, 0.8])
@pytest.mark.parametrize("samples", [5, 50, 200])
def test_equal_models_fail_at_most_at_alpha(samples: int, changing: float) -> None:
    chance = 0.0
    for changes in range(samples + 1):
        worse = next((w for w in range(changes + 1) if mcnemar_p(w, changes - w) <= 0.05), changes + 1)
        chance += binom.pmf(changes, samples, changing) * binom.sf(worse - 1, changes, 0.5)
    assert chance <= 0.05


def restricted_likelihood_score(worse: int, better: int, samples: int, share: float) -> float:
    """Tango's statistic from its definition: the likelihood is maximised numerically, at a difference of ``share``."""
    counts = [worse, better, samples - worse - better]

    def unlikely(only_candidate: float) -> float:
        chances = [only_candidate + share, only_candidate, 1 - 2 * only_candidate - share]
        return -sum(count * math.log(max(chance, 1e-300)) for count, chance in zip(counts, chances, strict=True))

    bounds = max(0.0, -share), (1 - share) / 2
    only_candidate = minimize_scalar(unlikely, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
    return (worse - better - samples * share) / math.sqrt(samples * (2 * only_candidate + share - share**2))


@pytest.mark.parametrize("counts", [(12, 3, 100), (3, 12, 100), (40, 35, 2000)])
@pytest.mark.parametrize("share", [-0.2, -0.02, 0.01, 0.15])
def test_the_score_is_tangos(counts: tuple[int, int, int], share: float) -> None:
    assert _tango_score(*counts, share, 0.0) == pytest.approx(restricted_likelihood_score(*counts, share), abs=1e-5)


@pytest.mark.parametrize("samples", [20, 60, 150])
@pytest.mark.parametrize("margin", [0.005, 0.05, 0.2])
def test_a_candidate_worse_by_the_margin_is_rarely_shown_not_to_be(samples: int, margin: float) -> None:
    outcomes = [(worse, better) for worse in range(samples + 1) for better in range(samples + 1 - worse)]
    shown = [(w, b, samples - w - b) for w, b in outcomes if tango_margin_p(w, b, samples, margin) <= 0.05]
    for changing in np.geomspace(margin * 1.001, 0.9, 12):
        chances = [(changing + margin) / 2, (changing - margin) / 2, 1 - changing]
        size = multinomial.pmf(shown, samples, chances).sum() if shown else 0.0
        assert size <= 0.05, f"{changing:.3f} of the samples change"


@pytest.mark.parametrize("chances", [(0.02, 0.02), (0.03, 0.02), (0.2, 0.1), (0.0, 0.05)])
def test_the_interval_covers(chances: tuple[float, float]) -> None:
    samples, random = 200, np.random.default_rng(0)
    draws = random.multinomial(samples, [*chances, 1 - sum(chances)], size=1500)[:, :2].tolist()
    ends = np.array([tango_interval(worse, better, samples, 0.05) for worse, better in draws])
    truth = chances[0] - chances[1]
    assert (ends[:, 0] > truth).mean() <= 0.065
    assert (ends[:, 1] < truth).mean() <= 0.065


def test_interval_and_p_never_contradict_each_other() -> None:
    for samples in (10, 100, 1000):
        for worse in range(11):
            for better in range(11 - worse):
                low, high = tango_interval(worse, better, samples, 0.05)
                estimate = (worse - better) / samples
                assert -1 <= low <= estimate + 1e-9
                assert estimate <= high + 1e-9 <= 1 + 2e-9
                assert low <= 0 if mcnemar_p(worse, better) > 0.05 else low >= 0


@pytest.mark.parametrize(("samples", "changing"), [(200, 0.04), (1000, 0.2), (5000, 0.04), (5000, 0.002)])
def test_what_would_have_been_noticed_is_noticed_four_times_in_five(samples: int, changing: float) -> None:
    precision = Precision(samples, math.sqrt(changing), is_right_or_wrong=True)
    effect = precision.detectable(0.05)
    assert effect is not None
    assert precision.power(effect, 0.05) == pytest.approx(0.8, abs=1e-6)
    random = np.random.default_rng(0)
    total = max(changing, effect)
    changes = random.binomial(samples, total, 4000)
    worse = random.binomial(changes, (1 + effect / total) / 2)
    noticed = [mcnemar_p(w, c - w) <= 0.05 for w, c in zip(worse.tolist(), changes.tolist(), strict=True)]
    assert np.mean(noticed) == pytest.approx(0.81, abs=0.045)


@pytest.mark.parametrize("is_right_or_wrong", [True, False])
def test_as_many_samples_as_are_needed_suffice(is_right_or_wrong: bool) -> None:
    needed = Precision(100, 0.2, is_right_or_wrong).needed(0.005, 0.05)
    assert Precision(needed, 0.2, is_right_or_wrong).power(0.005, 0.05) >= 0.8
    assert Precision(needed - 2, 0.2, is_right_or_wrong).power(0.005, 0.05) < 0.8


def test_a_true_loss_of_one_point_is_caught_and_equal_models_are_not() -> None:
    random = np.random.default_rng(0)
    caught = failed = 0
    for _ in range(300):
        for chances, is_worse in (((0.03, 0.02), True), ((0.02, 0.02), False)):
            worse, better = random.multinomial(5000, [*chances, 1 - sum(chances)])[:2]
            before, after = right_or_wrong(5000, worse, better)
            found = compare_scores(scores("correct", before), scores("correct", after), higher_is_better=True)
            caught += is_worse and found.status is Status.FAIL
            failed += not is_worse and found.status is Status.FAIL
    assert caught >= 0.9 * 300
    assert failed <= 0.05 * 300
