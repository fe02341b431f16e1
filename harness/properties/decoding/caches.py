"""How a model reads a text piece by piece, each piece after what it read before; found from its forward, without a declaration.

Three kinds are known: a cache that forward returns and takes again, one that the model keeps, and a method ``step`` with a state.
"""

from __future__ import annotations

import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from harness.batches import Batch
from harness.compat import tree_leaves
from harness.errors import OutputError
from harness.properties.calling import blaming
from harness.properties.decoding import Text, whole_text
from harness.properties.subject import Subject, floating_dtype
from harness.wording import listed

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
        parameters: The parameters that take it, of some models in several parts.
        switches: Parameters that switch it on.
        offset: The parameter that says how many tokens were read before; empty for none.
        place: Where the cache is among the candidates of what forward returns.
        positions: The parameter that is given the place of each token; empty where forward works them out itself.
        takes_whole: Whether forward is given the whole text beside the cache, and reads what is new of it.
    """

    parameters: tuple[str, ...]
    switches: tuple[str, ...] = ()
    offset: str = ""
    place: int = -1
    positions: str = ""
    takes_whole: bool = False

    @property
    def title(self) -> str:  # type: ignore[override]
        """The parameters, as code."""
        return listed(self.parameters)

    def begin(self, subject: Subject, model: nn.Module, rows: int, length: int) -> PassedSession:
        """Begins with no cache."""
        return PassedSession(self, subject, model)


class PassedSession:
    """A text whose cache is passed from call to call.

    Attributes:
        model: The model.
        cache: What the last call returned, by parameter.
        further: More arguments for the next calls, such as positions.
    """

    def __init__(self, decoder: PassedCache, subject: Subject, model: nn.Module) -> None:
        self.model, self._decoder, self._subject = model, decoder, subject
        self.cache: Mapping[str, Any] = {}
        self.further: Mapping[str, Any] = {}
        self._before: Batch = {}

    def read(self, piece: Batch, begun: int) -> Tensor:
        """The logits of the next piece. Where forward returns no cache, the next call is given none, as a loop of the user's would."""
        decoder = self._decoder
        if decoder.takes_whole:
            text = whole_text(self._subject)
            assert text is not None
            self._before = piece = text.joined(self._before, piece)
        further: dict[str, Any] = {**dict.fromkeys(decoder.switches, True), **self.cache}
        if decoder.offset:
            further[decoder.offset] = begun
        if decoder.positions:
            further[decoder.positions] = places_of(self._subject, piece, begun, by_row=True)
        logits, returned = self._subject.call(piece, {**further, **self.further}, self.model)
        self.cache = caches_in(returned, logits, decoder.parameters, decoder.place)
        return logits

    def restart(self) -> None:
        """Forgets the cache."""
        self.cache, self._before = {}, {}


