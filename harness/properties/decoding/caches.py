"""How a model reads a text piece by piece, each piece after what it read before; found from its forward, without a declaration.

Three kinds are known: a cache that forward returns and takes again, one that the model keeps, and a method ``step`` with a state.
"""

from __future__ import annotations

import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from harness.batches import Batch
from harness.compat import tree_leaves
from harness.errors import OutputError
from harness.properties.calling import blaming
from harness.properties.decoding.texts import Text, whole_text
from harness.properties.subject import Subject, floating_dtype

_RETURNED = (
    "present",
    "presents",
    "present_key_values",
    "new_cache",
    "new_caches",
    "next_cache",
    "new_state",
    "next_state",
    "hidden",
)
"""What forward may call it in what it returns, besides the parameter's own name."""


class Session(Protocol):
    """One text that a model reads piece by piece.

    Attributes:
        model: The model that reads it.
    """

    model: nn.Module

    def read(self, piece: Batch, begun: int) -> Tensor:
        """The logits of the next piece.

        Args:
            piece: Inputs of its places.
            begun: How many places were read before.
        """

    def restart(self) -> None:
        """Ends the text, so that another one can be read."""


class Decoder(ABC):
    """A way to read a text piece by piece.

    Attributes:
        title: What it is called in messages.
    """

    title: str

    @abstractmethod
    def begin(self, subject: Subject, model: nn.Module, rows: int, length: int) -> Session:
        """Begins a text of so many rows and places."""


@dataclass(frozen=True)
class NoDecoder:
    """Why a model reads no text piece by piece."""

    reason: str


@dataclass(frozen=True)
class PassedCache(Decoder):
    """Forward returns a cache, and takes it in the next call.

    Attributes:
        parameter: The parameter that takes it.
        switches: Parameters that switch it on.
        offset: The parameter that says how many tokens were read before; empty for none.
        place: Where the cache is among the candidates of what forward returns.
    """

    parameter: str
    switches: tuple[str, ...] = ()
    offset: str = ""
    place: int = -1

    @property
    def title(self) -> str:  # type: ignore[override]
        """The parameter, as code."""
        return f"`{self.parameter}`"

    def begin(self, subject: Subject, model: nn.Module, rows: int, length: int) -> PassedSession:
        """Begins with no cache."""
        return PassedSession(self, subject, model)


class PassedSession:
    """A text whose cache is passed from call to call.

    Attributes:
        model: The model.
        cache: What the last call returned.
        further: More arguments for the next calls, such as positions.
    """

    def __init__(self, decoder: PassedCache, subject: Subject, model: nn.Module) -> None:
        self.model, self.cache, self._decoder, self._subject = model, None, decoder, subject
        self.further: Mapping[str, Any] = {}

    def read(self, piece: Batch, begun: int) -> Tensor:
        """The logits of the next piece."""
        decoder = self._decoder
        further: dict[str, Any] = dict.fromkeys(decoder.switches, True)
        if self.cache is not None:
            further[decoder.parameter] = self.cache
        if decoder.offset:
            further[decoder.offset] = begun
        logits, returned = self._subject.call(piece, {**further, **self.further}, self.model)
        found = candidates(returned, logits, decoder.parameter)
        if not found:
            raise OutputError(f"forward takes `{decoder.parameter}` and returns nothing of that kind")
        self.cache = found[decoder.place if len(found) > 1 else 0]
        return logits

    def restart(self) -> None:
        """Forgets the cache."""
        self.cache = None


@dataclass(frozen=True)
class HeldCache(Decoder):
    """The model keeps the cache, and is told where the next tokens stand or goes on by itself.

    Attributes:
        set_up: The method that makes the cache; empty for none.
        reset: The method that empties it; empty for none.
        switches: Parameters that switch it on.
        offset: The parameter that takes how many tokens were read before.
        places: The parameter that takes the place of each token.
        by_row: Whether places are given for each row.
    """

    set_up: str = ""
    reset: str = ""
    switches: tuple[str, ...] = ()
    offset: str = ""
    places: str = ""
    by_row: bool = False

    @property
    def title(self) -> str:  # type: ignore[override]
        """What makes or empties the cache."""
        return f"the cache of `{self.set_up or self.reset or self.offset or self.places}`"

    def begin(self, subject: Subject, model: nn.Module, rows: int, length: int) -> HeldSession:
        """Begins on a copy of the model, so that the model itself stays without a cache."""
        return HeldSession(self, subject, subject.fresh().to(floating_dtype(model)), rows, length)


