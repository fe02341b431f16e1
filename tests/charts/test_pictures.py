"""Matrices and layers of a failure, from what a check's details hold, and in words for those who do not see them."""

from __future__ import annotations

from typing import Any

import pytest

from harness.charts.pictures import layers_of, matrices_of, reading_text

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


def test_a_cell_is_wrong_read_or_unread() -> None:
    (matrix,) = matrices_of({"plots": [MATRIX, LAYERS]})
    assert matrix.cells == (("reads", "wrong", "wrong"), ("reads", "reads", "unread"))
    assert matrix.description == "position 0 reads token 1 and token 2"
    assert reading_text({"plots": [MATRIX]}) == matrix.description


def test_of_many_wrong_rows_the_first_are_told() -> None:
    rows = [f"position {row}" for row in range(11)]
    many = {**MATRIX, "outputs": rows, "inputs": ["token 9"], "reads": [[True]] * 11, "forbidden": [[True]] * 11}
    assert reading_text({"plots": [many]}).endswith("position 7 reads token 9; and 3 others")


def test_layers_are_bars_that_say_where_the_calls_part() -> None:
    (chart,) = layers_of({"plots": [MATRIX, LAYERS]})
    assert [(bar.label, bar.text, bar.lengths) for bar in chart.bars] == [("read", "equal", (0.0,)), ("mix", "25%", (1.0,))]
    assert chart.description == "In the order of the calls. The first that differs is mix."


@pytest.mark.parametrize(
    "plots",
    [
        None,
        "matrix",
        [3, {}, {"kind": "matrix"}, {"kind": "layers"}],
        [{**MATRIX, "reads": [[True]]}, {**LAYERS, "values": [1.0]}],
        [{**MATRIX, "outputs": 3}, {**LAYERS, "values": [float("nan"), 1.0]}, {**LAYERS, "values": [-1.0, "x"]}],
    ],
)
def test_what_is_of_another_form_is_left_out(plots: Any) -> None:
    assert (matrices_of({"plots": plots}), layers_of({"plots": plots})) == ([], [])
