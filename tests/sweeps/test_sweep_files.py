"""The picture of a sweep: there for every kind of grid, and its axes are those of the values."""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from harness.experiments import ExperimentError
from harness.sweeps.files import Scale, curve_of, heat_map_of, to_png, write_files
from harness.sweeps.grid import SweepResult, TrialResult, make_grid, ordered

RATES = [1e-5, 1e-4, 1e-3, 1e-2]


def result_of(grid: Mapping[str, Any], value: Callable[[Mapping[str, Any]], Any], folder: Path = Path()) -> SweepResult:
    """A sweep whose trials have these values; a text is why a trial failed, and ``None`` stands for one that was not run."""
    made = make_grid(grid)
    trials = []
    for combination in made.combinations():
        found = value(combination.params)
        if isinstance(found, str):
            trials.append(TrialResult(combination, combination.number, "failed", {}, 1.0, found))
        elif found is not None:
            trials.append(TrialResult(combination, combination.number, "finished", {"val_loss": found}, 1.0))
    return SweepResult(1, "a $name$", "val_loss", "min", made, ordered(trials, "val_loss", "min"), folder)


def loss(params: Mapping[str, Any]) -> Any:
    rate = params.get("learning_rate", 1e-3)
    if rate >= 1e-2:
        return "it diverged"
    return math.nan if rate == 1e-5 else 1 + abs(math.log10(rate) + 3)


@pytest.mark.parametrize(
    "grid",
    [
        {"learning_rate": RATES},
        {"learning_rate": RATES[:1]},
        {"strategy": ["auto", "ddp", None]},
        {"learning_rate": RATES, "batch_size": [4, 8, 16]},
        {"learning_rate": RATES, "batch_size": [4], "model_kwargs.sizes": [[1, 2], {"a": "$x^2$"}]},
        {"learning_rate": RATES, "batch_size": [4, 8], "seed": [0, 1], "deterministic": [True, False]},
    ],
    ids=["one", "single", "words", "two", "two-and-one-fixed", "four"],
)
@pytest.mark.parametrize("value", [loss, lambda params: "all failed", lambda params: None, lambda params: math.inf])
def test_every_grid_has_a_picture(grid: dict[str, Any], value: Callable[[Mapping[str, Any]], Any]) -> None:
    image = Image.open(io.BytesIO(to_png(result_of(grid, value))))
    assert image.format == "PNG"
    assert min(image.size) > 400
    assert len(image.convert("RGB").getcolors(1_000_000)) > 20


def test_the_curve_has_a_log_axis_a_mark_on_the_best_and_crosses_for_the_lost() -> None:
    curve = curve_of(result_of({"learning_rate": RATES}, loss), "learning_rate")
    assert curve.x.log
    assert [tick.label for tick in curve.x.ticks] == ["1e-05", "0.0001", "0.001", "0.01"]
    assert {(point.x, point.y, point.label) for point in curve.points} == {
        (1e-2, None, "failed"),
        (1e-5, None, "nan"),
        (1e-3, 1.0, "1"),
    }
    assert curve.y.label == "val_loss, lower is better"


def test_a_curve_of_several_keys_has_every_trial_and_the_best_of_each_value() -> None:
    result = result_of({"learning_rate": RATES[1:3], "seed": [0, 1]}, lambda params: params["seed"] + 1.0)
    every, best = curve_of(result, "learning_rate").lines
    assert (every.style, len(every.x)) == ("trials", 4)
    assert (best.style, best.x, best.y) == ("trend", (1e-4, 1e-3), (1.0, 1.0))


def test_the_heat_map_has_a_cell_for_each_combination_and_says_why_a_value_is_missing() -> None:
    chart = heat_map_of(result_of({"learning_rate": RATES, "batch_size": [4, 8]}, loss), "learning_rate", "batch_size")
    assert [tick.label for tick in chart.y.ticks] == ["4", "8"]
    assert [(cell.label, cell.failed) for cell in chart.cells if cell.row == 0] == [
        ("nan", True),
        ("2.000", False),
        ("1.000", False),
        ("failed", True),
    ]
    assert (chart.best, chart.best_is_low) == ((2, 0), True)
    none = heat_map_of(result_of({"a": [1, 2], "b": [1, 2]}, lambda params: None), "a", "b")
    assert ({cell.label for cell in none.cells}, none.best) == ({"not run"}, None)


@pytest.mark.parametrize(
    ("values", "log"),
    [
        ([0.1, 3.1], True),
        ([0.1, 2.9], False),
        ([0, 100], False),
        ([-1, 100], False),
        ([8, 16, 32], True),
        ([8, 16, 24], False),
        ([True, False], False),
        (["1", "100"], False),
    ],
)
def test_values_that_span_far_or_grow_by_ratios_stand_on_a_log_axis(values: list[Any], log: bool) -> None:
    assert Scale.of(values).is_log is log


def test_numbers_stand_in_their_order_and_words_in_that_of_the_grid() -> None:
    assert Scale.of([3, 1, 2]).values == (1, 2, 3)
    assert Scale.of(["b", "a"]).values == ("b", "a")
    assert Scale.of([1, None]).is_number is False


def test_files_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ExperimentError, match="the sweep's files cannot be written"):
        write_files(result_of({"learning_rate": RATES}, loss, tmp_path / "file" / "sweep"))


def test_without_matplotlib_there_is_no_picture_and_nothing_else_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    write_files(result_of({"learning_rate": RATES}, loss, tmp_path / "sweep"))
    assert sorted(file.name for file in (tmp_path / "sweep").iterdir()) == ["sweep.csv", "sweep.json"]
