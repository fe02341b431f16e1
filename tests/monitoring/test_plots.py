"""Plots of drift as data: bounded, ready for JSON, true to the counts."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from harness.charts.pictures import distributions_of
from harness.monitoring.drift import compare_profiles
from harness.monitoring.drift.listing import MOST_PLOTS, plots_of
from harness.monitoring.features.numeric import MOST_POINTS
from harness.monitoring.profiles import profile_columns

Columns = dict[str, NDArray[Any]]


def plotted(reference: Columns, current: Columns, categorical: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """The plots, after a way through JSON; each is drawn by the health report, or this fails."""
    profile = profile_columns(reference, categorical=categorical)
    window = profile_columns(current, profile)
    found = plots_of(compare_profiles(profile, window), profile, window)
    stored: list[dict[str, Any]] = json.loads(json.dumps(found, allow_nan=False))
    drawn = distributions_of({"plots": stored})
    assert [found.chart.title for found in drawn] == [plot["title"] for plot in stored]
    for plot in stored:
        assert len(plot["reference"]) == len(plot["current"]) <= MOST_POINTS
        assert sum(plot["reference"]) == pytest.approx(1, abs=1e-4)
        assert sum(plot["current"]) == pytest.approx(1, abs=1e-4)
    return stored


def normal(n: int, seed: int, shift: float = 0.0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(shift, 1, n)


def test_numbers_become_shares_between_edges_on_the_axis_of_values() -> None:
    before, now = normal(5000, 0), normal(5000, 1, 1.0)
    [plot] = plotted({"age": before}, {"age": now})
    assert (plot["feature"], plot["title"], plot["kind"], plot["contribution"]) == ("age", "age", "numeric", 1.0)
    assert plot["edges"] == sorted(plot["edges"])
    assert len(plot["edges"]) == len(plot["reference"]) - 1
    for values, shares in ((before, plot["reference"]), (now, plot["current"])):
        below = [(values < edge).mean() for edge in plot["edges"]]
        assert np.cumsum(shares)[:-1] == pytest.approx(below, abs=1e-4)


def test_the_caption_says_how_much_and_where() -> None:
    [plot] = plotted({"age": normal(5000, 0)}, {"age": normal(5000, 1, 1.0)})
    assert plot["caption"].startswith("KS D 0.")
    assert "100% of the drift; the share below" in plot["caption"]


def test_a_frequent_value_keeps_a_bin_of_its_own() -> None:
    before, now = normal(5000, 0), normal(5000, 1)
    before[:1000], now[:3000] = 0.25, 0.25
    [plot] = plotted({"spend": before}, {"spend": now})
    at = plot["edges"].index(0.25) + 1
    assert (plot["reference"][at], plot["current"][at]) == pytest.approx((0.2, 0.6))


def test_a_feature_of_few_values_becomes_bars() -> None:
    before, now = np.repeat([0.0, 1.0], [900, 100]), np.repeat([0.0, 1.0, 2.0], [500, 400, 100])
    [plot] = plotted({"flag": before}, {"flag": now})
    assert plot["kind"] == "categorical"
    assert dict(zip(plot["labels"], zip(plot["reference"], plot["current"], strict=True), strict=True)) == {
        "0": (0.9, 0.5),
        "1": (0.1, 0.4),
        "above 1": (0.0, 0.1),
    }


def test_a_constant_that_no_longer_is_one_becomes_bars() -> None:
    [plot] = plotted({"version": np.full(500, 3.0)}, {"version": np.repeat([1.0, 3.0, 5.0], [100, 300, 100])})
    assert (plot["labels"], plot["reference"], plot["current"]) == (
        ["below 3", "3", "above 3"],
        [0.0, 1.0, 0.0],
        [0.2, 0.6, 0.2],
    )


def test_levels_are_those_that_changed_most_and_the_others_are_counted_together() -> None:
    levels = np.array([f"city {number}" for number in range(40)])
    now = np.concatenate([np.repeat(levels, 50), np.full(800, "city 7"), np.full(600, "elsewhere")])
    [plot] = plotted({"city": np.repeat(levels, 100)}, {"city": now})
    assert plot["labels"][0] == "city 7"
    assert plot["labels"][-2:] == ["(other levels)", "(never seen before)"]
    assert len(plot["labels"]) == 12
    assert plot["current"][0] == pytest.approx(850 / 3400, abs=1e-5)
    assert plot["current"][-1] == pytest.approx(600 / 3400, abs=1e-5)


def test_values_that_went_missing_are_shown_as_such() -> None:
    now = normal(3000, 1)
    now[:900] = np.nan
    [plot] = plotted({"age": normal(3000, 0)}, {"age": now})
    assert (plot["title"], plot["labels"], plot["current"]) == ("age: missing values", ["finite", "NaN"], [0.7, 0.3])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_window_without_a_finite_value_has_a_plot_of_that(value: float) -> None:
    [plot] = plotted({"age": normal(3000, 0)}, {"age": np.full(500, value)})
    assert plot["current"] == [0.0, 1.0]
    [of_vectors] = plotted({"place": normal(3000, 0).reshape(-1, 3)}, {"place": np.full((500, 3), value)})
    assert of_vectors["title"] == "place: missing values"


def test_vectors_are_shown_along_the_direction_where_they_differ_most() -> None:
    generator = np.random.default_rng(0)
    before, now = generator.normal(size=(3000, 8)), generator.normal(size=(3000, 8)) + 2 * np.eye(8)[:2].sum(axis=0)
    [plot] = plotted({"embedding": before}, {"embedding": now})
    gap = np.abs(np.cumsum(plot["reference"]) - np.cumsum(plot["current"])).max()
    assert plot["kind"] == "numeric"
    assert gap == pytest.approx(float(plot["caption"].split(";")[0].removeprefix("KS D ")), abs=0.03)
    assert "random direction" in plot["caption"]


def test_only_what_drifted_is_plotted_most_of_the_drift_first() -> None:
    before = {name: normal(3000, seed) for seed, name in enumerate("abc")}
    now = {"a": normal(3000, 10), "b": normal(3000, 11, 0.6), "c": normal(3000, 12, 1.2)}
    plots = plotted(before, now)
    assert [plot["feature"] for plot in plots] == ["c", "b"]
    assert plots[0]["contribution"] > plots[1]["contribution"] > 0
    assert plotted(before, {name: normal(3000, 20 + seed) for seed, name in enumerate("abc")}) == []


def test_a_hundred_features_make_six_plots_of_a_few_kilobytes() -> None:
    before = {f"feature_{number}": normal(2000, number) for number in range(100)}
    now = {f"feature_{number}": normal(2000, 100 + number, 1.0) for number in range(100)}
    plots = plotted(before, now)
    assert len(plots) == MOST_PLOTS
    assert len(json.dumps(plots)) < 12_000


def test_six_of_a_group_are_plotted_though_others_contribute_more() -> None:
    shifts = {f"output.{number}": 2.0 for number in range(9)} | {f"input_{number}": 0.5 for number in range(3)}
    before = {name: normal(2000, seed) for seed, name in enumerate(shifts)}
    now = {name: normal(2000, 100 + seed, shift) for seed, (name, shift) in enumerate(shifts.items())}
    profile = profile_columns(before)
    window = profile_columns(now, profile)
    report = compare_profiles(profile, window)
    of_all, of_inputs = (
        plots_of(report, profile, window),
        plots_of(report, profile, window, among=set(before) - set(list(before)[:9])),
    )
    assert all(plot["feature"].startswith("output.") for plot in of_all)
    assert {plot["feature"] for plot in of_inputs} == {"input_0", "input_1", "input_2"}


def test_features_without_a_profile_and_empty_windows_have_no_plot() -> None:
    before = {"age": normal(500, 0)}
    assert plotted(before, {"age": normal(0, 0)}) == []
    profile, window = profile_columns(before), profile_columns({"age": normal(500, 1, 2.0)})
    report = compare_profiles(profile, profile_columns({"age": normal(500, 1, 2.0)}, profile))
    assert plots_of(report, profile.only([]), window) == []


@pytest.mark.parametrize("kind", ["normal", "standard_cauchy", "exponential", "poisson"])
@pytest.mark.parametrize("exponent", [-300, -8, 0, 8, 299])
def test_whatever_the_values_the_plot_is_bounded_and_adds_up(kind: str, exponent: int) -> None:
    generator = np.random.default_rng(0)
    before, now = (np.asarray(getattr(generator, kind)(size=n), np.float64) for n in (2000, 1000))
    before[generator.random(2000) < 0.2], now[generator.random(1000) < 0.5] = 0.0, 0.0
    scale = 10.0**exponent
    assert len(plotted({"x": before * scale}, {"x": (now + 1) * scale})) == 1
