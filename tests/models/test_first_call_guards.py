"""A call that works is searched by what a model checks before it raises, and by what it lacks: conditions, lists, options, ids as numbers."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from harness.errors import ForwardError
from harness.models.attempts import Patience, SideSearch
from harness.models.factory import Factory
from harness.models.first_call.argument import Argument, GivenInput
from harness.models.first_call.hints import read_hints
from harness.models.first_call.search import find_call
from harness.models.first_call.tried import FoundCall
from harness.scaffold.declared import declare
from harness.tasks.finding import signature_from_call


class Net(nn.Module):
    """Layers that the models below call."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3)
        self.wide = nn.Linear(4, 3)
        self.convolution = nn.Conv2d(2, 3, 1)
        self.sound = nn.Conv1d(1, 3, 8, stride=4)
        self.table = nn.Embedding(9, 4)
        self.other_table = nn.Embedding(5, 4)
        self.columns, self.steps, self.axes = 6, 12, 3


def found(model: Net) -> FoundCall:
    return find_call(model.eval, lambda called: read_hints(called, {}, {}))


def shapes(call: FoundCall) -> dict[str, object]:
    return {
        name: [part.sizes for part in argument.parts] if argument.parts else argument.sizes
        for name, argument in call.arguments.items()
    }


class RaisesOnColumns(Net):
    def forward(self, x: Tensor) -> Tensor:
        if x.ndim < 1 or x.shape[-1] != self.columns:
            raise ValueError("wrong columns")
        return self.linear(x)  # type: ignore[no-any-return]


class AssertsShape(Net):
    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1:] == (
            self.steps,
            self.columns,
        ), "wrong shape"
        return self.linear(x)  # type: ignore[no-any-return]


class AssertsAxes(Net):
    def forward(self, x: Tensor) -> Tensor:
        batch, *inner, _ = x.shape
        assert len(inner) == self.axes
        return x.reshape(batch, -1).sum(1) * self.wide.weight.sum()


class ElseRaises(Net):
    def forward(self, x: Tensor) -> Tensor:
        if x.size(1) == 7:
            return x.mean(dim=1) * self.wide.weight.sum()
        else:  # noqa: RET505
            raise ValueError("wrong")


class WantsMultiple(Net):
    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] % 8 != 0 or x.shape[1] <= 16:
            raise ValueError("no multiple")
        return x.mean(dim=1) * self.wide.weight.sum()


class MessageOnly(Net):
    def forward(self, x: Tensor) -> Tensor:
        check(x, self.columns)
        return self.linear(x)  # type: ignore[no-any-return]


def check(x: Tensor, columns: int) -> None:
    error = None if list(x.shape)[-1:] == [columns] else ValueError(f"last dimension of the input {x.shape[-1]}, not {columns}")
    if error is not None:
        raise error


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (RaisesOnColumns, (3, 6)),
        (AssertsShape, (3, 12, 6)),
        (ElseRaises, (3, 7)),
        (WantsMultiple, (3, 24)),
        (MessageOnly, (3, 6)),
    ],
)
def test_a_condition_that_does_not_hold_says_the_shape(model: type[Net], shape: tuple[int, ...]) -> None:
    assert shapes(found(model())) == {"x": shape}


def test_a_condition_says_the_number_of_axes() -> None:
    assert len(found(AssertsAxes()).arguments["x"].sizes) == 5


def test_a_long_signal_is_found_where_a_kernel_is_larger() -> None:
    class Signal(Net):
        def forward(self, waveform: Tensor) -> Tensor:
            if waveform.ndim != 2:
                raise ValueError(f"Expected the input to be 2D. Found {list(waveform.shape)}")
            return self.sound(self.sound(waveform.unsqueeze(1))[:, :1])  # type: ignore[no-any-return]

    batch, samples = found(Signal()).arguments["waveform"].sizes
    assert batch == 3
    assert samples >= 36


class ListOfMaps(Net):
    def forward(self, inputs: list[Tensor]) -> Tensor:
        return sum(self.convolution(each).mean((2, 3)) for each in inputs)  # type: ignore[return-value]


