"""Where a model's author gives one working call, and what is said of one that cannot be used."""

from types import ModuleType
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from harness.errors import ExampleError
from harness.models.examples import arguments_of, find_example, given_example


class Two(nn.Module):
    def forward(self, left: Tensor, right: Tensor, scale: Tensor | None = None) -> Tensor:
        return left + right


class One(nn.Module):
    def forward(self, batch: Any) -> Tensor:
        return batch["x"]


A, B = torch.zeros(2, 3), torch.ones(2, 3)


@pytest.mark.parametrize(
    ("model", "given", "expected"),
    [
        (Two(), A, {"left": A}),
        (Two(), (A, B), {"left": A, "right": B}),
        (Two(), [A, {"right": B}], {"left": A, "right": B}),
        (Two(), {"left": A, "right": B}, {"left": A, "right": B}),
        (One(), {"x": A}, {"batch": {"x": A}}),
        (One(), (A, B), {"batch": (A, B)}),
    ],
)
def test_what_an_example_gives_becomes_arguments_by_name(model: nn.Module, given: Any, expected: dict[str, Any]) -> None:
    assert arguments_of(given, model, "example_inputs") == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, r"example_inputs gives None, expected a tensor, a tuple or a dict for Two\.forward\(left"),
        ({}, "example_inputs gives an empty dict"),
        ("text", "example_inputs gives a str"),
        ({"left": A, "wrong": B}, r"example_inputs gives 'wrong', which is not a parameter of Two\.forward"),
        ((A, B, A, A), "example_inputs gives 4 values, more than"),
    ],
)
def test_what_fits_no_forward_is_refused(given: Any, message: str) -> None:
    with pytest.raises(ExampleError, match=message) as refused:
        arguments_of(given, Two(), "example_inputs")
    assert "\n" not in str(refused.value)


def test_a_function_that_raises_is_refused_with_its_line() -> None:
    def example() -> Tensor:
        return torch.zeros(2) @ torch.zeros(3)

    with pytest.raises(ExampleError, match=r"`example`: data.py:f raised RuntimeError: .*test_model_examples.py, line \d+"):
        given_example(example, "`example`: data.py:f", Two())


def test_an_example_is_drawn_under_a_seed_and_may_take_the_model() -> None:
    def example(model: nn.Module) -> tuple[Tensor, Tensor]:
        assert isinstance(model, Two)
        return torch.rand(2, 3), torch.rand(2, 3)

    state = torch.get_rng_state()
    first, second = (given_example(example, "here", Two(), seed=7).arguments for _ in range(2))

    assert torch.equal(first["left"], second["left"])
    assert torch.equal(torch.get_rng_state(), state)


class OfLightning(Two):
    example_input_array = (A, B)


class OfHuggingFace(Two):
    @property
    def dummy_inputs(self) -> dict[str, Tensor]:
        return {"left": A, "right": B}


class OfItself(Two):
    def example_inputs(self) -> tuple[Tensor, Tensor]:
        return A, B


@pytest.mark.parametrize(
    ("model", "origin"),
    [
        (OfLightning(), "OfLightning.example_input_array"),
        (OfHuggingFace(), "OfHuggingFace.dummy_inputs"),
        (OfItself(), "OfItself.example_inputs"),
    ],
)
def test_the_model_gives_its_example(model: nn.Module, origin: str) -> None:
    found = find_example(model, None)
    assert found is not None
    assert (found.origin, found.arguments) == (origin, {"left": A, "right": B})


class Forecaster(nn.Module):
    main_input_name = "past_values"
    dummy_inputs: ClassVar = {"input_ids": torch.zeros(2, 5, dtype=torch.long)}

    def forward(self, past_values: Tensor, **more: Tensor) -> Tensor:
        return past_values


def test_token_ids_are_no_example_of_a_model_whose_main_input_is_another() -> None:
    assert find_example(Forecaster(), None) is None


def test_a_function_of_the_file_comes_first() -> None:
    module = ModuleType("model")
    module.__file__ = "/somewhere/model.py"
    module.example_inputs = lambda: (B, A)  # type: ignore[attr-defined]

    found = find_example(OfLightning(), module)

    assert found is not None
    assert found.origin == "example_inputs in model.py"
    assert found.arguments["left"] is B


def test_a_model_without_an_example_has_none() -> None:
    assert find_example(Two(), None) is None


def shaped(axes: str, dtype: str) -> Any:
    """An annotation as jaxtyping makes them, such as ``Float[Tensor, "batch seq"]``."""
    return type("Annotation", (), {"dim_str": axes, "dtypes": [dtype]})


Tokens, Hidden, Rows = shaped("batch seq", "int64"), shaped("batch seq d_model", "float32"), shaped("batch 3", "float32")


class Annotated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.d_model = 24
        self.table, self.head = nn.Embedding(10, 24), nn.Linear(24, 24)

    def forward(self, ids: Tokens, noise: Hidden) -> Tensor:
        return self.head(self.table(ids) + noise)


def test_annotations_with_shapes_give_an_example_and_names_of_axes() -> None:
    found = find_example(Annotated(), None)

    assert found is not None
    assert found.origin == "the annotations of Annotated.forward"
    ids, noise = found.arguments["ids"], found.arguments["noise"]
    assert ids.dtype == torch.long
    assert noise.shape == (*ids.shape, 24)
    assert found.axis_names == {"ids": ("batch", "seq"), "noise": ("batch", "seq", "d_model")}


class Unfitting(nn.Module):
    def forward(self, x: Rows, other: Tensor) -> Tensor:
        return x


def test_annotations_of_only_some_arguments_give_none() -> None:
    assert find_example(Unfitting(), None) is None
