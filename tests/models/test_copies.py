"""A copy of a model shares nothing with it, however the model was made."""

from __future__ import annotations

import functools
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.compat import is_shared_until_written, memory_key
from harness.evidence import Status
from harness.models.copies import Copies
from harness.runtime import seeded
from harness.tasks import TaskSpec, TaskType
from pytest_modeltiers.live import judge_model

TABLE = TaskSpec(TaskType.TABULAR_CLASSIFICATION, num_features=4, num_classes=3)


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.register_buffer("scale", torch.ones(3))

    def forward(self, features: Tensor) -> Tensor:
        return self.layer(features) * self.scale


class Recurrent(Plain):
    """Keeps weak references to its own weights."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LSTM(4, 3)

    def forward(self, features: Tensor) -> Tensor:
        return self.layer(features)[0] * self.scale


class Bound(Plain):
    """A bound method in a list, which ``copy.deepcopy`` copies with its owner."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = [self.layer.forward]

    def forward(self, features: Tensor) -> Tensor:
        return self.steps[0](features) * self.scale


class Closure(Plain):
    def __init__(self) -> None:
        super().__init__()
        layer = self.layer
        self.step = lambda x: layer(x)

    def forward(self, features: Tensor) -> Tensor:
        return self.step(features) * self.scale


class ClosureInside(Plain):
    """A closure in a default argument in a partial in a dict."""

    def __init__(self) -> None:
        super().__init__()

        def step(x: Tensor, layer: nn.Module = self.layer) -> Tensor:
            return layer(x)

        self.steps = {"step": functools.partial(lambda f, x: f(x), lambda x: step(x))}

    def forward(self, features: Tensor) -> Tensor:
        return self.steps["step"](features) * self.scale


class Static(Closure):
    """A static method kept as an attribute, as rotary-embedding-torch keeps one."""

    def __init__(self) -> None:
        super().__init__()
        self.step = staticmethod(self.step)  # type: ignore[assignment]


