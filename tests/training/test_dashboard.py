"""The dashboard of a training: true to the history, safe against what it shows, and there whatever the run came to."""

from __future__ import annotations

import io
import json
import math
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pages import Elements, Visit, faint, out_of_reach, too_wide
from PIL import Image

from harness.charts import LineChart
from harness.training import Epoch, Plan, Step
from harness.training.dashboard import (
    MOST_ROWS,
    column_texts,
    epoch_table,
    key_figures,
    page_data,
    to_html,
    to_png,
    verdict,
    write_dashboard,
)
from harness.training.dashboard.charts import MOST_METRICS, charts_of, half_window, smoothed
from harness.training.history import LIMIT, History

if TYPE_CHECKING:
    from playwright.sync_api import Locator

HOSTILE = "</title></script><script>alert('x')</script>\" onload=\"y|$\\frac{$"


def step(number: int, loss: float = 2.0, **fields: Any) -> Step:
    wanted: dict[str, Any] = {"epoch": 0, "learning_rate": 1e-3, "grad_norm": 1.0, "examples": 8, "seconds": 0.5} | fields
    return Step(number, loss=loss, **wanted)


def history_of(*steps: Step, epochs: tuple[Epoch, ...] = ()) -> History:
    history = History()
    for one in steps:
        history.on_step(one)
    for epoch in epochs:
        history.on_epoch(epoch)
    return history


