"""A model whose forward is called again and again, and a call of it that works."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from harness.models.attempts import Patience
from harness.models.first_call.argument import Argument
from harness.models.first_call.guesses import Guesses
from harness.models.first_call.refusal import shown
from harness.models.first_call.watching import Failure, Watch, watched_call
from harness.models.reuse import Reuse
from harness.runtime import Allowance, seeded


@dataclass(frozen=True)
class FoundCall:
    """A call that works.

    Attributes:
        arguments: What is passed, by parameter.
        values: The values that were passed.
        returned: What forward returned.
        optional: Parameters among them that the call works without.
    """

    arguments: Mapping[str, Argument]
    values: Mapping[str, Any]
    returned: Any
    optional: tuple[str, ...] = ()

    @property
    def shown(self) -> str:
        """The call for people."""
        return ", ".join(f"{name}={shown(argument)}" for name, argument in self.arguments.items())


class TriedModel:
    """A model that is called again and again, and built again only where a call changed it."""

    def __init__(self, build: Callable[[], nn.Module], patience: Patience) -> None:
        self._build = Reuse(build)
        self.patience = patience
        self.calls = 0
        self.seconds = 0.0

    @property
    def model(self) -> nn.Module:
        """The model."""
        return self._build()

    def call(self, guesses: Guesses, seed: int = 0) -> tuple[Any, Failure | None, Watch, dict[str, Any]]:
        """Calls the model with guesses; returns the outcome and what was passed."""
        self.calls += 1
        rng = torch.Generator().manual_seed(0)
        values = {name: argument.make(rng) for name, argument in guesses.arguments.items()}
        model = self.model
        # Forward may add to a dict that it is given.
        positional, named = _bound(
            model, {name: dict(value) if isinstance(value, dict) else value for name, value in values.items()}
        )
        used = Allowance(0)
        with seeded(seed):
            returned, failure, watch = watched_call(model, values, lambda: model(*positional, **named))
        self.seconds = used.used
        return returned, failure, watch, values


def _bound(model: nn.Module, values: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """The values as forward takes them: by position where it only takes them so."""
    positional: list[Any] = []
    named = dict(values)
    for parameter in inspect.signature(model.forward).parameters.values():
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL) and parameter.name in named:
            positional.append(named.pop(parameter.name))
    return positional, named
