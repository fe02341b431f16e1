"""Two recordings of one computation: which values count as equal, and where the first wrong one is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from harness.export.blame.comparison import gaps_between, is_telling, relative_gap
from harness.export.blame.divergence import Divergence, find_divergence
from harness.export.blame.recording import Trace, Value

Step = tuple[str, str, tuple[str, ...], Callable[..., Tensor]]
"""An operator, the name of its value, the names of its inputs, and what it does."""

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
W = torch.randn(6, 6, generator=torch.Generator().manual_seed(1))


class TestCloseness:
    def test_shape_does_not_matter_and_order_does(self) -> None:
        assert relative_gap(X, X.reshape(2, 12)) == 0
        assert relative_gap(X, X.T) > 0.1

    def test_rounding_is_small_whatever_the_scale(self) -> None:
        for scale in (1e-12, 1.0, 1e12):
            assert relative_gap(scale * X, scale * X * (1 + 1e-7)) < 1e-6

    def test_scores_are_told_apart_beside_the_large_numbers_of_a_mask(self) -> None:
        for hidden in (-1e4, -1e9, torch.finfo(torch.float32).min, float("-inf")):
            mask = torch.zeros(4, 6)
            mask[:, 3:] = hidden
            assert relative_gap(X + mask, 1.5 * X + mask) > 0.1

    def test_the_most_negative_number_is_as_good_as_minus_infinity(self) -> None:
        left, right = X.clone(), X.clone()
        left[0], right[0] = float("-inf"), torch.finfo(torch.float32).min
        assert relative_gap(left, right) == 0

    def test_nan_equals_nan_alone(self) -> None:
        broken = X.clone()
        broken[0, 0] = float("nan")
        assert relative_gap(broken, broken) == 0
        assert relative_gap(X, broken) == relative_gap(broken, X) == float("inf")

    def test_other_sizes_are_infinitely_far(self) -> None:
        assert relative_gap(X, X[:2]) == float("inf")

    def test_each_value_is_held_against_the_nearest(self) -> None:
        gaps = gaps_between([X, W, 2 * X], [X * (1 + 1e-7), torch.zeros(5)])
        assert gaps.expected[0] < 1e-6
        assert gaps.expected[1] == float("inf")
        assert gaps.expected[2] > 0.01
        assert gaps.found[0] < 1e-6
        assert gaps.found[1] == float("inf")

    def test_a_difference_outside_the_sample_is_seen(self) -> None:
        large = torch.randn(10_000)
        other = large.clone()
        other[1] += 1
        assert gaps_between([large], [other]).found[0] > 0.1

    @pytest.mark.parametrize(
        ("tensor", "telling"),
        [
            (X, True),
            (torch.ones(9), False),
            (1 + 1e-4 * X, False),
            (torch.arange(9), False),
            (torch.full((9,), -torch.inf), False),
        ],
    )
    def test_what_could_be_anything_tells_nothing(self, tensor: Tensor, telling: bool) -> None:
        assert is_telling(tensor) is telling


def run(steps: list[Step], replaced: dict[int, Tensor] | None = None) -> Trace:
    """Records a computation on ``x`` and the weight ``w``; its last step gives the logits."""
    values = [Value("", X, name="x", given=True), Value("", W, name="w", given=True)]
    index = {"x": 0, "w": 1}
    for operator, name, inputs, function in steps:
        tensor = function(*(values[index[each]].tensor for each in inputs))
        tensor = (replaced or {}).get(len(values), tensor)
        index[name] = len(values)
        values.append(Value(operator, tensor, tuple(index[each] for each in inputs), name))
    return Trace(values, len(values) - 1)


def diverge(reference: list[Step], artifact: list[Step]) -> Divergence | None:
    return find_divergence(run(reference), run(artifact), lambda index, tensor: run(artifact, {index: tensor}))


PRODUCT: Step = ("mm", "a", ("x", "w"), torch.mm)
RELU: Step = ("relu", "b", ("a",), torch.relu)
SUM: Step = ("add", "c", ("b", "x"), torch.add)
LAST: Step = ("mm", "d", ("c", "w"), torch.mm)
MODEL = [PRODUCT, RELU, SUM, LAST]


def names(steps: list[Step], divergence: Divergence | None) -> list[str]:
    """Names of the artifact's values that are blamed."""
    assert divergence is not None
    assert divergence.confirmed
    return [run(steps).values[index].name for index in divergence.segment]


