"""Faults in modules and weights: what is hidden, stuck, shared, frozen or badly filled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .calls import patch


@dataclass(frozen=True)
class Surgery:
    """A change of a model.

    Attributes:
        operate: Changes the module at a path; given the model and the path.
        sites: Paths at which it can be done.
        of_parameter: Whether they are those of parameters.
    """

    operate: Callable[[nn.Module, str], None]
    sites: Callable[[nn.Module], Iterator[str]]
    of_parameter: bool = False


@dataclass(frozen=True)
class Wrapped:
    """A forward with something around it; by name, so that it pickles."""

    around: str

    def __call__(self, module: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
        """The changed forward."""

        def changed(*args: Any, **kwargs: Any) -> Any:
            return AROUND[self.around](module, forward, *args, **kwargs)

        return changed


@dataclass(frozen=True)
class Stuck:
    """A ``train`` that does not change the mode."""

    module: nn.Module

    def __call__(self, mode: bool = True) -> nn.Module:
        """Does nothing."""
        return self.module


def _evaluating(module: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    module.eval()
    return forward(*args, **kwargs)


def _training(module: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    module.train()
    return forward(*args, **kwargs)


def _writing(module: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
    if tensors[0].is_floating_point():
        tensors[0].sub_(0.45)
    else:
        tensors[0][:, 0] = 1
    return forward(*args, **kwargs)


def _writing_in_training(module: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return (_writing if module.training else _plain)(module, forward, *args, **kwargs)


def _plain(_module: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return forward(*args, **kwargs)


def _skipping(_module: nn.Module, _forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return args[0]


def _gained(module: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return forward(*args, **kwargs) * module.gain


AROUND: dict[str, Callable[..., Any]] = {
    "evaluating": _evaluating,
    "training": _training,
    "writing": _writing,
    "writing_in_training": _writing_in_training,
    "skipping": _skipping,
    "gained": _gained,
}


def _wrap(around: str) -> Callable[[nn.Module, str], None]:
    return lambda model, path: patch(model.get_submodule(path), Wrapped(around))


def _hide(model: nn.Module, path: str) -> None:
    parent, name = _parent(model, path)
    child = parent._modules.pop(name)
    object.__setattr__(parent, name, [*child] if isinstance(child, nn.ModuleList) else child)


def _stick(model: nn.Module, path: str) -> None:
    module = model.get_submodule(path)
    module.train = Stuck(module)  # type: ignore[method-assign]


def _gain_outside_the_state(model: nn.Module, path: str) -> None:
    module = model.get_submodule(path)
    module.gain = float(1 + torch.rand(()))  # type: ignore[assignment]
    patch(module, Wrapped("gained"))


def _gain_that_trains(model: nn.Module, path: str) -> None:
    module = model.get_submodule(path)
    object.__setattr__(module, "gain", torch.ones((), requires_grad=True))
    patch(module, Wrapped("gained"))


def _unpicklable(model: nn.Module, path: str) -> None:
    model.get_submodule(path).activation_hook = lambda x: x  # type: ignore[assignment]


def _shared(model: nn.Module, path: str) -> None:
    blocks = model.get_submodule(path)
    blocks[-1] = blocks[0]  # type: ignore[operator,index]


def _filled(value: float) -> Callable[[nn.Module, str], None]:
    return lambda model, path: _with_weight(model, path, lambda weight: weight.fill_(value))


def _scaled(factor: float) -> Callable[[nn.Module, str], None]:
    return lambda model, path: _with_weight(model, path, lambda weight: weight.mul_(factor))


def _copied_unit(weight: Tensor) -> None:
    weight[1] = weight[0]


def _with_nan(weight: Tensor) -> None:
    weight.view(-1)[0] = float("nan")


def _with_weight(model: nn.Module, path: str, change: Callable[[Tensor], object]) -> None:
    with torch.no_grad():
        change(model.get_parameter(path))


def _row_less(model: nn.Module, path: str) -> None:
    table = model.get_submodule(path)
    table.weight = nn.Parameter(table.weight.detach()[:-1].clone())  # type: ignore[operator,index]


def _without_eps(model: nn.Module, path: str) -> None:
    model.get_submodule(path).eps = 0.0  # type: ignore[assignment]


def _unchecked_statistics(model: nn.Module, path: str) -> None:
    norm = model.get_submodule(path)
    norm.track_running_stats, norm.running_mean, norm.running_var = False, None, None  # type: ignore[assignment]


def _swap_norms(model: nn.Module, path: str) -> None:
    block = model.get_submodule(path)
    names = [name for name, child in block.named_children() if isinstance(child, nn.LayerNorm)]
    block._modules[names[0]], block._modules[names[1]] = block._modules[names[1]], block._modules[names[0]]


def _frozen(model: nn.Module, path: str) -> None:
    model.get_submodule(path).requires_grad_(False)


def _all(*kinds: type[nn.Module]) -> Callable[[nn.Module], Iterator[str]]:
    return lambda model: (path for path, module in model.named_modules() if path and isinstance(module, kinds))


def _with_weights(model: nn.Module) -> Iterator[str]:
    yield from (path for path, module in model.named_modules() if path and next(module.parameters(), None) is not None)


def _blocks(model: nn.Module) -> Iterator[str]:
    yield from (path for path, m in model.named_modules() if path and any(isinstance(c, nn.Dropout) for c in m.modules()))


def _norm_pairs(model: nn.Module) -> Iterator[str]:
    for path, module in model.named_modules():
        if sum(isinstance(child, nn.LayerNorm) for child in module.children()) > 1:
            yield path


def _root(_model: nn.Module) -> Iterator[str]:
    yield ""


def _matrices(model: nn.Module) -> Iterator[str]:
    yield from (name for name, p in model.named_parameters() if p.ndim >= 2 and min(p.shape[:2]) > 1 and p.requires_grad)


_CALLABLE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.LayerNorm, nn.Embedding)

SURGERIES: dict[str, Surgery] = {
    "input_written": Surgery(_wrap("writing"), _root),
    "input_written_in_training": Surgery(_wrap("writing_in_training"), _root),
    "eval_in_forward": Surgery(_wrap("evaluating"), _blocks),
    "train_in_forward": Surgery(_wrap("training"), _blocks),
    "mode_stuck": Surgery(_stick, _blocks),
    "norm_skipped": Surgery(_wrap("skipping"), _all(nn.LayerNorm, nn.BatchNorm2d)),
    "norms_swapped": Surgery(_swap_norms, _norm_pairs),
    "norm_eps_zero": Surgery(_without_eps, _all(nn.LayerNorm, nn.BatchNorm2d)),
    "norm_without_statistics": Surgery(_unchecked_statistics, _all(nn.BatchNorm2d)),
    "hidden_from_registration": Surgery(_hide, _with_weights),
    "gain_not_saved": Surgery(_gain_outside_the_state, _all(*_CALLABLE)),
    "gain_not_registered": Surgery(_gain_that_trains, _all(*_CALLABLE)),
    "lambda_attribute": Surgery(_unpicklable, _all(*_CALLABLE)),
    "layer_frozen": Surgery(_frozen, _with_weights),
    "layer_shared": Surgery(_shared, _all(nn.ModuleList)),
    "weights_zero": Surgery(_filled(0.0), _matrices, True),
    "weights_constant": Surgery(_filled(0.1), _matrices, True),
    "weights_times_100": Surgery(_scaled(100.0), _matrices, True),
    "weights_times_2": Surgery(_scaled(2.0), _matrices, True),
    "weights_vanishing": Surgery(_scaled(1e-8), _matrices, True),
    "weights_of_two_units_equal": Surgery(lambda m, p: _with_weight(m, p, _copied_unit), _matrices, True),
    "weight_not_a_number": Surgery(lambda m, p: _with_weight(m, p, _with_nan), _matrices, True),
    "embedding_one_row_short": Surgery(_row_less, _all(nn.Embedding)),
}
"""Every operation by name."""


def _parent(model: nn.Module, path: str) -> tuple[nn.Module, str]:
    owner, _, name = path.rpartition(".")
    return model.get_submodule(owner), name
