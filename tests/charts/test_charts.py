"""Charts: legible in every room, the same bytes whatever the user's settings, and safe within a page."""

from __future__ import annotations

import math
import re
from concurrent.futures import ThreadPoolExecutor
from xml.etree import ElementTree

import matplotlib
import pytest
from matplotlib.figure import Figure

from harness.charts import DARK, LIGHT, Axis, Band, Line, LineChart, Mark, Point, Span, Tick, limits_of, tick_labels, ticks_of
from harness.charts.drawing import draw_lines, plain_matplotlib
from harness.charts.page import css_variables, draw_svg

HOSTILE = "</title><script>alert('x')</script>\" onload=\"y|$\\frac{$"
CHART = LineChart(
    "Loss",
    "of a training",
    "It falls.",
    (
        Line("training", "raw", (1, 2, 3, 4), (4.0, 3.0, 2.5, 2.0)),
        Line("validation", "epochs", (2, 4), (3.5, 2.5)),
        Line("before", "start", (0,), (5.0,)),
    ),
    Axis("step", 0, 4, whole=True),
    Axis(low=0),
    Band((1, 2, 3, 4), (3.0, 2.0, None, 1.0), (5.0, 4.0, None, 3.0)),
    (Span(1.5, 3.5, "not finite"),),
    Mark(3, "best"),
)


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (0.0, 6.3), (1.3, 1.31), (-5.0, 2.0), (0.0, 3e-4), (0.0, 1e6), (1e20, 3e20)]
)
def test_linear_ticks_are_few_round_and_inside(low: float, high: float) -> None:
    ticks = ticks_of(Axis(low=low, high=high))
    assert 2 <= len(ticks) <= 7
    room = 1e-6 * (high - low)
    assert all(low - room <= tick.place <= high + room for tick in ticks)
    assert len({tick.label for tick in ticks}) == len(ticks)
    assert all(len(tick.label) <= 7 for tick in ticks)


@pytest.mark.parametrize(("low", "high"), [(1e-8, 1e8), (0.5, 20.0), (1.0, 10.0), (2.0, 3.0), (1.1, 1.2), (1e-300, 1e300)])
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_logarithmic_ticks_are_few_and_inside(low: float, high: float) -> None:
    ticks = ticks_of(Axis(low=low, high=high, log=True))
    assert 2 <= len(ticks) <= 9
    assert all(low * (1 - 1e-9) <= tick.place <= high * (1 + 1e-9) for tick in ticks)
    assert len({tick.label for tick in ticks}) == len(ticks)


@pytest.mark.parametrize("last", [1, 2, 7, 99, 1_000, 12_345, 1_000_000])
def test_ticks_of_steps_are_whole_numbers(last: int) -> None:
    ticks = ticks_of(Axis(low=0, high=last, whole=True))
    assert 2 <= len(ticks) <= 7
    assert all(tick.place == int(tick.place) for tick in ticks)


@pytest.mark.parametrize("values", [[0.0], [1.0], [-3.0], [1e-30, 2e-30], [5.0, 5.0 + 1e-15], [0.0, 1e299]])
def test_an_axis_shows_all_its_values(values: list[float]) -> None:
    low, high = limits_of(Axis(), values)
    assert low < min(values)
    assert max(values) < high
    assert ticks_of(Axis(), low, high)


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([0.0, 0.5, 1.0], ["0", "0.5", "1.0"]),
        ([0.0, 0.25, 0.5], ["0", "0.25", "0.50"]),
        ([0.0, 1e-4, 2e-4], ["0", "1e-4", "2e-4"]),
        ([0.0, 20_000.0, 40_000.0], ["0", "20k", "40k"]),
        ([0.0, 2_500.0, 5_000.0], ["0", "2,500", "5,000"]),
        ([99_500.0, 100_000.0], ["99.5k", "100.0k"]),
        ([0.0, 2e6, 4e6], ["0", "2M", "4M"]),
        ([1.3, 1.305], ["1.300", "1.305"]),
        ([-0.2, 0.0, 0.2], ["-0.2", "0", "0.2"]),
    ],
)
def test_labels_have_the_decimals_they_need(values: list[float], labels: list[str]) -> None:
    assert tick_labels(values) == labels


def drawn(chart: LineChart, roomy: bool = True) -> ElementTree.Element:
    return ElementTree.fromstring(draw_svg(chart, "key", 400, 200, roomy=roomy).svg)


def test_a_drawing_is_described_and_its_letters_are_text() -> None:
    svg = drawn(CHART)
    assert (svg.get("role"), svg.get("aria-labelledby"), svg.get("aria-describedby")) == ("img", "key-title", "key-text")
    assert (svg.findtext("title"), svg.findtext("desc")) == ("Loss", "It falls.")
    assert {"best", "not finite", "0", "2", "4"} <= {text.text for text in svg.iter("text")}
    assert [text.text for text in svg.iter("text") if text.get("class") == "alarm"] == ["not finite"]