class TestDivergence:
    def test_equal_recordings_part_nowhere(self) -> None:
        assert diverge(MODEL, MODEL) is None

    @pytest.mark.parametrize("size", [1.0, 1e-2, 1e-4])
    @pytest.mark.parametrize("place", range(4))
    def test_a_wrong_step_is_found_however_small_its_error(self, place: int, size: float) -> None:
        operator, name, inputs, function = MODEL[place]
        artifact = [*MODEL]
        artifact[place] = (operator, name, inputs, lambda *tensors: function(*tensors) * (1 + size) + size)
        assert names(artifact, diverge(MODEL, artifact)) == [name]

    def test_rounding_before_and_after_is_not_taken_for_the_defect(self) -> None:
        def rounded(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
            return lambda *tensors: function(*tensors) * (1 + 2e-6)

        artifact = [(operator, name, inputs, rounded(function)) for operator, name, inputs, function in MODEL]
        artifact[2] = ("sub", "c", ("b", "x"), rounded(torch.sub))
        assert names(artifact, diverge(MODEL, artifact)) == ["c"]

    def test_steps_that_the_model_does_in_one_are_innocent(self) -> None:
        """Relu as ``(x + |x|) / 2``: none of the values in between comes up in the model."""
        unfolded: list[Step] = [
            PRODUCT,
            ("abs", "b1", ("a",), torch.abs),
            ("add", "b2", ("a", "b1"), torch.add),
            ("half", "b", ("b2",), lambda tensor: tensor / 2),
            ("sub", "c", ("b", "x"), torch.sub),
            LAST,
        ]
        assert names(unfolded, diverge(MODEL, unfolded)) == ["c"]

    def test_a_fault_inside_such_steps_is_narrowed_to_them(self) -> None:
        unfolded: list[Step] = [
            PRODUCT,
            ("abs", "b1", ("a",), torch.abs),
            ("add", "b2", ("a", "b1"), torch.add),
            ("third", "b", ("b2",), lambda tensor: tensor / 3),
            SUM,
            LAST,
        ]
        assert names(unfolded, diverge(MODEL, unfolded)) == ["b1", "b2", "b"]

    def test_steps_that_the_artifact_does_in_one(self) -> None:
        fused: list[Step] = [("fused", "b", ("x", "w"), lambda x, w: torch.relu(x @ w) + 1), SUM, LAST]
        divergence = diverge(MODEL, fused)
        assert names(fused, divergence) == ["b"]
        assert divergence is not None
        assert [run(MODEL).values[index].name for index in divergence.lacking] == ["a", "b"]

    def test_a_missing_step(self) -> None:
        artifact: list[Step] = [PRODUCT, ("add", "c", ("a", "x"), torch.add), LAST]
        divergence = diverge(MODEL, artifact)
        assert divergence is not None
        assert divergence.absent
        assert names(artifact, divergence) == ["a"]
        assert run(MODEL).values[divergence.expected].name == "b"

    def test_a_missing_branch(self) -> None:
        model: list[Step] = [PRODUCT, RELU, ("sin", "s", ("b",), torch.sin), ("cos", "t", ("s",), torch.cos)]
        model += [("add", "c", ("a", "t"), torch.add), LAST]
        artifact: list[Step] = [PRODUCT, ("mm", "d", ("a", "w"), torch.mm)]
        divergence = diverge(model, artifact)
        assert divergence is not None
        assert divergence.absent
        assert names(artifact, divergence) == ["a"]
        assert run(model).values[divergence.expected].name == "c"

    def test_a_step_too_much(self) -> None:
        artifact: list[Step] = [PRODUCT, RELU, ("neg", "n", ("b",), torch.neg), ("add", "c", ("n", "x"), torch.add), LAST]
        divergence = diverge(MODEL, artifact)
        assert divergence is not None
        assert divergence.surplus
        assert names(artifact, divergence) == ["n"]

    def test_the_first_of_two_faults(self) -> None:
        later: list[Step] = [("sin", "s", ("d",), torch.sin), ("cos", "t", ("s",), torch.cos)]
        artifact = [PRODUCT, ("tanh", "b", ("a",), torch.tanh), SUM, LAST, later[0], ("abs", "t", ("s",), torch.abs)]
        assert names(artifact, diverge(MODEL + later, artifact)) == ["b"]

    def test_a_nan(self) -> None:
        artifact: list[Step] = [PRODUCT, ("log", "b", ("a",), torch.log), SUM, LAST]
        assert names(artifact, diverge(MODEL, artifact)) == ["b"]

    def test_what_is_computed_and_not_used_proves_nothing(self) -> None:
        """A step is skipped, and still stands in the file without a reader."""
        artifact: list[Step] = [PRODUCT, RELU, ("add", "c", ("a", "x"), torch.add), LAST]
        divergence = diverge(MODEL, artifact)
        assert divergence is not None
        assert run(MODEL).values[divergence.expected].name == "b"

    def test_where_nothing_can_be_run_again_the_likeliest_is_said_not_to_be_confirmed(self) -> None:
        artifact: list[Step] = [PRODUCT, ("tanh", "b", ("a",), torch.tanh), SUM, LAST]
        divergence = find_divergence(run(MODEL), run(artifact), lambda _index, _tensor: None)
        assert divergence is not None
        assert not divergence.confirmed
        assert run(artifact).values[divergence.found].name == "b"