@dataclass(frozen=True)
class HeldCache(Decoder):
    """The model keeps the cache, and is told where the next tokens stand or continues by itself.

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
    def can_restart(self) -> bool:
        """Whether another text can be read after the first one."""
        return bool(self.reset or self.offset or self.places)

    @property
    def title(self) -> str:  # type: ignore[override]
        """What makes or empties the cache."""
        return f"the cache of `{self.set_up or self.reset or self.offset or self.places}`"

    def begin(self, subject: Subject, model: nn.Module, rows: int, length: int) -> HeldSession:
        """Begins on a copy of the model, so that the model itself stays without a cache."""
        return HeldSession(self, subject, subject.fresh_like(model), rows, length)


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
            further[decoder.places] = places_of(self._subject, piece, begun, decoder.by_row)
        return self._subject.call(piece, further, self.model)[0]

    def restart(self) -> None:
        """Empties the cache, where there is a method for it."""
        if self._decoder.reset and not (self._decoder.set_up and "clear" in self._decoder.reset):
            with blaming(self.model):
                getattr(self.model, self._decoder.reset)()


@dataclass(frozen=True)
class StepMethod(Decoder):
    """A method ``step`` takes one element, and a state that it returns or that the model keeps.

    Attributes:
        first: The method that makes the first state; empty where it is ``None``.
        reset: The method that empties the state which the model keeps; empty where the state is passed.
        keeps_axis: Whether an element keeps its axis, of size 1.
    """

    first: str = ""
    reset: str = ""
    keeps_axis: bool = False

    @property
    def title(self) -> str:  # type: ignore[override]
        """The method."""
        return "`step`"

    def begin(self, subject: Subject, model: nn.Module, rows: int, length: int) -> StepSession:
        """Begins with the first state, of a model that keeps it on a copy."""
        model = subject.fresh_like(model) if self.reset else model
        return StepSession(self, model, rows, length, whole_text(subject))


class StepSession:
    """A text that is read by ``step``.

    Attributes:
        model: The model, or a copy of it.
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
            element = self._text.element(piece, place, self._decoder.keeps_axis)
            with blaming(self.model):
                outputs.append(self._stepped(element))
        return (torch.cat if self._decoder.keeps_axis else torch.stack)(outputs, self._text.along)

    def _stepped(self, element: Tensor) -> Tensor:
        step: Callable[..., Any] = self.model.step  # type: ignore[assignment]
        answer = (step(element), None) if self._decoder.reset else step(element, self._state)
        if not isinstance(answer, tuple) or len(answer) != 2 or not isinstance(answer[0], Tensor) or not answer[0].ndim:
            raise OutputError("`step` does not return an output and the next state")
        output, self._state = answer
        if output.ndim < self._text.along + self._decoder.keeps_axis:
            raise OutputError("`step` returns an output of other axes than forward")
        return output

    def restart(self) -> None:
        """Takes the first state."""
        self._state = None
        with blaming(self.model):
            if self._decoder.reset:
                getattr(self.model, self._decoder.reset)()
            if self._decoder.first:
                self._state = filled(getattr(self.model, self._decoder.first), *self._sizes, self.model)()


def places_of(subject: Subject, piece: Batch, begun: int, by_row: bool) -> Tensor:
    """The place of each token of a piece (int64 ``[S]``, or ``[B, S]``)."""
    text = whole_text(subject)
    assert text is not None
    places = torch.arange(begun, begun + text.length_of(piece), device=subject.device)
    return places.expand(text.rows_of(piece), -1) if by_row else places


def caches_in(returned: Any, logits: Tensor, parameters: Sequence[str], place: int = -1) -> dict[str, Any]:
    """What forward returned for the next call, by the parameter that takes it; empty where there is nothing.

    Args:
        returned: All that it returned.
        logits: The logits among it.
        parameters: The parameters that take a cache.
        place: Which of several candidates of a tuple is the one, of a single parameter.
    """
    found = candidates(returned, logits, parameters)
    if isinstance(found, dict):
        return found
    if len(parameters) > 1:
        return dict(zip(parameters, found, strict=True)) if len(found) == len(parameters) else {}
    return {parameters[0]: found[place if len(found) > 1 else 0]} if found else {}


def candidates(returned: Any, logits: Tensor, parameters: Sequence[str]) -> dict[str, Any] | list[Any]:
    """What may be the cache in what forward returned: by name, or of a tuple what is neither the logits nor a number."""
    fields = dict(returned) if isinstance(returned, Mapping) else None
    if fields is None and hasattr(returned, "_fields"):
        fields = returned._asdict()
    if fields is None and not isinstance(returned, (Tensor, tuple, list)) and hasattr(returned, "__dict__"):
        fields = vars(returned)
    if fields is None:
        items = list(returned) if isinstance(returned, (tuple, list)) else []
        return [each for each in items if each is not None and each is not logits and _may_be_cache(each, logits)]
    found = {}
    for parameter in parameters:
        plain = parameter.removeprefix("prev_").removeprefix("past_")
        names = [
            parameter,
            f"next_{plain}",
            f"new_{plain}",
            f"present_{plain}",
            plain,
            *(_RETURNED if len(parameters) == 1 else ()),
        ]
        if name := next((name for name in names if fields.get(name) is not None), ""):
            found[parameter] = fields[name]
    return found


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
        elif re.fullmatch(r"(decoder_)?(max_)?(seq|sequence|context|ctx|cache)?_?(len|length|tokens|size)", name):
            given[name] = length
        elif name == "device":
            given[name] = device
        elif name == "dtype":
            given[name] = floating_dtype(model)
        elif is_required:
            raise OutputError(f"`{getattr(method, '__name__', 'the method')}` asks for `{name}`, of which nothing is known")
    return partial(method, **given)
