"""Blame names the module whose own code is at fault, not one that passes the fault on."""

from __future__ import annotations

import linecache

import pytest
import torch
from torch import Tensor, nn

from harness.batches import Sizes
from harness.evidence import Status
from harness.properties.device_and_dtype import first_of_other_dtype
from harness.properties.gradient_tracing import first_bad_gradient, is_alive
from harness.properties.misshapen import first_misshapen
from harness.properties.tracing import (
    finite,
    first_broken,
    first_divergence,
    positions_view,
    recording,
    row_view,
    whole,
)
from harness.tasks import TaskSpec, TaskType
from pytest_modeltiers.live import judge_model


class Mixer(nn.Module):
    """Adds the mean over the batch between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.second(x + x.mean(0, keepdim=True))


class Stack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Linear(4, 4)
        self.mixer = Mixer()
        self.after = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.mixer(self.before(x)))


def record(model: nn.Module, x: Tensor) -> list:
    with recording(model) as calls, torch.no_grad():
        model(x)
    return calls


class Pooled(nn.Module):
    """As many states as rows: of a bidirectional layer two, of a batch of two."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(4, 3, batch_first=True, bidirectional=True)
        self.weigh = nn.Softmax(0)

    def forward(self, x: Tensor) -> Tensor:
        return (self.rnn(x)[0] * self.weigh(self.rnn(x)[0])).sum(1)


def test_the_states_of_a_recurrent_layer_are_not_taken_for_rows() -> None:
    model, x = Pooled(), torch.randn(2, 5, 4)
    y = x.clone()
    y[1:] += 1
    assert first_divergence(record(model, x), record(model, y), row_view(Sizes(2, 5), 0)) == "weigh"


def test_the_module_that_mixes_is_named_and_not_the_layer_after_the_mixing() -> None:
    model, x = Stack(), torch.randn(3, 4)
    y = x.clone()
    y[1:] += 1
    assert first_divergence(record(model, x), record(model, y), row_view(Sizes(3), 0)) == "mixer"


def test_a_line_that_one_of_two_calls_does_not_run_is_named() -> None:
    class Placed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.read, self.places, self.write = nn.Linear(4, 4), nn.Parameter(torch.ones(9, 4)), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.read(x)
            if x.shape[1] > 1:
                x = x + self.places[: x.shape[1]]  # not of a single token
            return self.write(x.relu() * 2)

    def recorded(x: Tensor) -> list:
        with recording(model, lines=True) as calls, torch.no_grad():
            model(x)
        return calls

    model, x = Placed(), torch.randn(2, 3, 4)
    found = first_divergence(recorded(x), recorded(x[:, :1]), lambda each: each[:, :1])
    line = int(found.place.rpartition(":")[2])
    assert "not of a single token" in linecache.getline(__file__, line)
    assert found.note == f"line {line} runs in only one of the two calls"


def test_recordings_that_agree_name_nothing() -> None:
    model, x = Stack(), torch.randn(3, 4)
    assert first_divergence(record(model, x), record(model, x), whole) == ""


def test_inputs_are_copied_before_an_in_place_operation_changes_them() -> None:
    model, x = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True)), torch.randn(3, 4)
    calls = record(model, x)
    relu = next(call for call in calls if call.module == "1")
    assert bool((relu.inputs[0] < 0).any())
    assert not bool((relu.outputs[0] < 0).any())