def test_a_drawing_takes_its_colours_from_the_page() -> None:
    svg = draw_svg(CHART, "key", 400, 200).svg
    assert set(re.findall(r"(?:fill|stroke):([^;\"]+)", svg)) <= {"none", *(f"var(--{name})" for name in LIGHT)}
    assert not re.search("#[0-9a-f]{6}", svg)
    assert LIGHT.keys() == DARK.keys()
    assert all(css_variables().count(f"--{name}:") == 2 for name in LIGHT)


def test_the_ids_of_two_drawings_differ() -> None:
    ids = [re.findall(r'\bid="([^"]+)', draw_svg(CHART, key, 400, 200).svg) for key in ("one", "two")]
    assert ids[0]
    assert not set(ids[0]) & set(ids[1])


def test_no_text_becomes_markup_or_a_formula() -> None:
    hostile = LineChart(HOSTILE, "", HOSTILE, (), Axis("x", 0, 1), Axis(), mark=Mark(0.4, HOSTILE))
    svg = drawn(hostile)
    assert [HOSTILE in (element.text or "") for element in svg.iter() if element.tag in ("title", "desc")] == [True, True]
    assert HOSTILE in {text.text for text in svg.iter("text")}
    assert not list(svg.iter("script"))


def test_a_chart_of_nothing_says_so() -> None:
    empty = LineChart("Loss", "", "", (Line("training", "mean", (1, 2), (None, None)),), Axis("step", 0, 2), Axis())
    assert "no finite value to draw" in {text.text for text in drawn(empty).iter("text")}


def test_a_label_that_does_not_fit_its_span_is_left_out() -> None:
    narrow = LineChart("", "", "", CHART.lines, CHART.x, CHART.y, spans=(Span(1, 1.1, "not finite"),))
    assert "not finite" not in {text.text for text in drawn(narrow).iter("text")}
    assert len([path for path in drawn(narrow).iter("path") if path.get("class") == "gap"]) == 1


def test_the_users_settings_change_nothing_and_stay_what_they_are() -> None:
    before = draw_svg(CHART, "key", 400, 200).svg
    with matplotlib.rc_context({"font.size": 30, "axes.grid": True, "lines.marker": "x", "svg.fonttype": "path"}):
        assert draw_svg(CHART, "key", 400, 200).svg == before
        assert (matplotlib.rcParams["font.size"], matplotlib.rcParams["svg.fonttype"]) == (30, "path")


def test_threads_draw_the_same() -> None:
    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(lambda _: draw_svg(CHART, "key", 400, 200).svg, range(8)))) == 1


def test_labels_that_would_overlap_are_left_out() -> None:
    places = [0.0, 0.0001, 0.0002, 1.0]
    axis = Axis("rate", -0.1, 1.1, ticks=tuple(Tick(place, str(place)) for place in places))
    with plain_matplotlib():
        axes = Figure().add_subplot()
        draw_lines(axes, LineChart("", "", "", (), axis, Axis(), points=(Point(1.0, 1.0, "1"),)))
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0.0", "1.0"]


def test_dots_are_for_values_of_epochs_and_for_those_without_neighbours() -> None:
    values = (1.0, None, 2.0, 3.0, None, 4.0)
    assert Line("", "mean", tuple(range(6)), values).dots == [0, 5]
    assert Line("", "epochs", tuple(range(6)), values).dots == [0, 2, 3, 5]
    assert Line("", "epochs", tuple(range(100)), (1.0,) * 100).dots == []


def luminance(colour: str) -> float:
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.03928 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return math.fsum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize(
    ("ink", "ground", "least"),
    [
        *((ink, ground, 4.5) for ink in ("ink", "soft", "failed", "warning", "passed") for ground in ("page", "failed-tint")),
        *((ink, "warning-tint", 4.5) for ink in ("ink", "soft", "failed", "warning", "passed")),
        ("failed", "failed-band", 4.5),
        *((line, "page", 3.0) for line in ("mean", "epochs", "passed", "focus", "bar")),
        *((line, "failed-tint", 3.0) for line in ("soft", "focus")),
    ],
)
@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_text_and_lines_have_the_contrast_that_wcag_aa_asks_for(
    colours: dict[str, str], ink: str, ground: str, least: float
) -> None:
    lighter, darker = sorted((luminance(colours[ink]), luminance(colours[ground])), reverse=True)
    assert (lighter + 0.05) / (darker + 0.05) >= least
