"""A model whose forward is called repeatedly: a call that works, or why none was found, and what to say about it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from harness.models.attempts import Patience, methods_to_call, signature_of
from harness.models.copies import Reuse
from harness.models.first_call.argument import Argument
from harness.models.first_call.guesses import Guesses
from harness.models.first_call.watching import Failure, Watch, watched_call
from harness.runtime import Allowance, seeded
from harness.user_code import raised


def why_not(model: nn.Module, tries: int, closest: tuple[Guesses, Failure] | None) -> str:
    """What to say of a model of which no call works: what was tried, how it failed, and the option that says more.

    Args:
        model: The model.
        tries: How often it was called.
        closest: The arguments that came furthest, and how they failed.
    """
    signature = signature_of(model)
    if closest is None:
        return f"no call of {signature} was tried: it takes no argument that a call needs"
    guesses, failure = closest
    methods = methods_to_call(type(model))
    if isinstance(failure.error, NotImplementedError) or not guesses.arguments:
        return _no_forward(model, failure, methods)
    blamed = sorted(failure.sources or guesses.paths())
    names = list(dict.fromkeys(path.partition(".")[0] for path in blamed)) or list(guesses.arguments)
    # Lengths follow what they are lengths of.
    names = [name for name in names if guesses.arguments[name].holds != "lengths"] or names
    called = ", ".join(f"{name}={shown(argument)}" for name, argument in guesses.arguments.items())
    options = " ".join(option for name in names[:2] for option in _options(name, guesses.arguments[name]))
    if "NVIDIA" in failure.message or "CUDA-enabled" in failure.message:
        return (
            f"{signature} needs a GPU, and there is none here: {raised(failure.error)}. Put what it makes on the device of its inputs, as "
            f"`.to({next(iter(guesses.arguments))}.device)` in place of `.cuda()`"
        )
    return (
        f"no call of {signature} that works was found in {tries} tries; with {called} it raises {raised(failure.error)}. "
        f"Say what `{names[0]}` takes, with your sizes in place of these, which do not fit: {options}"
    )


def _no_forward(model: nn.Module, failure: Failure, methods: list[str]) -> str:
    """What to do with a model whose forward is not there, takes nothing, or is not written."""
    signature = signature_of(model)
    if isinstance(failure.error, NotImplementedError):
        what = f"{type(model).__name__} has no forward, or one that is not written"
    else:
        what = f"{signature} takes nothing, and raises {raised(failure.error)}"
    if not methods:
        return f"{what}; `call` in the config names a method that is called in its place"
    others = f" (also there: {', '.join(methods[1:4])})" if len(methods) > 1 else ""
    return f'{what}; name the method that is called in its place in the config: call = "{methods[0]}"{others}'


def _options(path: str, argument: Argument) -> Iterator[str]:
    """The options that say what an argument takes, to be edited; one for each entry of a dict or a list."""
    for part in argument.parts:
        yield from _options(f"{path}.{part.name}", part)
    if argument.parts:
        return
    axes = ",".join(["batch", *map(str, argument.sizes[1:])] if argument.sizes else [])
    yield f"--input {path}={axes}" + (f":ids={max(2, argument.count)}" if argument.holds == "ids" else "")


def shown(argument: Argument) -> str:
    """An argument for people."""
    if argument.holds == "parts":
        return "{" + ", ".join(f"{part.name}: {shown(part)}" for part in argument.parts) + "}"
    kind = {"ids": f" ids below {argument.count}", "bools": " bools", "ones": " ones", "lengths": " lengths"}.get(
        argument.holds, ""
    )
    return f"{list(argument.sizes)}{kind}"


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


def plain(returned: Any) -> Any:
    """What forward returned as tensors, tuples and dicts."""
    if isinstance(returned, (Tensor, Mapping, tuple, list)):
        return returned
    if isinstance(returned, Distribution):
        return {"mean": returned.mean}
    return dict(vars(returned)) if hasattr(returned, "__dict__") else ()