class CountsMaps(Net):
    def forward(self, inputs: Sequence) -> Tensor:  # type: ignore[type-arg]
        assert len(inputs) == 4
        return sum(self.convolution(each).mean((2, 3)) for each in inputs)  # type: ignore[return-value]


class UnpacksMaps(Net):
    def forward(self, features):  # type: ignore[no-untyped-def]
        one, two, three, four = features
        return self.convolution(one + two) + self.convolution(three + four)


@pytest.mark.parametrize(("model", "count"), [(ListOfMaps, 2), (CountsMaps, 4), (UnpacksMaps, 4)])
def test_a_list_of_tensors(model: type[Net], count: int) -> None:
    call = found(model())
    (several,) = shapes(call).values()
    assert isinstance(several, list)
    assert [shape[:2] for shape in several] == [(3, 2)] * count
    keys = signature_from_call(model().eval(), call.values).keys
    (name,) = call.arguments
    assert list(keys["inputs"]) == [f"{name}.{place}" for place in range(count)]


def test_numbers_by_their_annotation_are_tensors_without_axes() -> None:
    class Scaled(Net):
        def forward(self, x: Tensor, scale: float, steps: int, flag: bool) -> Tensor:
            for _ in range(steps):
                x = x * scale
            return self.linear(x if flag else -x)  # type: ignore[no-any-return]

    assert shapes(found(Scaled())) == {"x": (3, 6), "scale": (), "steps": (), "flag": ()}


class TwoTowers(Net):
    def forward(self, image: Tensor | None = None, text: Tensor | None = None) -> tuple[Tensor | None, Tensor | None, Tensor]:
        left = self.convolution(image).mean((2, 3)) if image is not None else None
        right = self.table(text).mean(1) if text is not None else None
        return left, right, self.wide.weight.sum()


def test_a_forward_that_works_without_arguments_is_called_with_all_that_give_an_output() -> None:
    assert set(found(TwoTowers()).arguments) == {"image", "text"}


def test_an_option_that_the_message_names_comes_first() -> None:
    class Needs(Net):
        def forward(self, a: Tensor | None = None, b: Tensor | None = None, ids: Tensor | None = None) -> Tensor:
            if ids is None:
                raise ValueError("You have to specify ids")
            return self.table(ids).mean(1)  # type: ignore[no-any-return]

    assert set(found(Needs()).arguments) == {"ids"}


def test_a_mask_that_changes_nothing_is_no_input() -> None:
    class Ignores(Net):
        def forward(self, x: Tensor, mask: Tensor | None = None, used_mask: Tensor | None = None) -> Tensor:
            hidden = self.table(x)
            return (hidden if used_mask is None else hidden * used_mask.unsqueeze(-1)).mean(1)  # type: ignore[no-any-return]

    assert set(found(Ignores()).arguments) == {"x", "used_mask"}


def test_ids_among_floating_point_columns_are_ids_of_their_tables() -> None:
    class Columns(Net):
        def forward(self, X: Tensor) -> Tensor:
            one, two = self.table(X[:, 0:1].long()), self.other_table(X[:, 1:2].long())
            return (one * two).sum((1, 2)) + X.new_zeros(len(X)) + self.wide.weight.sum()  # type: ignore[no-any-return]

    call = found(Columns())
    keys = signature_from_call(Columns().eval(), call.values).keys
    assert keys["inputs"] == {"X": {"axes": ["batch", 2], "values": {"ids": [9, 5]}, "dtype": "float32"}}


def test_columns_that_nothing_reads_are_no_part_of_the_input() -> None:
    class FirstColumns(Net):
        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x[:, torch.arange(6)])  # type: ignore[no-any-return]

    keys = signature_from_call(FirstColumns().eval(), {"x": torch.randn(3, 13)}).keys
    assert keys["inputs"]["x"]["axes"] == ["batch", 6]


def test_an_output_that_is_the_input_as_it_came_is_none() -> None:
    class Adds(Net):
        def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
            batch["scores"] = self.linear(batch["rows"])
            return batch

    call = found(Adds())
    assert [part.name for part in call.arguments["batch"].parts] == ["rows"]
    keys = signature_from_call(Adds().eval(), call.values).keys
    assert list(keys["inputs"]) == ["batch.rows"]
    assert list(keys["outputs"]) == ["scores"]


