"""A model that is built once and called again and again."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn


class Reuse:
    """Hands out the same model for as long as no call has changed it, and then builds it again.

    Args:
        build: Builds it.
        model: One that was built already.
    """

    def __init__(self, build: Callable[[], nn.Module], model: nn.Module | None = None) -> None:
        self._build = build
        self._keep(model if model is not None else build())

    def __call__(self) -> nn.Module:
        """The model as it was built."""
        if _state(self._model) != self._state:
            self._keep(self._build())
        return self._model

    def _keep(self, model: nn.Module) -> None:
        self._model = model
        self._state = _state(model)


def _state(model: nn.Module) -> object:
    """What a call may change of a model: attributes by identity, tensors by how often they were written to."""
    tensors = [(id(t), t._version) for t in (*model.parameters(), *model.buffers()) if not nn.parameter.is_lazy(t)]
    return tensors, [(type(m), {name: id(value) for name, value in vars(m).items()}) for m in model.modules()]
