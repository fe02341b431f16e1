"""A large model computes in float64 with the memory of one module more, and is saved and loaded without a second set of weights."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.adapters import make_adapter
from harness.compat import is_shared_until_written
from harness.evidence import Status
from harness.models.copies import clone, share_again
from harness.properties.large_tensors import (
    GradientGap,
    RepeatedDraws,
    first_of_each_kind,
    gradient_gaps,
    is_widened,
    keeping_state,
    pickled,
    reading_gradients,
    through_a_file,
    widened,
)
from harness.properties.loading import other_dtype, state_dict_round_trip
from harness.properties.state import deepcopy_independent, tied_weights
from harness.properties.subject import Subject, floating_dtype
from harness.runtime import seeded
from harness.tasks import TaskSpec, TaskType

TASK = TaskSpec(TaskType.CAUSAL_LM, vocab_size=16, max_seq_len=200)


class Tied(nn.Module):
    """Has a buffer that counts, a weight used twice, and a part that calls itself."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(16, 8)
        self.layer = nn.Linear(8, 8)
        self.head = nn.Linear(8, 16, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("scale", torch.full((8,), 1 / 3))

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.layer(self.layer(self.embedding(input_ids))) * self.scale)


class ReadsItsDtype(Tied):
    """Computes in the dtype of its weights, whatever it is given."""

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.layer(self.embedding(input_ids)).to(self.head.weight.dtype).to(torch.float64) * self.scale)


def subject_of(model: nn.Module, monkeypatch: pytest.MonkeyPatch, free: int = 10_000) -> Subject:
    monkeypatch.setattr("harness.runtime._LARGE", 0)
    monkeypatch.setattr("harness.properties.subject.free_memory", lambda _device: free)
    return Subject(model.eval(), make_adapter(TASK), TASK)


def test_a_widened_model_computes_what_one_in_float64_does_and_keeps_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = subject_of(Tied(), monkeypatch)
    double, batch = subject.double, subject.batch()
    assert double is not None
    assert is_widened(double)
    before = [parameter.dtype for parameter in double.parameters()]
    found = subject.logits(batch, double)
    assert torch.equal(found, subject.logits(batch, subject.fresh().double()))
    assert found.dtype is torch.float64 is floating_dtype(double)
    assert [parameter.dtype for parameter in double.parameters()] == before == [torch.float32] * len(before)


def test_the_weights_of_a_large_model_are_nudged_while_their_module_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Tied()
    before = [parameter.clone() for parameter in model.parameters()]
    floors = [subject_of(model, monkeypatch).floor.last_place]
    monkeypatch.setattr("harness.runtime._LARGE", 1 << 40)
    floors.append(Subject(model.eval(), make_adapter(TASK), TASK).floor.last_place)
    assert 0 < min(floors) <= max(floors) < 5 * min(floors)
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), before, strict=True))


def test_gradients_of_a_widened_model_are_in_float64() -> None:
    model = widened(Tied())
    model(torch.tensor([[1, 2, 3]])).sum().backward()
    exact = Tied().double()
    exact.load_state_dict(model.state_dict())
    exact(torch.tensor([[1, 2, 3]])).sum().backward()
    for own, other in zip(model.parameters(), exact.parameters(), strict=True):
        assert own.grad is not None
        assert other.grad is not None
        assert own.grad.dtype is torch.float64
        assert torch.equal(own.grad, other.grad)


def test_weights_are_put_back_where_forward_raises() -> None:
    model = widened(Tied())
    own = model.layer.weight
    with pytest.raises(RuntimeError):
        model.layer(torch.ones(1, 3, dtype=torch.float64))
    assert model.layer.weight is own


def test_a_model_that_computes_in_its_own_dtype_is_not_widened(monkeypatch: pytest.MonkeyPatch) -> None:
    double = subject_of(ReadsItsDtype(), monkeypatch).double
    assert double is not None
    assert not is_widened(double)


def test_a_model_in_float64_is_judged_as_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    double = subject_of(Tied().double(), monkeypatch).double
    assert double is not None
    assert not is_widened(double)


