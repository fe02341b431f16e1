"""Latency: what a sample supports is said with its bounds, what it does not support is not said."""

from __future__ import annotations

import gc
import json
import math
import random
import time
from collections.abc import Callable
from fractions import Fraction

import pytest

from harness.export.checks.performance import Comparison, Latency, compare_latency, fewest_calls, order_statistic_bounds


def busy(loops: int) -> Callable[[], object]:
    return lambda: sum(range(loops))


def skewed(rng: random.Random, n: int, scale: float = 1.0) -> list[float]:
    """Times as they are in practice: most near the fastest, a few far above."""
    return [scale * rng.lognormvariate(0, 0.3) for _ in range(n)]


@pytest.mark.parametrize(("quantile", "fewest"), [(0.5, 7), (0.9, 44), (0.99, 459)])
def test_a_quantile_has_an_upper_bound_from_a_certain_sample_on(quantile: float, fewest: int) -> None:
    assert fewest_calls(quantile) == fewest
    assert order_statistic_bounds(fewest - 1, quantile)[1] is None
    assert order_statistic_bounds(fewest, quantile)[1] == fewest - 1


@pytest.mark.parametrize("n", [7, 44, 60, 200, 1500])
@pytest.mark.parametrize("quantile", [0.5, 0.9])
def test_bounds_are_the_tightest_order_statistics_of_the_binomial_distribution(n: int, quantile: float) -> None:
    p = Fraction(str(quantile))

    def at_most(k: int) -> Fraction:
        return sum((math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1)), Fraction(0))

    lower, upper = order_statistic_bounds(n, quantile)
    if lower is not None:
        assert at_most(lower) <= Fraction(1, 100) < at_most(lower + 1)
    if upper is not None:
        assert 1 - at_most(upper) <= Fraction(1, 100) < 1 - at_most(upper - 1)


def test_bounds_hold_as_often_as_they_say() -> None:
    rng = random.Random(0)
    p90 = math.exp(0.3 * 1.2815515655446004)
    samples = [Latency.of(skewed(rng, 60)) for _ in range(2000)]
    for share in (
        sum(s.p50_bounds[0] <= 1.0 for s in samples),
        sum(s.p50_bounds[1] >= 1.0 for s in samples),
        sum(s.p90_bounds is not None and s.p90_bounds[0] <= p90 for s in samples),
        sum(s.p90_bounds is not None and s.p90_bounds[1] >= p90 for s in samples),
    ):
        assert share / 2000 >= 0.985


def test_no_percentile_beyond_what_the_sample_supports() -> None:
    rng = random.Random(0)
    few, some, many = (Latency.of(skewed(rng, n)) for n in (43, 60, 459))
    assert few.p90_bounds is None
    assert few.p99 is None
    assert some.p90_bounds is not None
    assert some.p99 is None
    assert many.p99 is not None
    assert many.p50_bounds[0] < many.p50 < many.p50_bounds[1] < many.p90 < many.p99


def test_percentiles_are_observations() -> None:
    latency = Latency.of([float(value) for value in range(1, 101)])
    assert (latency.iterations, latency.mean, latency.p50, latency.p90) == (100, 50.5, 50.0, 90.0)


def test_six_times_do_not_bound_a_median() -> None:
    with pytest.raises(ValueError, match="got 6 times, expected at least 7"):
        Latency.of([1.0] * 6)


def test_figures_survive_json() -> None:
    rng = random.Random(0)
    comparison = Comparison(Latency.of(skewed(rng, 60)), Latency.of(skewed(rng, 20)))
    assert Comparison.from_json(json.loads(json.dumps(comparison.to_json()))) == comparison


def test_equally_fast_sides_are_hardly_ever_told_apart() -> None:
    rng = random.Random(1)
    alarms = sum(Comparison(Latency.of(skewed(rng, 60)), Latency.of(skewed(rng, 60))).slower for _ in range(1000))
    assert alarms <= 20


def test_a_side_twice_as_slow_is_always_told() -> None:
    rng = random.Random(2)
    seen = sum(Comparison(Latency.of(skewed(rng, 60, 2.0)), Latency.of(skewed(rng, 60))).slower for _ in range(200))
    assert seen == 200


def test_real_calls() -> None:
    slow = compare_latency(busy(30_000), busy(10_000))
    assert slow.slower
    assert 0.2 < slow.speed_up < 0.6
    assert slow.artifact.iterations == slow.eager.iterations == 60
    assert not compare_latency(busy(10_000), busy(30_000)).slower


def test_calls_take_turns_in_an_order_that_the_seed_decides() -> None:
    def order(seed: int) -> str:
        calls: list[str] = []
        compare_latency(lambda: calls.append("a"), lambda: calls.append("e"), warm_up=2, seed=seed, budget=600.0)
        return "".join(calls)

    seen = order(0)
    pairs = [seen[i : i + 2] for i in range(4, len(seen), 2)]
    assert len(pairs) == 60
    assert {*pairs} == {"ae", "ea"}
    assert 15 < pairs.count("ae") < 45
    assert seen == order(0) != order(1)


def test_a_budget_leaves_as_many_calls_as_bound_a_median() -> None:
    comparison = compare_latency(lambda: time.sleep(0.01), lambda: time.sleep(0.01), budget=0.05)
    assert comparison.artifact.iterations == comparison.eager.iterations == 7
    assert comparison.artifact.p90_bounds is None


class Clock:
    """A clock on which calls take what they are said to, whatever else the machine is doing."""

    def __init__(self) -> None:
        self.nanoseconds = 0

    def perf_counter(self) -> float:
        return self.nanoseconds / 1e9

    def perf_counter_ns(self) -> int:
        return self.nanoseconds

    def call_of(self, milliseconds: int) -> Callable[[], object]:
        def call() -> None:
            self.nanoseconds += milliseconds * 1_000_000

        return call


def test_a_budget_is_used_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr("harness.export.checks.performance.time", clock)
    comparison = compare_latency(clock.call_of(5), clock.call_of(5), budget=0.4)
    assert 30 <= comparison.artifact.iterations <= 40
    assert 0.35 <= clock.perf_counter() <= 0.41


def test_fewer_iterations_are_refused() -> None:
    with pytest.raises(ValueError, match="got 10, expected at least 50"):
        compare_latency(busy(1), busy(1), iterations=10)


def test_the_collector_rests_while_calls_are_timed() -> None:
    seen: list[bool] = []
    compare_latency(lambda: seen.append(gc.isenabled()), busy(1))
    assert not any(seen)
    assert gc.isenabled()


def test_the_collector_is_back_after_a_call_that_raises() -> None:
    with pytest.raises(ZeroDivisionError):
        compare_latency(lambda: 1 / 0, busy(1))
    assert gc.isenabled()


def test_waiting_for_the_device_counts() -> None:
    pending: list[float] = []

    def launch() -> None:
        pending.append(0.002)

    def synchronise() -> None:
        while pending:
            time.sleep(pending.pop())

    comparison = compare_latency(launch, busy(1), synchronise=synchronise)
    assert comparison.slower
    assert comparison.artifact.p50 >= 2.0