def trained(steps: int = 100, epochs: int = 4) -> History:
    """A run whose loss falls, and whose third epoch is the best."""
    draw = random.Random(0)
    losses = [1 + 3 * math.exp(-number / 30) + draw.gauss(0, 0.1) for number in range(steps)]
    scores = [2.5, 1.6, 1.4, 1.5, 1.7, 1.8][:epochs]
    return history_of(
        *(step(number, loss, grad_norm=draw.random() + 0.1) for number, loss in enumerate(losses, 1)),
        epochs=(
            Epoch(-1, 0, {"val_loss": 4.1, "val_accuracy": 0.01}),
            *(Epoch(i, steps * (i + 1) // epochs, {"val_loss": v, "val_accuracy": 1 - v / 4}) for i, v in enumerate(scores)),
        ),
    )


PLAN = Plan("lm_tiny", 4, 100)
DIVERGED = history_of(*(step(number, 2.0 if number < 41 else math.nan) for number in range(1, 61)))
RUNS: dict[str, History] = {
    "trained": trained(),
    "no step": History(),
    "an evaluation alone": history_of(epochs=(Epoch(-1, 0, {"val_loss": 5.0}),)),
    "one step": history_of(step(1)),
    "one step of NaN": history_of(step(1, math.nan, grad_norm=math.nan)),
    "one epoch": history_of(*map(step, range(1, 11)), epochs=(Epoch(0, 10, {"val_loss": 1.5}),)),
    "no gradient norm": history_of(*(step(number, grad_norm=None) for number in range(1, 11))),
    "norms of zero": history_of(*(step(number, grad_norm=0.0) for number in range(1, 11))),
    "no time": history_of(*(step(number, seconds=0.0) for number in range(1, 11))),
    "no loss": history_of(*(step(number, math.nan) for number in range(1, 31))),
    "diverged": DIVERGED,
    "exploded": history_of(*(step(number, 2.0**number * 1e-3) for number in range(1, 900))),
    "negative losses": history_of(*(step(number, -number * 1e5) for number in range(1, 50))),
    "a constant": history_of(*(step(number, 1e-12, learning_rate=0.0) for number in range(1, 50))),
    "half of the steps broken": history_of(*(step(number, math.nan if number % 2 else 2.0) for number in range(1, 1500))),
    "merged": history_of(*(step(number, 9.0 if number == 4_321 else 2.0) for number in range(1, 3 * LIMIT))),
    "only the end is known": history_of(*(step(number) for number in range(90_001, 90_100))),
    "metrics that are not finite": history_of(
        step(1),
        step(2),
        epochs=(Epoch(0, 1, {"val_loss": math.nan, "val_f1": math.inf}), Epoch(1, 2, {"val_loss": 1.0, "val_f1": 1e308})),
    ),
    "many epochs": history_of(
        *map(step, range(1, 3001)), epochs=tuple(Epoch(i, i + 1, {"val_loss": 9 - i / 999}) for i in range(2999))
    ),
    "many metrics": history_of(step(1), epochs=(Epoch(0, 1, {f"val_m{index}": float(index) for index in range(12)}),)),
    "hostile": history_of(step(1), step(2), epochs=(Epoch(0, 1, {HOSTILE: 1.0}), Epoch(1, 2, {HOSTILE: 2.0}))),
}


def html_of(history: History, plan: Plan = PLAN, facts: dict[str, str] | None = None) -> str:
    return to_html(charts_of(history, plan), history, plan, facts or {})


def page_of(history: History, plan: Plan = PLAN, facts: dict[str, str] | None = None) -> Elements:
    return Elements(html_of(history, plan, facts))


def words_of(history: History, plan: Plan = PLAN) -> Elements:
    """The page without its charts, which take the longest."""
    return Elements(to_html([], history, plan, {}))


def chart(history: History, title: str, plan: Plan = PLAN) -> LineChart:
    return next(chart for chart in charts_of(history, plan) if chart.title == title)


def picture(png: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(png))
    image.load()
    return image.convert("RGB")


def colours(image: Image.Image) -> int:
    """How many distinct colours a picture has."""
    return len(image.getcolors(image.width * image.height) or ())


@pytest.mark.filterwarnings("error:Glyph", "error::RuntimeWarning")
@pytest.mark.parametrize("name", RUNS)
def test_there_is_a_dashboard_whatever_a_run_came_to(name: str, tmp_path: Path) -> None:
    plan = Plan(HOSTILE if name == "hostile" else name, 4, 100)
    paths = write_dashboard(RUNS[name], plan, tmp_path / "new" / "folder", {"Learning rate": "0.1"})
    assert paths == {kind: tmp_path / "new" / "folder" / f"dashboard.{kind}" for kind in ("png", "html")}
    assert sorted(path.name for path in paths["png"].parent.iterdir()) == ["dashboard.html", "dashboard.png"]
    image = picture(paths["png"].read_bytes())
    assert image.width == 1320
    assert image.height >= 100
    assert colours(image) > 10
    html = paths["html"].read_text(encoding="utf-8")
    page = Elements(html)
    assert page.texts("h1") == [plan.name]
    assert page.texts("dd")[-1] == "0.1"
    drawing = "".join(re.findall(r'(?: d| x| y|viewBox)="[^"]*"', html))
    assert not re.search(r"nan|inf|None", drawing)


def test_the_head_says_how_the_run_stands() -> None:
    page = words_of(trained())
    assert page.texts("h1") == ["lm_tiny"]
    assert page.texts("p", class_="verdict passed") == ["Finished: best val_loss 1.4, epoch 3"]
    assert page.texts("text", class_="score") == ["100%"]
    assert page.texts("text", class_="unit") == ["of 100 steps"]


@pytest.mark.parametrize(
    ("history", "steps", "mood", "words"),
    [
        (History(), 100, "empty", "No step was done yet"),
        (trained(), 200, "going", "Step 100 of 200: best val_loss 1.4, epoch 3"),
        (history_of(step(1)), 1, "passed", "Finished: loss 2"),
        (DIVERGED, 100, "failed", "Diverged: the loss is not finite since step 41"),
        (history_of(step(1, math.inf), step(2)), 2, "warning", "The loss was not finite in 1 step, first in step 1"),
        (RUNS["no loss"], 30, "warning", "No step had a loss that is a finite number"),
    ],
)
def test_the_verdict(history: History, steps: int, mood: str, words: str) -> None:
    assert verdict(history, Plan("run", 4, steps)) == (mood, words)


def test_a_run_that_is_nearly_done_is_not_called_done() -> None:
    assert words_of(trained(999), Plan("run", 4, 1000)).texts("text", class_="score") == ["99%"]


def test_the_key_figures() -> None:
    assert key_figures(history_of(step(1), step(2), epochs=(Epoch(0, 2, {"val_loss": 1.5}),)), Plan("run", 2, 4)) == {
        "Best val_loss": "1.5, epoch 1",
        "Recent training loss": "2",
        "Steps": "2 of 4",
        "Epochs": "1 of 2",
        "Time in steps": "1.0 s",
        "Throughput": "16 examples/s",
        "Examples": "16",
    }


def test_charts_come_in_order_and_only_for_what_was_measured() -> None:
    assert [chart.title for chart in charts_of(trained(), PLAN)] == [
        "Loss",
        "Learning rate",
        "Gradient norm",
        "Throughput",
        "val_accuracy",
    ]
    assert [chart.title for chart in charts_of(RUNS["no gradient norm"], PLAN)] == ["Loss", "Learning rate", "Throughput"]
    assert [chart.title for chart in charts_of(RUNS["an evaluation alone"], PLAN)] == ["Loss"]
    assert charts_of(History(), PLAN) == []


def test_the_loss_has_raw_points_a_mean_and_the_validation() -> None:
    raw, mean, validation, start = chart(trained(), "Loss").lines
    assert [line.style for line in (raw, mean, validation, start)] == ["raw", "mean", "epochs", "start"]
    assert raw.y == tuple(trained().curve("loss"))
    assert (validation.x, validation.y) == ((25, 50, 75, 100), (2.5, 1.6, 1.4, 1.5))
    assert (start.x, start.y) == ((0,), (4.1,))


def test_the_best_epoch_is_marked_in_every_chart_when_there_are_several() -> None:
    assert {(one.mark.x, one.mark.label) for one in charts_of(trained(), PLAN) if one.mark} == {(75, "best, epoch 3")}
    # The loss is drawn twice, for wide and for narrow windows; only there the mark has its label.
    page = page_of(trained())
    assert page.texts("text", class_="best") == ["best, epoch 3"] * 2
    assert page.attributes("path", "class").count("best") == 6
    assert chart(RUNS["one epoch"], "Loss").mark is None


def test_another_monitored_metric_has_another_best() -> None:
    history = history_of(
        step(1), step(2), epochs=(Epoch(0, 1, {"val_loss": 1, "val_wer": 3}), Epoch(1, 2, {"val_loss": 2, "val_wer": 2}))
    )
    best = chart(history, "Loss", Plan("run", 2, 2, monitor="val_wer")).mark
    assert best is not None
    assert best.x == 2


def test_a_loss_that_is_not_finite_is_a_marked_gap_with_words() -> None:
    loss = chart(DIVERGED, "Loss")
    assert [(span.first, span.last) for span in loss.spans] == [(40.5, 60.5)]
    assert loss.notes == ("Not finite: the loss was NaN or infinite in 20 steps between 41 and 60.",)
    page = page_of(DIVERGED)
    assert page.texts("p", class_="note") == [f"▲ {loss.notes[0]}"]
    assert page.texts("text", class_="alarm") == ["not finite"] * 2


def test_a_single_broken_step_among_many_stays_in_sight() -> None:
    history = history_of(*(step(number, math.nan if number == 3000 else 2.0) for number in range(1, 3 * LIMIT)))
    loss = chart(history, "Loss")
    assert len(loss.spans) == 1
    assert "in 1 step between" in loss.notes[0]
    page = page_of(history)
    shapes = [attrs["d"] or "" for tag, attrs, _ in page.elements if tag == "path" and attrs.get("class") == "gap"]
    across = [[float(x) for x in re.findall(r"[ML]([\d.]+) ", shape)] for shape in shapes]
    assert [max(places) - min(places) for places in across] == pytest.approx([0.004 * 1024, 0.004 * 304], abs=0.15)


def test_scattered_gaps_are_joined_into_few() -> None:
    assert len(chart(RUNS["half of the steps broken"], "Loss").spans) <= 50


def test_a_validation_loss_that_is_not_finite_is_said() -> None:
    page = page_of(RUNS["metrics that are not finite"])
    assert "▲ Not finite: val_loss was NaN or infinite in epoch 1." in page.texts("p", class_="note")
    assert page.texts("td", class_="bad") == ["nan", "inf"]


def test_a_chart_of_nothing_finite_says_so() -> None:
    page = page_of(RUNS["one step of NaN"])
    assert page.texts("text", class_="nothing") == ["no finite value to draw"] * 3


def test_the_spike_of_one_step_is_on_the_chart_of_many() -> None:
    loss = chart(RUNS["merged"], "Loss")
    assert loss.band is not None
    assert max(high for high in loss.band.highs if high is not None) == 9.0


def test_losses_that_are_far_apart_get_a_log_axis_and_it_is_said() -> None:
    exploded, calm = chart(RUNS["exploded"], "Loss"), chart(trained(), "Loss")
    assert (exploded.y.log, exploded.caption) == (True, "logarithmic axis")
    assert (calm.y.log, calm.caption) == (False, "")


def test_norms_of_zero_are_said_to_be_missing() -> None:
    assert chart(RUNS["norms of zero"], "Gradient norm").notes == ("10 points of zero have no place on a logarithmic axis.",)


def test_metrics_beyond_the_charts_are_in_the_table_and_it_is_said() -> None:
    page = page_of(RUNS["many metrics"])
    assert page.texts("p", class_="more") == [f"{12 - MOST_METRICS} further metrics are only in the table."]
    assert page.texts("th", scope="col") == ["Epoch", "Step", "Training loss", *(f"val_m{index}" for index in range(12))]


def test_the_table_has_a_row_for_each_epoch() -> None:
    history = history_of(
        *(step(number, float(number)) for number in range(1, 5)),
        epochs=(Epoch(-1, 0, {"val_loss": 9.0}), Epoch(0, 2, {"val_loss": 1.5}), Epoch(1, 4, {"val_loss": 1.25, "val_f1": 0.5})),
    )
    table = epoch_table(history, PLAN)
    assert table.columns == ("Training loss", "val_loss", "val_f1")
    assert [(row.name, row.step, row.cells, row.best) for row in table.rows] == [
        ("before training", "0", ("", "9.000", ""), False),
        ("1", "2", ("1.500", "1.500", ""), False),
        ("2", "4", ("3.500", "1.250", "0.5000"), True),
    ]
    assert words_of(history).texts("th", scope="row") == ["before training", "1", "2✓ best"]


def test_a_table_of_very_many_epochs_keeps_the_first_the_last_and_the_best() -> None:
    scores = [float(abs(index - 700)) for index in range(2000)]
    history = history_of(*map(step, range(1, 2001)), epochs=tuple(Epoch(i, i + 1, {"val_loss": v}) for i, v in enumerate(scores)))
    rows = epoch_table(history, PLAN).rows
    assert len(rows) == MOST_ROWS + 2
    assert (rows[0].name, rows[-1].name) == ("1", "2000")
    assert [row.name for row in rows if row.best] == ["701"]
    assert [row.name for row in rows if not row.cells] == ["1,799 epochs are not shown"]


def test_no_text_becomes_markup() -> None:
    def page(text: str) -> Elements:
        epochs = (Epoch(0, 1, {text: 1.0}), Epoch(1, 2, {text: 2.0}))
        return page_of(history_of(step(1), step(2), epochs=epochs), Plan(text, 2, 2, monitor=text), {text: text})

    hostile, plain = page(HOSTILE), page("plain")
    # Whatever the text, the page has the same elements with the same attributes.
    assert [(tag, set(attrs)) for tag, attrs, _ in hostile.elements] == [(tag, set(attrs)) for tag, attrs, _ in plain.elements]
    assert json.loads(hostile.texts("script")[0])["charts"][-1]["lines"][0]["label"] == ""
    assert hostile.texts("strong")[-1] == HOSTILE


def test_a_name_from_a_file_that_is_no_unicode_is_no_reason_to_fail(tmp_path: Path) -> None:
    paths = write_dashboard(trained(), Plan("a\udc80\x00\n模型 $x^{$", 4, 100), tmp_path, {"\udc80": "\udc80"})
    assert "模型" in paths["html"].read_text(encoding="utf-8")


def test_the_page_asks_the_network_for_nothing() -> None:
    html = html_of(RUNS["merged"], facts={"Source": "https://example.org/model"})
    references = re.findall(r"""\b(?:src|href|srcset|action)\s*=\s*["']?([^"'\s>]+)""", html)
    assert references
    assert [reference for reference in references if not reference.startswith(("#", "data:"))] == []
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|import\(", html)
    assert "default-src 'none'" in html


def test_charts_are_described_and_reached_by_keyboard() -> None:
    page = page_of(trained())
    drawings = [attrs for tag, attrs, _ in page.elements if attrs.get("class") == "drawing"]
    texts = {attrs["id"]: "".join(text).strip() for _, attrs, text in page.elements if "id" in attrs}
    assert [texts[attrs["aria-labelledby"]] for attrs in drawings][:3] == ["Loss", "Loss", "Learning rate"]
    assert "Validation: from 2.5 at step 25 to 1.5 at step 100; lowest 1.4 at step 75" in texts[drawings[0]["aria-describedby"]]
    cursors = [attrs for _, attrs, _ in page.elements if attrs.get("class") == "cursor"]
    assert [(attrs["role"], attrs["tabindex"], attrs["aria-valuemin"], attrs["aria-valuemax"]) for attrs in cursors] == [
        ("slider", "0", "0", "100")
    ] * 5


def test_what_is_read_out_is_short() -> None:
    def labels(history: History) -> list[list[str]]:
        return [[line["label"] for line in one["lines"]] for one in page_data(charts_of(history, PLAN))["charts"]]

    assert labels(trained()) == [["training", "mean", "validation"], [""], ["", "mean"], ["", "mean"], [""]]
    assert labels(RUNS["one epoch"])[0] == ["training", "validation"]


def test_a_page_of_a_million_steps_stays_small() -> None:
    draw = random.Random(0)
    history = history_of(
        *(step(number, draw.random(), grad_norm=draw.random(), seconds=draw.random()) for number in range(1, 40_000))
    )
    assert len(html_of(history)) < 600_000  # as large for any number of steps


def test_files_are_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = write_dashboard(history_of(step(1)), PLAN, tmp_path)
    before = {kind: path.read_bytes() for kind, path in paths.items()}

    def broken(*_: object) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", broken)
        with pytest.raises(OSError, match="disk full"):
            write_dashboard(history_of(epochs=(Epoch(-1, 0, {"val_loss": 5.0}),)), PLAN, tmp_path)
    assert {kind: path.read_bytes() for kind, path in paths.items()} == before
    assert len(list(tmp_path.iterdir())) == 2
    write_dashboard(history_of(epochs=(Epoch(-1, 0, {"val_loss": 5.0}),)), PLAN, tmp_path)
    assert all(path.read_bytes() != before[kind] for kind, path in paths.items())


@pytest.mark.long
def test_the_same_history_gives_the_same_bytes_in_every_thread(tmp_path: Path) -> None:
    def write(index: int) -> tuple[bytes, bytes]:
        paths = write_dashboard(trained(), PLAN, tmp_path / str(index))
        return paths["png"].read_bytes(), paths["html"].read_bytes()

    with ThreadPoolExecutor(3) as pool:
        assert len(set(pool.map(write, range(3)))) == 1


PICTURE = """
import sys
from pathlib import Path
from harness.training.dashboard import write_dashboard
from harness.training.history import History
from harness.training import Epoch, Plan, Step
assert "matplotlib" not in sys.modules
history = History()
for number in range(1, 41):
    history.on_step(Step(number, 0, 2.0 if number < 31 else float("nan"), 1e-3, 1.0, 8, 0.5))
    if number % 20 == 0:
        history.on_epoch(Epoch(number // 20 - 1, number, {"val_loss": 1.0}))
write_dashboard(history, Plan("run", 1, 40), Path(sys.argv[1]))
assert "matplotlib.pyplot" not in sys.modules
assert "torch" not in sys.modules
"""


def test_the_picture_needs_no_display_no_pyplot_and_heeds_no_matplotlibrc(tmp_path: Path) -> None:
    (tmp_path / "matplotlibrc").write_text(
        "text.usetex: True\ntext.color: white\nfont.size: 22\nfont.family: serif\naxes.grid: True\naxes.facecolor: black\n"
        "figure.autolayout: True\nsavefig.bbox: tight\nlines.marker: x\nxtick.labeltop: True\nxtick.major.pad: 20\naxes.titlepad: 40\n"
    )
    variables = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "WAYLAND_DISPLAY", "MPLBACKEND")}
    variables["PYTHONPATH"] = os.pathsep.join(sys.path)
    for folder, more in (("plain", {}), ("odd", {"MATPLOTLIBRC": str(tmp_path / "matplotlibrc"), "MPLBACKEND": "tkagg"})):
        subprocess.run([sys.executable, "-c", PICTURE, str(tmp_path / folder)], check=True, env={**variables, **more})
    plain, odd = ((tmp_path / folder / "dashboard.png").read_bytes() for folder in ("plain", "odd"))
    assert plain == odd


@pytest.mark.parametrize("name", ["trained", "diverged", "merged"])
def test_the_picture_shows_the_run(name: str) -> None:
    """Not what it looks like, but that it is neither blank nor the same for another run."""
    png = to_png(charts_of(RUNS[name], PLAN), RUNS[name], PLAN)
    assert png != to_png(charts_of(RUNS["one step"], PLAN), RUNS["one step"], PLAN)
    assert colours(picture(png)) > 200


def test_the_axis_of_a_run_known_from_late_on_begins_there() -> None:
    assert (chart(trained(800), "Loss").x.low, chart(RUNS["only the end is known"], "Loss").x.low) == (0.0, 90_001.0)


def test_a_column_has_the_same_decimals_throughout() -> None:
    assert column_texts([276.0, 9.56, 5.0, None, math.nan]) == ["276.000", "9.560", "5.000", "", "nan"]
    assert column_texts([1e-9, 2.0]) == ["1e-9", "2"]
    assert column_texts([]) == []


def test_smoothing_begins_where_the_values_do_and_never_crosses_a_gap() -> None:
    assert smoothed([9.0, 1.0, 2.0, 3.0, None, 5.0, 7.0, 9.0], 1) == (9.0, 4.0, 2.0, 2.5, None, 5.0, 7.0, 8.0)


def test_a_huge_value_costs_its_neighbours_no_digits() -> None:
    assert smoothed([1e30, 2.0, 2.0, 2.0, 2.0], 1)[3:] == (2.0, 2.0)


def test_short_curves_are_not_smoothed() -> None:
    assert [half_window(points) for points in (0, 19, 20, 800, 2000)] == [0, 0, 1, 10, 25]


def hear(cursor: Locator) -> str | None:
    """What a screen reader says of the place a reader is at."""
    return cursor.get_attribute("aria-valuetext")


@pytest.mark.parametrize("width", [390, 1440])
def test_in_a_browser_the_page_fits_and_answers_to_keys_and_pointer(visit: Callable[..., Visit], width: int) -> None:
    history = history_of(
        *(step(number, float(number)) for number in range(1, 5)),
        epochs=(Epoch(0, 2, {"val_loss": 2.5}), Epoch(1, 4, {"val_loss": 3.5})),
    )
    seen = visit(html_of(history, Plan(HOSTILE, 2, 4), {"a-long-value": "x" * 300}), width)
    page, cursor = seen.page, seen.page.locator(".cursor").first
    assert cursor.is_visible()
    assert too_wide(page) == []
    assert out_of_reach(page) == []
    cursor.focus()
    said = []
    for key in ("Home", "ArrowRight", "End", "Escape"):
        page.keyboard.press(key)
        said.append(hear(cursor))
    assert said == [
        "step 1  ·  training 1",
        "step 2  ·  training 2  ·  validation 2.5",
        "step 4  ·  training 4  ·  validation 3.5",
        "not chosen",
    ]
    cursor.hover()
    assert hear(cursor) == "step 2  ·  training 2  ·  validation 2.5"
    readouts = [readout.text_content() for readout in page.locator(".readout").all()]
    assert readouts[1:] == ["step 2  ·  0.001", "step 2  ·  1", "step 2  ·  16"]
    assert (seen.requests, seen.complaints) == ([], [])


@pytest.mark.parametrize("name", ["diverged", "one step of NaN", "merged"])
def test_in_a_browser_no_run_breaks_the_page(visit: Callable[..., Visit], name: str) -> None:
    seen = visit(html_of(RUNS[name]), 800)
    assert too_wide(seen.page) == []
    cursor = seen.page.locator(".cursor").first
    cursor.focus()
    for key in ("Home", "ArrowRight", "End"):
        seen.page.keyboard.press(key)
        assert not re.search("undefined|NaN", str(hear(cursor)))
    assert seen.complaints == []


@pytest.mark.parametrize(("scheme", "ground"), [("dark", "rgb(21, 21, 20)"), ("light", "rgb(251, 250, 247)")])
def test_in_a_browser_the_page_is_dark_for_those_who_like_it_dark(visit: Callable[..., Visit], scheme: str, ground: str) -> None:
    page = visit(html_of(RUNS["merged"]), 800, scheme).page  # with the band of values that share a place
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == ground
    assert page.locator("path.line").count()
    assert page.locator("g.band use").count()
    assert faint(page) == []


def test_points_of_a_line_are_drawn_in_order() -> None:
    page = page_of(trained())
    lines = [attrs["d"] or "" for tag, attrs, _ in page.elements if tag == "path" and attrs.get("class") == "line"]
    assert lines
    for line in lines:
        across = [float(pair.split()[0]) for pair in re.split("[ML]", line) if pair]
        assert all(first <= second for first, second in pairwise(across))