@pytest.mark.parametrize("is_large", [False, True])
def test_what_is_saved_and_loaded_keeps_ties_and_shares_nothing_that_is_written(
    monkeypatch: pytest.MonkeyPatch, is_large: bool
) -> None:
    if is_large:
        monkeypatch.setattr("harness.runtime._LARGE", 1)
        monkeypatch.setattr("harness.models.copies._LARGE", 1)
    model = Tied()
    before = model.embedding.weight.detach().clone()
    state, copied = through_a_file(model), pickled(model)
    assert list(state) == list(model.state_dict())
    assert state["head.weight"].data_ptr() == state["embedding.weight"].data_ptr()
    assert copied.head.weight is copied.embedding.weight
    with torch.no_grad():
        state["head.weight"].zero_()
        copied.embedding.weight.zero_()
    assert torch.equal(model.embedding.weight, before)


def test_equal_weights_are_shared_until_one_is_written_and_others_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.runtime._LARGE", 1)
    monkeypatch.setattr("harness.models.copies._LARGE", 1)
    model, other = Tied(), Tied()
    whole = torch.cat([model.layer.weight.detach().flatten(), torch.zeros(3)])  # as in a mapped file
    other.layer.weight.data = whole[:64].view(8, 8)
    embedding, parameter = other.embedding.weight.detach().clone(), other.layer.weight
    assert share_again(other, model) is other
    assert other.layer.weight is parameter
    assert is_shared_until_written(other.layer.weight)
    assert other.layer.weight.untyped_storage().nbytes() == 64 * 4
    assert torch.equal(other.embedding.weight, embedding)
    assert other.head.weight is other.embedding.weight
    before = model.layer.weight.detach().clone()
    with torch.no_grad():
        other.layer.weight.zero_()
    assert torch.equal(model.layer.weight, before)


class DrawsWhatIsNotSaved(Tied):
    """Keeps random numbers that no state dict holds."""

    def __init__(self) -> None:
        super().__init__()
        self.offset = torch.randn(8, 1024)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.layer(self.embedding(input_ids)) * self.scale + self.offset.sum(1).to(self.scale))


class LeavesALayerOut(Tied):
    """Loads all but one weight, which is zero in every instance."""

    def __init__(self) -> None:
        super().__init__()
        self.zero = nn.Parameter(torch.zeros(8, 1024))

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.layer(self.embedding(input_ids)) * self.scale + self.zero.sum(1))

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *others: Any) -> None:
        super()._load_from_state_dict({**state_dict, f"{prefix}zero": self.zero.detach()}, prefix, *others)


@pytest.mark.parametrize(("build", "is_red"), [(Tied, False), (DrawsWhatIsNotSaved, True), (LeavesALayerOut, True)])
def test_a_large_model_is_saved_with_weights_that_a_second_instance_lacks(
    monkeypatch: pytest.MonkeyPatch, build: type[nn.Module], is_red: bool
) -> None:
    monkeypatch.setattr("harness.models.copies._LARGE", 1)

    def rebuild(seed: int) -> nn.Module:
        with seeded(seed):
            torch.manual_seed(seed)
            return build().eval()

    subject = subject_of(rebuild(0), monkeypatch, free=1 << 40)
    subject.rebuild = rebuild
    for judge in (state_dict_round_trip, other_dtype):
        assert (judge(subject).status is Status.FAIL) == is_red


@pytest.mark.parametrize("is_large", [False, True])
def test_gradients_are_compared_part_by_part(monkeypatch: pytest.MonkeyPatch, is_large: bool) -> None:
    if is_large:
        monkeypatch.setattr("harness.runtime._LARGE", 1)
    model, passes = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1), nn.Linear(2, 2)), list[float]()

    def backward(times: float, read: Any) -> None:
        passes.append(times)
        with reading_gradients(model, read):
            (times * model[1](model[0](torch.ones(1, 2)))).sum().backward()

    def backward_of_another_part(read: Any) -> None:
        with reading_gradients(model, read):
            model[2](torch.ones(1, 2)).sum().backward()

    found = gradient_gaps(model, lambda read: backward(1.0, read), lambda read: backward(3.0, read))
    assert list(found) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert found["1.bias"] == GradientGap(largest=1.0, gap=2.0, is_lost=False)
    assert len(passes) > 2 if is_large else len(passes) == 2
    found = gradient_gaps(model, lambda read: backward(1.0, read), backward_of_another_part)
    assert found["1.bias"] == GradientGap(largest=1.0, gap=1.0, is_lost=True)
    assert found["2.bias"] == GradientGap(largest=None, gap=1.0, is_lost=False)


