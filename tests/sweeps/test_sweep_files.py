"""The picture of a sweep: there for every kind of grid, and its axes are those of the values."""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from PIL import Image

from harness.experiments import ExperimentError
from harness.sweeps import SweepResult, TrialResult
from harness.sweeps.files import write_files
from harness.sweeps.grid import make_grid
from harness.sweeps.picture import to_png
from harness.sweeps.picture.axis import make_axis
from harness.sweeps.picture.curve import draw_curve
from harness.sweeps.result import ordered

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
    axes = Figure().add_subplot()
    draw_curve(axes, result_of({"learning_rate": RATES}, loss), "learning_rate", wide=True)
    assert axes.get_xscale() == "log"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1e-05", "0.0001", "0.001", "0.01"]
    assert {float(line.get_xdata()[0]) for line in axes.lines if line.get_marker() == "x"} == {1e-2, 1e-5}
    assert {text.get_text() for text in axes.texts} == {"failed", "nan", "1"}
    assert axes.get_ylabel() == "val_loss, less is better"


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
    assert make_axis(values).log is log


def test_numbers_stand_in_their_order_and_words_in_that_of_the_grid() -> None:
    assert make_axis([3, 1, 2]).values == (1, 2, 3)
    assert make_axis(["b", "a"]).values == ("b", "a")
    assert make_axis([1, None]).is_number is False


def test_labels_that_would_overlap_are_left_out() -> None:
    axis = make_axis([0, 0.0001, 0.0002, 1])
    assert [axis.labels[index] for index in axis.ticks(40)] == ["0", "1"]
    assert len(axis.ticks(10**9)) == 4


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
