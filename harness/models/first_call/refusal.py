"""What is said of a model of which no call works, and how arguments are shown."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from harness.models.attempts import methods_to_call, signature_of
from harness.models.first_call.argument import Argument
from harness.models.first_call.guesses import Guesses
from harness.models.first_call.watching import Failure
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
    called = ", ".join(f"{name}={shown(argument)}" for name, argument in guesses.arguments.items())
    options = " ".join(option for name in names[:2] for option in _options(name, guesses.arguments[name]))
    return (
        f"no call of {signature} that works was found in {tries} tries; with {called} it raises {raised(failure.error)}. "
        f"Say what `{names[0]}` takes, such as {options}"
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
