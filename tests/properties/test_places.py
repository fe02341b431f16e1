"""The line to look at: of a forward, of what wrote into an input, drew a random number or raised."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import flex_attention

from harness.evidence import Evidence, Status
from harness.models.wrapped import call_by
from harness.properties.places import (
    end_of,
    forward_of,
    line_that_calls,
    line_that_changes_a_weight,
    line_that_fixes_a_size,
    line_that_sets,
    located,
    method_of,
    raising_line,
    shown_place,
)
from harness.properties.watched_lines import (
    LinesOfParameters,
    drawing_line,
    lines_that_load_in_part,
    making_line,
    switching_line,
    writing_line,
)
from harness.user_code import raised


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.linear = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) * self.weight


class Inheriting(Inner):
    pass


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.ModuleList([Inner(), Inheriting()])
        self.loose = [Inner()]

    def forward(self, x: Tensor) -> Tensor:
        return self.inner[0](x)


def line(source: Any, text: str) -> str:
    """The place of the first line of a function or class that holds a text."""
    lines, first = inspect.getsourcelines(source)
    return shown_place(__file__, first + next(number for number, one in enumerate(lines) if text in one))


@pytest.mark.parametrize(
    ("path", "source", "text"),
    [
        ("(model)", Outer, "def forward"),
        ("inner.0", Inner, "def forward"),
        ("inner.0.weight", Inner, "self.weight ="),
        ("inner.1", Inheriting, "class Inheriting"),
    ],
)
def test_a_module_is_found_where_its_forward_or_its_class_is(path: str, source: Any, text: str) -> None:
    assert forward_of(Outer(), path) == line(source, text)


@pytest.mark.parametrize(
    ("path", "source", "text"),
    [
        ("inner.0.linear", Inner, "self.linear = "),
        ("inner.1.linear.weight", Inner, "self.linear = "),
        ("loose[0]", Outer, "self.loose = "),
    ],
)
def test_torchs_own_code_and_what_is_no_module_are_found_where_they_are_made(path: str, source: Any, text: str) -> None:
    assert forward_of(Outer(), path) == line(source, text)


def test_a_method_that_is_called_in_place_of_forward_is_found() -> None:
    class Agent(nn.Module):
        def forward(self) -> None:
            raise NotImplementedError

        def act(self, x: Tensor) -> Tensor:
            return x

    agent = Agent()
    call_by(agent, "act", "Agent")
    assert forward_of(agent, "(model)") == line(Agent, "def act")


def test_what_nothing_makes_has_no_line() -> None:
    assert forward_of(Outer(), "nowhere") == ""


def writes(given: Tensor) -> Tensor:
    x = given + 1
    x.mul_(2)
    view = given.view(-1)[2:]
    view.add_(1)
    return x


def keeps(given: Tensor) -> Tensor:
    return given.clone().mul_(2)


def test_the_line_that_writes_into_a_tensor_or_a_view_of_it() -> None:
    given = torch.zeros(2, 3)
    assert writing_line(lambda: writes(given), given) == line(writes, "view.add_(1)")
    assert writing_line(lambda: keeps(given), given) == ""


def draws(x: Tensor) -> Tensor:
    own = torch.rand(3, generator=torch.Generator().manual_seed(0))
    return nn.functional.dropout(x, 0.5) + own


def draws_for_itself(x: Tensor) -> Tensor:
    return x + torch.rand(3, generator=torch.Generator().manual_seed(0))


def test_the_line_that_draws_from_the_global_random_state() -> None:
    assert drawing_line(lambda: draws(torch.ones(3))) == line(draws, "dropout")
    assert drawing_line(lambda: draws_for_itself(torch.ones(3))) == ""


def attends(x: Tensor) -> Tensor:
    return nn.functional.dropout(flex_attention(x, x, x), 0.5)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_where_torch_refuses_to_be_watched_no_line_is_known() -> None:
    assert drawing_line(lambda: attends(torch.ones(1, 1, 2, 4))) == ""


def raises(x: Tensor) -> Tensor:
    return x.view(7)


def test_the_line_that_raises() -> None:
    with pytest.raises(RuntimeError) as caught:
        raises(torch.ones(3))
    assert raising_line(caught.value) == line(raises, "x.view(7)")


def failing(message: str, module: str = "") -> Evidence:
    return located(Evidence("causal", Status.FAIL, message, module=module), Outer())


def test_a_message_that_names_its_line_is_believed_and_not_repeated() -> None:
    found = failing(f"forward raises: RuntimeError: no ({Path(__file__).name}, line 12)", "inner.0")
    assert found.place == shown_place(__file__, 12)
    assert found.headline == f"{found.message} (first seen in `inner.0`)"


def test_the_model_as_a_whole_is_named_by_its_line_or_not_at_all() -> None:
    assert failing("it leaks", "(model)").headline == f"it leaks ({line(Outer, 'def forward')})"
    assert Evidence("causal", Status.FAIL, "it leaks", module="(model)").headline == "it leaks"
    assert failing("it leaks", "inner.0").headline == f"it leaks (first seen in `inner.0`, {line(Inner, 'def forward')})"


def test_what_passed_has_no_line() -> None:
    assert located(Evidence("causal", Status.OK, "holds", module="inner.0"), Outer()).place == ""


@pytest.mark.parametrize(
    ("measured", "bound", "unit", "text"),
    [
        (1.0, 0.0, "tensors", "1 tensor, allowed none"),
        (3.0, 0.0, "tensors", "3 tensors, allowed none"),
        (8.0, 0.0, "shapes refused", "8 shapes refused, allowed none"),
        (61.0, 50.0, "ms", "61, allowed 50 ms"),
        (1.0, None, "ms", "1 ms"),
        (0.031, 4e-7, "", "0.031, allowed 4e-7"),
        (0.0, 0.0, "tensors", ""),
        (0.5, 0.0, "", "0.5, allowed 0"),
    ],
)
def test_measure_and_bound_are_said_in_words(measured: float, bound: float | None, unit: str, text: str) -> None:
    assert Evidence("causal", Status.FAIL, "it is wrong", measured, bound, unit).comparison == text


class Adapted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, 2))
        self.kept = Inner()

    def change(self) -> Tensor:
        return self.kept.weight[:2]

    def merge(self) -> None:
        self.weight.data += self.change()

    @torch.no_grad()
    def unmerge(self) -> None:
        self.weight.data = self.weight - self.change()

    def load(self, state: dict[str, Tensor]) -> None:
        self.load_state_dict(state, strict=False)

    def count(self) -> None:
        seen: Any = self.kept
        seen.steps = 1


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (line_that_changes_a_weight(Adapted(), "(model)"), "return self.kept.weight[:2]"),
        (line_that_changes_a_weight(Adapted(), "(model)", is_undone=True), "self.weight.data = self.weight - self.change()"),
        (line_that_sets(Adapted(), "kept.steps"), "seen.steps = 1"),
        (method_of(Adapted(), "unmerge"), "def unmerge(self) -> None:"),
        (end_of(Adapted(), "merge"), "self.weight.data += self.change()"),
        (line_that_calls(Adapted(), "(model)", ("load_state_dict",), "load"), "self.load_state_dict(state, strict=False)"),
        (line_that_calls(Adapted(), "(model)", ("load_state_dict",), "merge"), ""),
    ],
)
def test_a_line_is_found_by_what_it_does(found: str, text: str) -> None:
    assert line_at(found) == text


def test_a_load_that_leaves_parameters_out_is_noted_and_one_that_does_not_is_not() -> None:
    model = Adapted()

    with lines_that_load_in_part() as lines:
        model.load(model.state_dict())
        assert lines == []
        model.load({})

    assert line_at(lines[0]) == "self.load_state_dict(state, strict=False)"


def line_at(place: str) -> str:
    return Path(__file__).read_text().splitlines()[int(place.rpartition(":")[2]) - 1].strip() if place else ""


def helper() -> None:
    raise ValueError("odd")


def calling() -> None:
    helper()


def test_an_error_in_a_function_is_told_with_the_line_that_called_it() -> None:
    with pytest.raises(ValueError, match="odd") as error:
        calling()

    told = raised(error.value)

    assert re.fullmatch(r"ValueError: odd \(test_places\.py, line \d+, called at line \d+\)", told)
    located_at = located(Evidence("x", Status.FAIL, told), Inner())
    assert line_at(located_at.place) == 'raise ValueError("odd")'
    assert located_at.where == ""


class WholeSizes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.repeats = int(2.0)

    def forward(self, x: Tensor) -> Tensor:
        rows = int(x.shape[0])
        return x.reshape(rows, -1)


def test_the_line_that_makes_a_size_a_number_of_python_is_found() -> None:
    assert line_that_fixes_a_size(WholeSizes()) == line(WholeSizes, "int(x.shape[0])")
    assert line_that_fixes_a_size(nn.Linear(2, 2)) == ""


class Weights(nn.Module):
    """Parameters that are made, filled, replaced and given other data."""

    def __init__(self) -> None:
        super().__init__()
        self.made = nn.Linear(3, 3)
        self.filled = nn.Linear(3, 3)
        self.tied = nn.Linear(3, 3)
        self.shared = nn.Linear(3, 3)
        nn.init.constant_(self.filled.weight, 1.0)
        self.tied.weight = self.made.weight
        self.shared.weight.data = self.made.weight.data


def test_a_parameter_knows_the_lines_that_made_filled_and_replaced_it() -> None:
    lines = LinesOfParameters(Weights)
    assert lines.written("made.weight") == line(Weights, "self.made = nn.Linear")
    assert lines.written("filled.weight") == line(Weights, "constant_(self.filled")
    assert lines.replaced("made.weight") == ""
    assert lines.replaced("tied.weight") == line(Weights, "self.tied.weight =")
    assert lines.replaced("shared.weight") == line(Weights, "self.shared.weight.data =")
    assert (lines.written("other"), lines.replaced("other")) == ("", "")


class Switching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout()

    def forward(self, x: Tensor) -> Tensor:
        self.drop.train()
        return self.drop(x)


def test_the_line_that_switches_a_mode_is_found() -> None:
    model = Switching().eval()
    assert switching_line(lambda: model(torch.ones(2)), model.drop) == line(Switching, "self.drop.train()")
    assert switching_line(lambda: model(torch.ones(2)), nn.Dropout()) == ""


def test_a_message_that_names_two_files_gives_the_line_of_the_first() -> None:
    evidence = Evidence(
        "finite_output", Status.FAIL, "it raises RuntimeError: no (of_nobody.py, line 7, called at model.py, line 9)"
    )
    assert located(evidence, Outer()).place == "of_nobody.py:7"


class HalfMade(nn.Module):
    """Makes one tensor of the dtype of its input, and one of the usual one."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        fine = torch.ones(3, dtype=x.dtype)
        wrong = torch.zeros(1, 3)
        return self.mix(torch.addmm(wrong, x * fine, self.mix.weight))


def test_the_line_that_makes_a_tensor_of_another_dtype_is_told_by_making_it_of_the_right_one() -> None:
    model = HalfMade().double()

    def found(run: Any) -> str:
        return making_line(run, lambda tensor: tensor.dtype == torch.float64, lambda tensor: tensor.double())

    assert found(lambda: model(torch.ones(2, 3, dtype=torch.float64))) == line(HalfMade, "torch.zeros(1, 3)")
    assert found(lambda: model(torch.ones(2, 4, dtype=torch.float64))) == "", "it raises for another reason"


class Frozen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(3, 3).requires_grad_(False)
        self.head = nn.Linear(3, 3)
        self.head.weight.requires_grad = False


def test_the_line_that_freezes_a_parameter_is_found() -> None:
    lines = LinesOfParameters(Frozen)
    assert lines.frozen("body.weight") == line(Frozen, "self.body")
    assert lines.frozen("head.weight") == line(Frozen, "self.head.weight.requires_grad")
    assert lines.frozen("head.bias") == ""