def test_a_second_instance_of_a_large_model_is_drawn_from_numbers_that_repeat() -> None:
    def drawn(size: int) -> Tensor:
        with seeded(0):
            return nn.init.normal_(torch.empty(size, 1024), std=0.02)

    with RepeatedDraws():
        large, small = drawn(1100), drawn(8)
    assert torch.equal(small, drawn(8))
    assert not torch.equal(large, drawn(1100))
    assert large.std().item() == pytest.approx(0.02, rel=0.01)
    assert len(torch.unique(large, dim=0)) == len(large)


def test_a_deep_copy_of_a_large_model_is_told_from_one_that_shares_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = subject_of(Tied(), monkeypatch)
    before = [parameter.detach().clone() for parameter in subject.copies.model.parameters()]
    assert deepcopy_independent(subject).status is Status.OK
    assert all(map(torch.equal, before, subject.copies.model.parameters()))
    monkeypatch.setattr("harness.properties.state.copy", SimpleNamespace(deepcopy=lambda model: model))
    assert deepcopy_independent(subject).code == "copy_shares_weights"


@pytest.mark.parametrize("is_large", [True, False])
def test_a_state_that_is_put_back_keeps_the_memory_of_what_was_not_written_to(
    is_large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.runtime._LARGE", 1 if is_large else 1 << 40)
    model = nn.Sequential(nn.Linear(600, 600), nn.BatchNorm1d(600))
    copied = clone(model)
    with keeping_state(copied):
        copied.train()(torch.randn(4, 600))
    assert all(torch.equal(one, other) for one, other in zip(model.buffers(), copied.buffers(), strict=True))
    assert is_shared_until_written(copied[0].weight) is is_large


def test_a_parameter_of_each_kind_stands_for_those_that_are_like_it() -> None:
    block = [nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)) for _ in range(3)]
    model = nn.Sequential(nn.Embedding(9, 4), *block, nn.Linear(4, 9))
    assert first_of_each_kind(model) == {"0.weight", "1.0.weight", "1.0.bias", "1.1.weight", "1.1.bias", "4.weight", "4.bias"}


class UndoesTheTie(Tied):
    """Gives its head a separate weight when it is loaded from what holds the tied one once."""

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        found = super().load_state_dict(state_dict, strict, assign)
        if "head.weight" not in state_dict or "embedding.weight" not in state_dict:
            self.head.weight = nn.Parameter(torch.randn(16, 8))
        return found


@pytest.mark.parametrize(("build", "is_red"), [(Tied, False), (UndoesTheTie, True)])
def test_of_a_large_model_a_file_that_holds_tied_weights_once_is_written_without_the_others(
    monkeypatch: pytest.MonkeyPatch, build: type[nn.Module], is_red: bool
) -> None:
    monkeypatch.setattr("harness.models.copies._LARGE", 1)
    written: list[int] = []

    def rebuild(seed: int) -> nn.Module:
        with seeded(seed):
            return build().eval()

    def save(model: nn.Module, file: str) -> None:
        written.append(model.layer.weight.numel())
        saved(model, file)

    import safetensors.torch

    saved = safetensors.torch.save_model
    monkeypatch.setattr("safetensors.torch.save_model", save)
    subject = subject_of(rebuild(0), monkeypatch, free=1 << 40)
    subject.rebuild = rebuild
    found = tied_weights(subject)
    assert found.status is (Status.FAIL if is_red else Status.OK), found.explain()
    assert set(written) == {0}