class HeldSession:
    """A text whose cache the model keeps.

    Attributes:
        model: A copy of the model.
    """

    def __init__(self, decoder: HeldCache, subject: Subject, model: nn.Module, rows: int, length: int) -> None:
        self.model, self._decoder, self._subject = model, decoder, subject
        if decoder.set_up:
            with blaming(model):
                filled(getattr(model, decoder.set_up), rows, length, model)()
        elif decoder.reset:
            self.restart()

    def read(self, piece: Batch, begun: int) -> Tensor:
        """The logits of the next piece."""
        decoder = self._decoder
        further: dict[str, Any] = dict.fromkeys(decoder.switches, True)
        if decoder.offset:
            further[decoder.offset] = begun
        if decoder.places:
            text = whole_text(self._subject)
            assert text is not None
            size = text.length_of(piece)
            places = torch.arange(begun, begun + size, device=self._subject.device)
            further[decoder.places] = places.expand(text.rows_of(piece), -1) if decoder.by_row else places
        return self._subject.call(piece, further, self.model)[0]

    def restart(self) -> None:
        """Empties the cache, where there is a method for it."""
        if self._decoder.reset and not (self._decoder.set_up and "clear" in self._decoder.reset):
            with blaming(self.model):
                getattr(self.model, self._decoder.reset)()


@dataclass(frozen=True)
class StepMethod(Decoder):
    """A method ``step`` takes one element and a state, and returns the output and the next state.

    Attributes:
        first: The method that makes the first state; empty where it is ``None``.
    """

    first: str = ""

    @property
    def title(self) -> str:  # type: ignore[override]
        """The method."""
        return "`step`"

    def begin(self, subject: Subject, model: nn.Module, rows: int, length: int) -> StepSession:
        """Begins with the first state."""
        return StepSession(self, model, rows, length, whole_text(subject))


class StepSession:
    """A text that is read by ``step``.

    Attributes:
        model: The model.
    """

    def __init__(self, decoder: StepMethod, model: nn.Module, rows: int, length: int, text: Text | None) -> None:
        assert text is not None
        self.model, self._decoder, self._text, self._sizes = model, decoder, text, (rows, length)
        self._state: Any = None
        self.restart()

    @torch.no_grad()
    def read(self, piece: Batch, begun: int) -> Tensor:
        """The outputs of the next elements, one after the other."""
        outputs = []
        for place in range(self._text.length_of(piece)):
            element = self._text.element(piece, place)
            with blaming(self.model):
                answer = self.model.step(element, self._state)  # type: ignore[operator]
            if not isinstance(answer, tuple) or len(answer) != 2 or not isinstance(answer[0], Tensor) or not answer[0].ndim:
                raise OutputError("`step` does not return an output and the next state")
            self._state = answer[1]
            outputs.append(answer[0])
        return torch.stack(outputs, self._text.along)

    def restart(self) -> None:
        """Takes the first state."""
        self._state = None
        if self._decoder.first:
            with blaming(self.model):
                self._state = filled(getattr(self.model, self._decoder.first), *self._sizes, self.model)()


def candidates(returned: Any, logits: Tensor, parameter: str) -> list[Any]:
    """What may be the cache in what forward returned: what is named so, or else what is neither the logits nor a number."""
    fields = dict(returned) if isinstance(returned, Mapping) else None
    if fields is None and hasattr(returned, "_fields"):
        fields = returned._asdict()
    if fields is None and not isinstance(returned, (Tensor, tuple, list)) and hasattr(returned, "__dict__"):
        fields = vars(returned)
    if fields is not None:
        plain = parameter.removeprefix("prev_").removeprefix("past_")
        names = (parameter, f"next_{plain}", f"new_{plain}", f"present_{plain}", plain, *_RETURNED)
        named = [fields[name] for name in dict.fromkeys(names) if fields.get(name) is not None]
        return named[:1]
    items = list(returned) if isinstance(returned, (tuple, list)) else []
    return [each for each in items if each is not None and each is not logits and _may_be_cache(each, logits)]


def _may_be_cache(value: Any, logits: Tensor) -> bool:
    if isinstance(value, Tensor):
        return value.ndim > 1 and not (value.shape == logits.shape and torch.equal(value, logits))
    leaves = tree_leaves(value)
    is_nested = isinstance(value, (tuple, list, dict)) and any(isinstance(leaf, Tensor) for leaf in leaves)
    is_object = not isinstance(value, (tuple, list, dict, str, int, float)) and hasattr(value, "__dict__")
    return is_nested or is_object


def filled(method: Callable[..., Any], rows: int, length: int, model: nn.Module) -> Callable[[], Any]:
    """A method that makes a cache or a state, with arguments that follow from their names.

    Raises:
        OutputError: It asks for something else.
    """
    device = next((each.device for each in model.parameters()), torch.device("cpu"))
    given: dict[str, Any] = {}
    for name, parameter in inspect.signature(method).parameters.items():
        is_required = parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
        )
        if re.search(r"batch|bsz|^bs$|^b$|^n$|rows", name) and "first" not in name:
            given[name] = rows
        elif re.search(r"seq|len|ctx|context|tokens", name):
            given[name] = length
        elif name == "device":
            given[name] = device
        elif name == "dtype":
            given[name] = floating_dtype(model)
        elif is_required:
            raise OutputError(f"`{getattr(method, '__name__', 'the method')}` asks for `{name}`, of which nothing is known")
    return partial(method, **given)