def test_positions_that_forward_counts_limit_the_length() -> None:
    class Positions(Net):
        def forward(self, ids: Tensor) -> Tensor:
            return self.table(ids) + self.other_table(torch.arange(ids.shape[1]))  # type: ignore[no-any-return]

    assert found(Positions()).arguments["ids"].sizes == (3, 5)


def test_the_search_of_a_side_ends_where_nothing_more_is_learned() -> None:
    class Mismatch:
        got, wanted = 8, 4

    search, sides = SideSearch(), []
    while (side := search.next_side()) is not None and len(sides) < 100:
        sides.append(side)
        if len(sides) < 4:
            search.learn(side, Mismatch())  # type: ignore[arg-type]
    assert len(sides) == len(set(sides)) < 100


def test_the_width_behind_strides_says_about_how_long_an_axis_is() -> None:
    class Strided(Net):
        def __init__(self) -> None:
            super().__init__()
            self.strides = nn.Conv2d(1, 32, 3, stride=2)
            self.after = nn.Linear(32 * 19, 2)

        def forward(self, frames: Tensor) -> Tensor:
            hidden = self.strides(frames.unsqueeze(1)).transpose(1, 2).flatten(2)
            return self.after(hidden)  # type: ignore[no-any-return]

    _, _, width = found(Strided()).arguments["frames"].sizes
    assert (width - 3) // 2 + 1 == 19


def test_lengths_are_of_the_axis_that_they_fill() -> None:
    class Lengths(Net):
        def forward(self, inputs: Tensor, input_lengths: Tensor) -> Tensor:
            real = torch.arange(inputs.shape[1]) < input_lengths[:, None]
            return (inputs * real.unsqueeze(-1)).sum((1, 2)) + self.wide.weight.sum()

    keys = signature_from_call(Lengths().eval(), {"inputs": torch.randn(3, 11, 13), "input_lengths": torch.full((3,), 11)}).keys
    lengths = keys["inputs"]["input_lengths"]["values"]["lengths_of"]
    assert keys["inputs"]["inputs"]["axes"][1] == lengths


def test_outputs_of_a_slow_model_have_the_axes_of_the_inputs() -> None:
    class Counts(Net):
        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x)  # type: ignore[no-any-return]

    keys = signature_from_call(Counts().eval(), {"x": torch.randn(3, 11, 6)}, seconds=0.05).keys
    assert keys["outputs"]["output"]["axes"][0] == "batch"


def test_what_is_refused_proposes_an_input_for_each_tensor_of_a_list() -> None:
    class Refuses(Net):
        def forward(self, levels: list[Tensor]) -> Tensor:
            raise ValueError("never")

    with pytest.raises(ForwardError, match=r"--input levels\.0=batch,\d+ --input levels\.1=batch,\d+"):
        found(Refuses())


def test_a_list_and_ids_among_numbers_may_be_given() -> None:
    class Takes(Net):
        def forward(self, levels: object, X: Tensor) -> Tensor:
            one, two = levels  # type: ignore[misc,attr-defined]
            return self.linear(one) + self.linear(two) + self.wide(self.table(X.long())).sum((1, 2))[:, None]

    said = [GivenInput.parse(text) for text in ("levels.0=batch,6", "levels.1=batch,6", "X=batch,2:ids=9:dtype=float32")]
    levels = Argument("levels", (), "parts", parts=tuple(replace(each.argument(), name=each.name[-1]) for each in said[:2]))
    call = find_call(Takes().eval, lambda model: read_hints(model, {}, {}), [levels, said[2].argument()])
    assert shapes(call) == {"levels": [(3, 6), (3, 6)], "X": (3, 2)}
    assert call.values["X"].is_floating_point()


def test_an_example_of_a_library_that_does_not_fit_is_no_hindrance() -> None:
    class Misfit(Net):
        dummy_inputs = {"x": torch.ones(2, 5)}  # noqa: RUF012

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x)  # type: ignore[no-any-return]

    made = Factory("Misfit", Misfit)
    declared = declare(Misfit().eval, made, sys.modules[__name__], (), Patience())
    assert declared.keys["inputs"]["x"]["axes"] == ["batch", 6]