class Weak(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.layer.owner = weakref.ref(self)  # type: ignore[assignment]


class Normed(Plain):
    def __init__(self) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.layer = nn.utils.weight_norm(nn.Linear(4, 3))


class Itself(Plain):
    def __deepcopy__(self, memo: Any) -> Any:
        return self


class Anew(Plain):
    def __deepcopy__(self, memo: Any) -> Any:
        return type(self)()


class Unregistered(Plain):
    def __init__(self) -> None:
        super().__init__()
        hidden = nn.Linear(4, 3)
        self.step = lambda x: hidden(x)

    def forward(self, features: Tensor) -> Tensor:
        return self.step(features) * self.scale


SOUND = (Plain, Recurrent, Bound, functools.partial(nn.TransformerEncoderLayer, 4, 2))
FAULTY = {
    Closure: "still uses",
    ClosureInside: "still uses",
    Weak: "still uses",
    Unregistered: "not registered",
    Itself: "still uses",
    Anew: "another value",
    Normed: "cannot be deep-copied",
    Static: "cannot be deep-copied",
}


def build(kind: Callable[[], nn.Module]) -> nn.Module:
    with seeded(0):
        return kind().eval()


@pytest.mark.parametrize("kind", SOUND)
def test_a_deep_copy_that_is_one_is_taken(kind: Callable[[], nn.Module]) -> None:
    assert Copies(build(kind), lambda: pytest.fail("built again")).fault == ""


@pytest.mark.parametrize("kind", FAULTY)
def test_one_that_is_none_is_told_and_the_model_built_anew(kind: type[nn.Module]) -> None:
    model = build(kind)
    copies = Copies(model, lambda: build(kind))
    assert FAULTY[kind] in copies.fault
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    copied = copies.fresh()
    x = torch.ones(2, 4)
    if kind is not Unregistered:  # what is not registered is in no state
        assert torch.equal(copied(x), model(x))
    copied(x).sum().backward()
    assert all(p.grad is not None for p in copied.parameters() if kind is not Unregistered)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("kind", [Closure, ClosureInside, Normed, Static])
def test_without_a_factory_functions_are_copied_too(kind: type[nn.Module]) -> None:
    model = build(kind)
    copied = Copies(model).fresh()
    x = torch.ones(2, 4)
    assert torch.equal(copied(x), model(x))
    assert copied.double()(x.double()).dtype == torch.float64
    copied(x.double()).sum().backward()
    assert all(p.grad is not None for p in copied.parameters())
    assert all(p.grad is None and p.dtype == torch.float32 for p in model.parameters())


def test_a_variant_keeps_its_values_dtype_and_modes() -> None:
    copies = Copies(build(Closure), lambda: build(Closure))
    variant = copies.fresh().double()
    variant.layer.train()  # type: ignore[operator, union-attr]
    variant.layer.bias.requires_grad_(False)  # type: ignore[operator, union-attr]
    with torch.no_grad():
        variant.scale.mul_(2)  # type: ignore[operator, union-attr]
    copied = copies.of(variant)
    assert torch.equal(copied(torch.ones(1, 4).double()), variant(torch.ones(1, 4).double()))
    assert [module.training for module in copied.modules()] == [module.training for module in variant.modules()]
    assert [p.requires_grad for p in copied.parameters()] == [p.requires_grad for p in variant.parameters()]
    assert copied.scale is not variant.scale


class Keeps(Plain):
    def forward(self, features: Tensor) -> Tensor:
        self.kept = [self.layer(features)]
        return self.kept[0]


def test_a_variant_that_keeps_what_it_computed_is_copied() -> None:
    model = Keeps()
    called = Copies(model).fresh()
    called(torch.randn(2, 4)).sum().backward()
    copied = Copies(model).of(called)
    assert torch.equal(copied.layer.weight, called.layer.weight)
    assert torch.equal(copied.kept[0], called.kept[0])
    assert not copied.kept[0].requires_grad


def test_tied_weights_stay_tied_where_a_model_is_built_anew() -> None:
    def tied() -> nn.Module:
        model = build(Closure)
        model.other = nn.Linear(4, 3)
        model.other.weight = model.layer.weight  # type: ignore[union-attr]
        return model

    copied = Copies(tied(), tied).fresh()
    assert copied.other.weight is copied.layer.weight  # type: ignore[union-attr]


def test_a_copy_takes_memory_only_for_the_large_weights_that_are_written() -> None:
    model = nn.Sequential(nn.Linear(512, 512), nn.Linear(512, 512))
    copied = Copies(model).fresh()
    before = [weight.clone() for weight in model.parameters()]
    assert is_shared_until_written(copied[0].weight)  # type: ignore[arg-type]
    assert is_shared_until_written(copied[1].weight)  # type: ignore[arg-type]
    copied(torch.ones(1, 512)).sum().backward()
    assert is_shared_until_written(copied[0].weight)  # type: ignore[arg-type]
    torch.optim.SGD([copied[0].weight], lr=1.0).step()  # type: ignore[list-item]
    assert not is_shared_until_written(copied[0].weight)  # type: ignore[arg-type]
    assert is_shared_until_written(copied[1].weight)  # type: ignore[arg-type]
    assert all(map(torch.equal, model.parameters(), before))
    assert not torch.equal(copied[0].weight, before[0])  # type: ignore[arg-type]


def test_what_is_written_into_the_model_does_not_reach_its_copies() -> None:
    model = nn.Linear(512, 512)
    copied = Copies(model).fresh()
    before = model.weight.clone()
    with torch.no_grad():
        model.weight.zero_()
    assert torch.equal(copied.weight, before)  # type: ignore[arg-type]


def test_weights_that_share_memory_are_told_from_copies_of_them() -> None:
    layer = nn.Linear(512, 512)
    copied = Copies(layer).fresh()
    assert memory_key(layer.weight) != memory_key(copied.weight)  # type: ignore[arg-type]
    assert memory_key(layer.weight) == memory_key(layer.weight[1:])
    assert is_shared_until_written(layer.weight), "asking ends it"


@pytest.mark.parametrize("kind", [Closure, Normed])
def test_it_is_said_once_and_everything_else_is_judged(kind: type[nn.Module]) -> None:
    names = ("serialisation", "gradient_flow", "dtype_move", "device_move", "stateless")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = judge_model(kind, TABLE, only=names, share=0.5)
    assert [name for name, evidence in found.items() if evidence.status is Status.FAIL] == ["serialisation[deepcopy]"]
    assert "with the factory instead" in found["serialisation[deepcopy]"].cause


def test_parameters_keep_the_marks_by_which_optimizers_group_them() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    vars(model[1].bias)["no_decay"] = True
    copied: Any = Copies(model).fresh()
    assert vars(copied[1].bias) == {"no_decay": True}
    assert vars(copied[0].bias) == {}
