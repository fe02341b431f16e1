"""A clone is what ``copy.deepcopy`` makes, only sooner."""

from __future__ import annotations

import torch
from torch import nn

from harness.models.copies import clone
from harness.models.stubs import LMStub


class Odd(nn.Module):
    """Keeps what modules keep besides parameters: tensors, containers full and empty, one shared by two."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = LMStub(20, 8, width=16, depth=1)
        self.constant = torch.ones(3)
        self.history: list[int] = []
        self.names = {"a": [1]}
        self.shared: dict[str, int] = {}
        self.inner.shared = self.shared


def test_a_clone_holds_equal_tensors_and_shares_none() -> None:
    model = Odd()
    copied = clone(model)
    for (name, left), (_, right) in zip(model.state_dict().items(), copied.state_dict().items(), strict=True):
        assert torch.equal(left, right), name
        assert left.data_ptr() != right.data_ptr(), name
    assert copied.constant.data_ptr() != model.constant.data_ptr()


def test_tied_weights_stay_tied() -> None:
    copied = clone(Odd())
    assert copied.inner.head.weight is copied.inner.embed.tokens.weight


def test_containers_are_copied_empty_or_not_and_stay_shared_where_they_were() -> None:
    model = Odd()
    copied = clone(model)
    copied.history.append(1)
    copied.names["a"].append(2)
    copied.shared["x"] = 1
    assert model.history == []
    assert model.names == {"a": [1]}
    assert model.shared == {}
    assert copied.inner.shared is copied.shared


def test_hooks_of_a_clone_are_its_own() -> None:
    model = Odd()
    copied = clone(model)
    copied.register_forward_hook(lambda *_: None)
    assert not model._forward_hooks
