"""Compiled models: unwrapped, or judged by their answers where the code is gone. PyTorch's fused attention can be switched off."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import torch
import torch.fx
from torch import nn

from harness.compat import COMPILED_MODULE, children_of, forget_compiled
from harness.errors import FactoryError, did_you_mean

if TYPE_CHECKING:
    from typing_extensions import Self


def unwrapped(model: nn.Module) -> nn.Module:
    """The model without ``torch.compile``, whose parts are compiled no longer either.

    What is judged is the model's own code, at more shapes than anybody wants to compile it for; ``compiled`` compiles it itself.
    """
    if isinstance(model, torch.export.ExportedProgram):
        model = model.module()
    model = _inner(model)
    for module in [part for part in model.modules() if not isinstance(part, torch.jit.ScriptModule)]:
        children = children_of(module)
        for name, child in children.items():
            if child is not None:
                children[name] = _inner(child)
        forget_compiled(module)
    return with_chained_modes(model)


def taken(model: nn.Module) -> nn.Module:
    """A model object as it is judged; the caller's is left as it is.

    Raises:
        FactoryError: Its Python code is gone.
    """
    found = _inner(model)
    refuse_compiled(found, "the model")
    return with_chained_modes(found)


_FORGETFUL: WeakSet[type] = WeakSet()
"""Classes whose own ``train`` returns ``None``."""


def with_chained_modes(model: nn.Module) -> nn.Module:
    """Has a ``train`` of the model's own class return the model, where it returns ``None``: ``model = model.eval()`` relies on it."""
    own = type(model).train
    if own is nn.Module.train or isinstance(model, torch.jit.ScriptModule) or own(model, model.training) is not None:
        return model

    @wraps(own)
    def returning(self: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
        own(self, *args, **kwargs)
        return self

    type(model).train = returning  # type: ignore[method-assign, assignment]
    _FORGETFUL.add(type(model))
    return model


def forgets_to_return(model: nn.Module) -> bool:
    """Whether the ``train`` that the model's class was written with returns ``None``; see ``with_chained_modes``."""
    return next(cls for cls in type(model).__mro__ if "train" in vars(cls)) in _FORGETFUL


class WithoutCode(nn.Module):
    """A TorchScript module, or the module of an exported program, as a model that tier 1 judges only by its answers."""

    def __init__(self, held: nn.Module) -> None:
        super().__init__()
        self.held = held
        self._signature = _signature_of(held)
        self.has_modes = isinstance(held, torch.jit.ScriptModule)
        self.train(False)

    @property
    def forward(self) -> Callable[..., Any]:  # type: ignore[override]
        """The held module's forward, with the names of its arguments."""
        found = partial(self._call)
        found.__signature__ = self._signature  # type: ignore[attr-defined]
        return found

    def train(self, mode: bool = True) -> Self:
        """Sets the mode, of the held module too where it has one."""
        if self.has_modes:
            return super().train(mode)
        self.training = mode
        return self

    def _call(self, *args: Any, **kwargs: Any) -> Any:
        if self.has_modes:
            return self.held(*args, **kwargs)
        bound = self._signature.bind(*args, **kwargs)
        return self.held(*bound.arguments.values())


def with_signature(model: nn.Module) -> nn.Module:
    """A model that is wholly TorchScript or an exported program, as one whose answers can be judged; another is left as it is."""
    return WithoutCode(model) if _what_it_is(model) else model


_NO_GRADIENTS = "a TorchScript module makes new parameters at each call, so their gradients cannot be followed"

_LEFT_OUT = {
    True: {
        "gradient_flow[reaches_every_parameter]": _NO_GRADIENTS,
        "gradient_flow[finite]": _NO_GRADIENTS,
        "initialisation[symmetry]": _NO_GRADIENTS,
        "device_move": "a TorchScript module cannot be moved to a simulated device",
        "serialisation[pickle]": "a TorchScript module is saved by torch.jit.save and not pickled",
    },
    False: {
        "mode_round_trip": "an exported program has one mode",
        "serialisation[pickle]": "an exported program is saved by torch.export.save and not pickled",
        "serialisation[deepcopy]": "the module of an exported program is loaded or exported again and not copied",
    },
}
"""Tests that have nothing to judge, of a TorchScript module and of an exported program."""


def left_out(model: nn.Module, test: str) -> str:
    """Why a test does not apply to a model whose Python code is gone; empty where it does, and for other models."""
    return _LEFT_OUT[model.has_modes].get(test, "") if isinstance(model, WithoutCode) else ""


def _signature_of(held: Any) -> inspect.Signature:
    if isinstance(held, torch.fx.GraphModule):
        return inspect.signature(held.forward)
    empty = inspect.Parameter.empty
    return inspect.Signature(
        [
            inspect.Parameter(
                each.name,
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
                default=each.default_value if each.has_default_value() else empty,
            )
            for each in held.forward.schema.arguments[1:]
        ]
    )


def refuse_compiled(model: nn.Module, origin: str) -> None:
    """Refuses models whose Python code is gone.

    Args:
        model: The model.
        origin: Where it comes from, for the message.

    Raises:
        FactoryError: It is a TorchScript module or the module of an exported program, or has one as a part.
    """
    for path, module in model.named_modules() if not isinstance(model, WithoutCode) else ():
        what = _what_it_is(module)
        if what:
            where = f"`{path}`" if path else "the model"
            only = "" if path else '. As it is, only `"tier": "1"` judges it'
            prefix = "" if origin == "the model" else f"{origin}: "
            raise FactoryError(
                f"{prefix}{where} is {what}; return the nn.Module that it was made of: tier 4 exports that to every format{only}"
            )


def plain_name(name: str) -> str:
    """A name in the state dict of a compiled model, as the model itself has it."""
    return name.replace(f"{COMPILED_MODULE}.", "")


def _inner(module: nn.Module) -> nn.Module:
    """The module inside, however often it is wrapped."""
    while COMPILED_MODULE in dict(module.named_children()):
        module = module.get_submodule(COMPILED_MODULE)
    return module


def _what_it_is(module: nn.Module) -> str:
    if isinstance(module, torch.jit.ScriptModule):
        return "a TorchScript module (torch.jit.script or trace), whose Python code is gone and whose dtype and gradients cannot be looked into"
    if isinstance(module, torch.fx.GraphModule) and {"train", "eval"} <= vars(module).keys():
        return "the module of an exported program (torch.export), which has one mode and the device it was exported on"
    return ""


@contextmanager
def without_fast_path() -> Iterator[None]:
    """Has ``nn.MultiheadAttention`` and ``nn.TransformerEncoder`` take single steps on dense tensors, as they do in training."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def call_by(model: nn.Module, method: str, origin: str) -> None:
    """Has a model call another of its methods in place of forward.

    Raises:
        FactoryError: It has no such method.
    """
    found = getattr(model, method, None)
    if not callable(found):
        own = [name for name, value in inspect.getmembers(type(model), inspect.isfunction) if not hasattr(nn.Module, name)]
        raise FactoryError(
            f"`call`: {origin} makes a {type(model).__name__}, which has no method {method!r}.{did_you_mean(method, own)} "
            f"It has: {', '.join(own) or 'none'}"
        )
    model.forward = found  # type: ignore[method-assign]


def called_like(model: nn.Module, other: nn.Module) -> nn.Module:
    """A model that another one's class made, such as by loading it, called by the method that the other is called by; see ``call_by``."""
    forward = vars(other).get("forward")
    if inspect.ismethod(forward) and forward.__self__ is other and "forward" not in vars(model):
        model.forward = getattr(model, forward.__name__)  # type: ignore[method-assign]
    return model
