"""Something in a file that makes a model, and how the model is called that has no ``forward``."""

from __future__ import annotations

import ast
import inspect
import textwrap
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from torch import nn

from harness.models.arguments import factory_arguments
from harness.models.loading import ModelSource
from harness.models.settings import ObjectArgument
from harness.models.wrapped import call_by


@dataclass(frozen=True)
class Factory:
    """Something in a file that makes a model.

    Attributes:
        name: Its name in the file.
        target: The callable.
        kwargs: The arguments it is called with.
        guessed: Names of the arguments that nobody gave.
        objects: The arguments that take an object of settings, or a part of the model.
        place: The file and line whose call the arguments were read from.
        through: The submodule that is called, where the model has no ``forward``.
        method: The method that is called in its place.
        part: The submodule that is the model, such as the actor of an agent whose critics only its training calls.
    """

    name: str
    target: Any
    kwargs: dict[str, Any] = field(default_factory=dict)
    guessed: tuple[str, ...] = ()
    objects: tuple[ObjectArgument, ...] = ()
    place: str = ""
    through: str = ""
    method: str = ""
    part: str = ""

    @property
    def source(self) -> ModelSource:
        """The factory as a way to build models."""
        return ModelSource(self._made, self.name, self.kwargs)

    @property
    def call(self) -> str:
        """The call, as it would be written."""
        objects = [f"{each.argument}={each.expression}" for each in self.objects]
        return f"{self.name}({', '.join([*objects, *(f'{name}={value!r}' for name, value in self.kwargs.items())])})"

    @property
    def sizes(self) -> dict[str, Any]:
        """The arguments, with the settings of an object of settings by their names."""
        settings = [vars(made) for each in self.objects if isinstance(made := each.make(), SimpleNamespace)]
        return {**{name: value for each in settings for name, value in each.items()}, **self.kwargs}

    def outline(self) -> Any:
        """What the factory returns, as it is."""
        return self._made(**self.kwargs)

    def _made(self, **kwargs: Any) -> Any:
        passed = factory_arguments(self.target, kwargs)
        model = self.target(**{each.argument: each.make() for each in self.objects}, **passed)
        if self.method:
            call_by(model, self.method, self.name)
        if self.part:
            return model.get_submodule(self.part)
        return called_through(model, self.through) if self.through else model


def called_through(model: nn.Module, name: str) -> nn.Module:
    """A model without a ``forward``, such as a LightningModule that is only trained, with that of one of its submodules."""
    cls = type(model)

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return self.get_submodule(name)(*args, **kwargs)

    inner = inspect.signature(model.get_submodule(name).forward)
    owner = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    forward.__signature__ = inner.replace(parameters=[owner, *inner.parameters.values()])  # type: ignore[attr-defined]
    model.__class__ = type(cls.__name__, (cls,), {"forward": forward, "__module__": cls.__module__})
    return model


def has_forward(model: nn.Module) -> bool:
    """Whether a model has a ``forward`` that does something."""
    cls = type(model)
    if cls.forward is nn.Module.forward or _is_lightning_default(cls):
        return False
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls.forward)))
    except (OSError, TypeError, SyntaxError):
        return True
    body = getattr(tree.body[0], "body", [])
    done = [each for each in body if not (isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant))]
    return not (len(done) == 1 and (isinstance(done[0], ast.Pass) or "NotImplementedError" in ast.unparse(done[0])))


def inner_model(model: nn.Module) -> str:
    """The submodule that holds most of the parameters of a model without a ``forward``; empty where it has one, or where none does."""
    if type(model).forward is not nn.Module.forward and not _is_lightning_default(type(model)):
        return ""
    sizes = {name: sum(p.numel() for p in child.parameters()) for name, child in model.named_children()}
    largest = max(sizes, key=lambda name: sizes[name], default="")
    whole = sum(sizes.values())
    has_forward = bool(largest) and type(model.get_submodule(largest)).forward is not nn.Module.forward
    return largest if has_forward and sizes[largest] * 2 > whole else ""


_ACTS = ("pi", "actor", "policy")
"""Names of the part of an agent that is used once it is trained."""


def acting_part(model: nn.Module) -> str:
    """The submodule of an agent without a ``forward`` that chooses its actions; empty where there is none."""
    if type(model).forward is not nn.Module.forward or hasattr(model, "training_step"):
        return ""
    children = dict(model.named_children())
    return next((name for name in _ACTS if name in children and has_forward(children[name])), "")


def _is_lightning_default(cls: type[nn.Module]) -> bool:
    """Whether ``forward`` is Lightning's own, which calls the one of ``nn.Module``."""
    return getattr(cls.forward, "__module__", "").startswith(("lightning.", "pytorch_lightning."))