def test_hooks_are_gone_afterwards_even_when_the_model_raises() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(RuntimeError):
        record(model, torch.randn(3, 5))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_the_first_module_that_makes_a_nan_from_sound_inputs_is_named() -> None:
    class Log(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.log()

    model = nn.Sequential(nn.Linear(4, 4), Log(), nn.Linear(4, 4))
    calls = record(model, torch.randn(8, 4))
    assert first_broken(calls, lambda tensor: not finite(tensor)) == "1"


def test_an_additive_mask_of_minus_infinity_is_no_defect() -> None:
    assert finite(torch.tensor([0.0, float("-inf")]))
    assert not finite(torch.tensor([0.0, float("inf")]))
    assert not finite(torch.tensor([float("nan")]))


def test_positions_are_found_on_both_axes_of_attention_weights_and_in_folded_batches() -> None:
    view = positions_view(batch=2, seq=5, stop=3)
    assert view(torch.zeros(2, 5, 7)).shape == (2, 3, 7)
    assert view(torch.zeros(2, 4, 5, 5)).shape == (2, 4, 3, 3)
    assert view(torch.zeros(10, 7)).shape == (2, 3, 7)
    assert view(torch.zeros(5, 2, 7)).shape == (2, 3, 7)
    assert view(torch.zeros(3)) is None


class Shortening(nn.Linear):
    """Returns four rows at most."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[:4]


class Single(nn.Linear):
    """Returns float32 whatever it is given."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).float()


class Rounding(nn.Module):
    """Returns whole numbers, through which no gradient passes but zero."""

    def forward(self, x: Tensor) -> Tensor:
        return x.round()


def test_the_module_that_loses_rows_is_named_though_a_later_one_raises() -> None:
    model = nn.Sequential(nn.Linear(4, 4), Shortening(4, 4), nn.Linear(4, 4))
    assert first_misshapen(record(model, torch.randn(5, 4)), record(model, torch.randn(3, 4)), 5, 3) == "1"


def test_shapes_that_grow_with_the_batch_name_nothing() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Flatten(0), nn.Unflatten(0, (-1, 4)))
    assert first_misshapen(record(model, torch.randn(5, 4)), record(model, torch.randn(3, 4)), 5, 3) == ""


def test_the_module_that_returns_another_dtype_is_named() -> None:
    model = nn.Sequential(nn.Linear(4, 4), Single(4, 4), nn.ReLU()).bfloat16()
    calls = record(model, torch.randn(3, 4).bfloat16())
    assert first_of_other_dtype(calls, torch.bfloat16) == "1"
    assert first_of_other_dtype(record(model[:1], torch.randn(3, 4).bfloat16()), torch.bfloat16) == ""


def test_the_module_in_which_a_gradient_dies_is_named() -> None:
    model, x = nn.Sequential(nn.Linear(4, 4), Rounding(), nn.Linear(4, 4)), torch.randn(3, 4)
    assert first_bad_gradient(model, lambda: model(x).sum().backward(), is_alive) == "1"


class DeepBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.mlp: nn.Module = nn.Sequential(nn.Linear(16, 16), nn.GELU(), nn.Linear(16, 16))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mlp(self.norm(x))


class MeanOverRows(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 0.5 * x.mean(0, keepdim=True)


class MeanOverPositions(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 0.5 * x.mean(1, keepdim=True)


class Deep(nn.Module):
    """24 equal blocks, one of which may be wrong."""

    def __init__(self, wrong: nn.Module) -> None:
        super().__init__()
        self.embedding = nn.Embedding(32, 16)
        self.blocks = nn.ModuleList(DeepBlock() for _ in range(24))
        self.head = nn.Linear(16, 32)
        self.blocks[17].mlp = nn.Sequential(self.blocks[17].mlp, wrong)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embedding(input_ids)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


@pytest.mark.parametrize(
    ("name", "test", "wrong"),
    [
        ("batch_independence", "batch_independence[forward]", MeanOverRows),
        ("causal", "causal", MeanOverPositions),
    ],
)
def test_the_wrong_layer_of_24_is_named(name: str, test: str, wrong: type[nn.Module]) -> None:
    task = TaskSpec(TaskType.CAUSAL_LM, vocab_size=32, max_seq_len=12)
    found = judge_model(lambda: Deep(wrong()), task, only=[name], share=0.2)[test]
    assert found.status is Status.FAIL
    assert found.module == "blocks.17.mlp.1"
    assert judge_model(lambda: Deep(nn.Identity()), task, only=[name], share=0.2)[test].status is Status.OK
