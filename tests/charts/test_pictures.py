"""Matrices and layers of a failure, from what a check's details hold, and in words for those who do not see them."""

from __future__ import annotations

from typing import Any

import pytest

from harness.charts.pictures import curves_of, layers_of, matrices_of, parities_of, pictures_of, shapes_of

MATRIX: dict[str, Any] = {
    "kind": "matrix",
    "title": "Which position reads which token",
    "outputs": ["position 0", "position 1"],
    "inputs": ["token 0", "token 1", "token 2"],
    "reads": [[True, True, True], [True, True, False]],
    "forbidden": [[False, True, True], [False, False, True]],
}
LAYERS: dict[str, Any] = {
    "kind": "layers",
    "title": "Divergence",
    "caption": "c",
    "labels": ["read", "mix"],
    "values": [0.0, 0.25],
}


PARITY: dict[str, Any] = {
    "kind": "parity",
    "title": "File and model, by size",
    "labels": ["seq=5", "seq=7", "seq=9"],
    "values": [1e-8, 0.5, 0.0],
    "bounds": [1e-6, 1e-6, 0.0],
    "notes": ["", "", "refused"],
}
SHAPES: dict[str, Any] = {
    "kind": "shapes",
    "title": "Shapes",
    "rows": [["embed", "[2, 6]", "[2, 6, 16]"], ["head", "[2, 6, 16]", "[2, 23]"]],
    "blamed": "head",
}
CURVES: dict[str, Any] = {
    "kind": "curves",
    "title": "Loss of the batch",
    "lines": [{"label": "usual", "x": [0, 10, 20], "y": [2.5, 2.2, 2.4]}, {"label": "faster", "x": [0, 30], "y": [2.5, 9.0]}],
    "limits": {"constant": 2.3},
}


def test_a_cell_is_wrong_read_or_unread() -> None:
    (matrix,) = matrices_of({"plots": [MATRIX, LAYERS]})
    assert matrix.cells == (("reads", "wrong", "wrong"), ("reads", "reads", "unread"))
    assert matrix.description == "position 0 reads token 1 and token 2"
    assert pictures_of({"plots": [MATRIX]}).in_words == {"What reads what": matrix.description}


def test_of_many_wrong_rows_the_first_are_told() -> None:
    rows = [f"position {row}" for row in range(11)]
    many = {**MATRIX, "outputs": rows, "inputs": ["token 9"], "reads": [[True]] * 11, "forbidden": [[True]] * 11}
    assert pictures_of({"plots": [many]}).in_words["What reads what"].endswith("position 7 reads token 9; and 3 others")


def test_layers_are_bars_that_say_where_the_calls_part() -> None:
    (chart,) = layers_of({"plots": [MATRIX, LAYERS]})
    assert [(bar.label, bar.text, bar.lengths) for bar in chart.bars] == [("read", "equal", (0.0,)), ("mix", "25%", (1.0,))]
    assert chart.description == "In the order of the calls. The first that differs is mix."


def test_sizes_at_which_a_file_is_wrong_are_marked() -> None:
    (chart,) = parities_of({"plots": [PARITY]})
    assert [(bar.text, bar.lengths, bar.alarming) for bar in chart.bars] == [
        ("1e-8", (2e-8,), False),
        ("0.5, allowed 1e-6", (1.0,), True),
        ("refused", (1.0,), True),
    ]
    assert chart.description == "Too far apart at 2 sizes of 3: seq=7; seq=9."


def test_shapes_are_told_in_the_order_of_the_call() -> None:
    (shapes,) = shapes_of({"plots": [SHAPES]})
    assert (shapes.rows[0], shapes.blamed) == (("embed", "[2, 6]", "[2, 6, 16]"), "head")
    assert pictures_of({"plots": [SHAPES]}).in_words == {
        "Shapes": "`embed` returns [2, 6, 16], `head` returns [2, 23]",
    }


def test_curves_have_their_limits_and_say_how_they_end() -> None:
    (chart,) = curves_of({"plots": [CURVES]})
    assert [(line.label, line.style) for line in chart.lines] == [
        ("constant", "reference"),
        ("faster", "raw"),
        ("usual", "current"),
    ]
    assert (chart.x.low, chart.x.high) == (0.0, 30.0)
    assert chart.description == "The loss begins at 2.5 and is 2.4 after 20 steps, at its lowest 2.2; constant: 2.3."


@pytest.mark.parametrize(
    "plots",
    [
        None,
        "matrix",
        [3, *({"kind": kind} for kind in ("", "matrix", "layers", "shapes", "parity", "curves"))],
        [
            {**PARITY, "values": [1.0]},
            {**PARITY, "bounds": [1.0, "x", 2.0]},
            {**SHAPES, "rows": [["embed"]]},
            {**SHAPES, "rows": 3},
        ],
        [
            {**CURVES, "lines": [{"x": [1], "y": []}]},
            {**CURVES, "lines": [3]},
            {**CURVES, "lines": []},
            {**CURVES, "lines": [{"x": [1], "y": [1]}]},
        ],
        [{**MATRIX, "reads": [[True]]}, {**LAYERS, "values": [1.0]}],
        [{**MATRIX, "outputs": 3}, {**LAYERS, "values": [float("nan"), 1.0]}, {**LAYERS, "values": [-1.0, "x"]}],
    ],
)
def test_what_is_of_another_form_is_left_out(plots: Any) -> None:
    assert not pictures_of({"plots": plots})
