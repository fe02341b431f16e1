"""A model near some inputs: what it computes for them, for slightly changed ones, and for unrelated ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from harness.analysis import Study, values_of, with_rows
from harness.batches import Batch
from harness.properties.subject import Subject, floating_dtype
from harness.runtime import seeded
from harness.tasks.axes import BATCH, Size, rows_first
from harness.tasks.signature import Input
from harness.tasks.values import Ids


@dataclass(frozen=True)
class IdsRead:
    """An input of ids.

    Attributes:
        ids: What the model is given, the rows first.
        has_tables: Whether each place of the last axis has its own table, so that places may be looked up one by one, or all in one table
            after a number is added to each.
    """

    ids: Tensor
    has_tables: bool = False


class Lookups(TorchFunctionMode):
    """Sees, and may replace, what the model looks up for ids, by ``F.embedding`` or ``table[ids]``.

    Args:
        read: Inputs of ids by name.
        replacements: What is returned for them instead.

    Attributes:
        seen: What was looked up, by the input's name; ``name[place]`` where a place was looked up by itself, and with the width after a colon
            where a second table of another width was read.
    """

    def __init__(self, read: Mapping[str, IdsRead], replacements: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        self.seen: dict[str, Tensor] = {}
        self._read = read
        self._replacements = replacements or {}
        self._passed: set[tuple[str, int]] = set()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name not in ("embedding", "__getitem__", "index_select") or not isinstance(result, Tensor):
            return result
        found = self._found(args, result) if result.is_floating_point() else None
        if found is None:
            return result
        field, ids, turned = found
        if not self._replacements:
            seen = result.transpose(0, 1) if turned else result
            self.seen.setdefault(field, seen.detach().clone().reshape(*ids.shape, -1))
            return result
        replacement = self._replacements.get(field)
        if replacement is None or replacement.numel() != result.numel():
            return result
        return (replacement.transpose(0, 1) if turned else replacement).reshape(result.shape)

    def _found(self, args: tuple[Any, ...], result: Tensor) -> tuple[str, Tensor, bool] | None:
        """The name that a lookup goes by, the ids, and whether they are read as ``[length, batch]``."""
        candidates = [found for arg in args[:3] if isinstance(arg, Tensor) for found in self._candidates(arg)]
        if not candidates:
            return None
        width = result.numel() // max(1, candidates[0][1].numel())
        # Two places may hold the same ids by chance; each is looked up once in a table.
        name, ids, turned = next((each for each in candidates if (each[0], width) not in self._passed), candidates[0])
        self._passed.add((name, width))
        known = (self._replacements or self.seen).get(name)
        other = known is not None and known.numel() != result.numel()
        return (f"{name}:{width}" if other else name), ids, turned

    def _candidates(self, arg: Tensor) -> Iterator[tuple[str, Tensor, bool]]:
        if arg.is_floating_point():
            return
        for name, read in self._read.items():
            ids = read.ids
            if arg.numel() == ids.numel() and torch.equal(arg.flatten().long(), ids.flatten()):
                yield name, ids, False
                return
            if ids.ndim == 2 and arg.shape == ids.t().shape and torch.equal(arg.long(), ids.t()):
                yield name, ids, True
                return
        for name, read in self._read.items():
            if read.has_tables:
                yield from _places(name, read.ids, arg)


def _places(name: str, ids: Tensor, arg: Tensor) -> Iterator[tuple[str, Tensor, bool]]:
    """All places at once, each moved by its own number; or single places."""
    if arg.shape == ids.shape and len(ids) > 1:
        moved = arg - ids
        if torch.equal(moved, moved[:1].expand_as(moved)):
            yield name, ids, False
    for place in range(ids.shape[-1]):
        column = ids[..., place]
        if arg.numel() == column.numel() and torch.equal(arg.flatten().long(), column.flatten()):
            yield f"{name}[{place}]", column, False


Point = dict[str, Tensor]
"""Real inputs by field: ids as what is looked up for them (``[B, S, D]``), numbers as they are in a batch."""

Part = tuple[str, int]
"""A part of a real input: its field and its number."""


@dataclass(frozen=True)
class RealInputs:
    """A model whose real inputs can be chosen.

    Attributes:
        subject: How the model is called.
        model: The model, in eval mode.
        batch: What it is called with otherwise; its ids decide on masks and positions, and its indices and lengths stay.
    """

    subject: Subject
    model: nn.Module
    batch: Batch

    def point(self) -> Point:
        """The real inputs of the batch; of ids those whose embedding was seen, which is none where they are read in their own way."""
        dtype = floating_dtype(self.model)
        numbers = {each.name: self.batch[each.name].to(dtype) for each in self._inputs if _is_real(each, self.batch[each.name])}
        if not self._ids:
            return numbers
        lookups = Lookups(self._ids)
        with torch.no_grad(), lookups:
            self.subject.logits_with_grad(self.batch, self.model)
        return {**numbers, **lookups.seen}

    def logits(self, point: Point) -> Tensor:
        """The logits at a point, with the graph; of a random model the same at each call.

        Raises:
            ModelRaisedError: The model's code raised.
        """
        with self._at(point) as batch:
            return self.subject.logits_with_grad(batch, self.model)

    def values(self, point: Point) -> dict[str, Tensor]:
        """All judged outputs at a point, by name; otherwise as ``logits``."""
        with self._at(point) as batch:
            return values_of(self.subject, batch, self.model)

    def features_of(self, name: str, value: Tensor) -> list[int]:
        """Axes of a real input along which its numbers mean different things: fixed ones, and the dimensions of an embedding."""
        each = self._input(name)
        return [value.ndim - 1] if each is None else [at for at, size in enumerate(_rows_first(each)) if isinstance(size, int)]

    def parts_of(self, name: str, value: Tensor) -> tuple[int | None, str]:
        """The axis along which a real input has parts that can be exchanged one by one, and what one is called; ``None`` for the whole."""
        each = self._input(name)
        if each is None:
            return (
                (None, "input") if value.ndim < 3 else (1, "feature" if self._ids[name.partition(":")[0]].has_tables else "token")
            )
        fixed = self.features_of(name, value)
        if fixed:
            return fixed[0], "channel" if fixed[0] == 1 and len(fixed) == 1 and value.ndim > 3 else "feature"
        return (1, "element") if value.ndim > 1 else (None, "input")

    @contextmanager
    def _at(self, point: Point) -> Iterator[Batch]:
        copies = {name: value.clone() for name, value in point.items()}  # a model may write into what it is given
        given = {name: value for name, value in copies.items() if self._input(name) is not None}
        with seeded(0), Lookups(self._ids, copies) if self._ids else nullcontext():
            yield {**self.batch, **given}

    @property
    def _inputs(self) -> list[Input]:
        """The inputs that the model is given."""
        subject = self.subject
        named = [each for each in subject.task.signature.inputs if each.name in self.batch]
        return [each for each in named if subject.adapter.takes(self.model, each.name)]

    @property
    def _ids(self) -> dict[str, IdsRead]:
        found = {each.name: each.values for each in self.subject.task.signature.inputs if isinstance(each.values, Ids)}
        return {
            name: IdsRead(self.batch[name], isinstance(ids.count, tuple)) for name, ids in found.items() if name in self.batch
        }

    def _input(self, name: str) -> Input | None:
        """The input that a real input is; ``None`` where it is what ids were looked up as."""
        named = (each for each in self.subject.task.signature.inputs if each.name == name)
        return next((each for each in named if not isinstance(each.values, Ids)), None)


def _is_real(each: Input, value: Tensor) -> bool:
    """Whether what lies between two values of an input is allowed as well."""
    return value.is_floating_point() and each.holds_numbers


def _rows_first(each: Input) -> list[Size]:
    return [each.axes[place] for place in rows_first(each.axes)]


def between(start: Point, end: Point, share: float | Tensor) -> Point:
    """The point a share of the way from one to another."""
    return {name: start[name] + share * (end[name] - start[name]) for name in end}


STRENGTHS = (2**-9, 2**-7, 2**-5, 2**-3)
"""Of small steps, in parts of the distance between inputs; the first is what is lost where an input is kept in 8 bits."""

_ROWS = 8


@dataclass(frozen=True)
class Neighbourhood:
    """A model around some inputs.

    Attributes:
        real: The model.
        here: Some inputs.
        there: As many others, unrelated to them.
    """

    real: RealInputs
    here: Point
    there: Point

    @cached_property
    def logits(self) -> Tensor:
        """The logits at the inputs, float64."""
        return self.at(self.here)

    @cached_property
    def apart(self) -> float:
        """How far another input changes the logits (root mean square)."""
        return rms(self.at(self.there) - self.logits)

    @cached_property
    def spread(self) -> Point:
        """How far inputs are apart, of each feature, channel or embedding dimension; broadcasts against a point."""
        spread = {}
        for name, value in self.here.items():
            kept = self.real.features_of(name, value)
            others = tuple(axis for axis in range(value.ndim) if axis not in kept)
            squares = (self.there[name] - value).pow(2)
            spread[name] = (squares.mean(others, keepdim=True) if others else squares).sqrt()
        return spread

    @property
    def parts(self) -> list[Part]:
        """The tokens, channels or features, by field and number; -1 for an input as a whole."""
        found: list[Part] = []
        for name, value in self.here.items():
            axis, _ = self.real.parts_of(name, value)
            found += [(name, place) for place in (range(value.shape[axis]) if axis is not None else (-1,))]
        return found

    def name_of(self, part: Part) -> str:
        """What a part is called: ``token``, ``channel``, ``feature``, ``element`` or ``input``."""
        return self.real.parts_of(part[0], self.here[part[0]])[1]

    @torch.no_grad()
    def at(self, point: Point) -> Tensor:
        """The logits at a point, float64."""
        return self.real.logits(point).double()

    def moved(self, directions: Point, strength: float) -> Point:
        """The inputs moved along directions, in parts of the distance between inputs."""
        return {name: value + strength * self.spread[name] * directions[name] for name, value in self.here.items()}

    def change(self, logits: Tensor) -> float:
        """A change of the logits, in parts of what another input changes them by."""
        return rms(logits - self.logits) / self.apart

    def agreement(self, logits: Tensor) -> float | None:
        """How often the answer stays the same; ``None`` where the output has no classes."""
        classes = self.real.subject.task.signature.main.classes
        if classes is None:
            return None
        return float((logits.argmax(classes) == self.logits.argmax(classes)).double().mean())

    def last(self, logits: Tensor) -> Tensor:
        """The logits of the last position of a sequence of ids, or all there are."""
        signature = self.real.subject.task.signature
        main = [signature.main.axes[place] for place in rows_first(signature.main.axes)]
        read = {axis for each in signature.inputs if isinstance(each.values, Ids) for axis in each.axes if isinstance(axis, str)}
        along = next((place for place, axis in enumerate(main) if axis in read and axis != BATCH), None)
        return logits if along is None else logits.select(along, -1)

    def keeping(self, part: Part) -> Point:
        """The other inputs, with one part of these."""
        return self._exchanged([other for other in self.parts if other != part])

    def exchanges(self) -> dict[float, Point]:
        """These inputs with more and more of their parts, in random order, from the others; by the share of the parts."""
        count = len(self.parts)
        order = [self.parts[number] for number in torch.randperm(count, generator=torch.Generator().manual_seed(0)).tolist()]
        steps = range(1, count + 1, max(1, count // len(STRENGTHS)))
        return {exchanged / count: self._exchanged(order[:exchanged]) for exchanged in steps}

    def curve(self, points: dict[float, Point]) -> list[dict[str, Any]]:
        """What becomes of the logits and the answer, by strength."""
        logits = {strength: self.at(point) for strength, point in points.items()}
        return [
            {"strength": strength, "change": self.change(each), "agreement": self.agreement(each)}
            for strength, each in logits.items()
        ]

    def _exchanged(self, parts: list[Part]) -> Point:
        point = {name: value.clone() for name, value in self.here.items()}
        for field, place in parts:
            axis, _ = self.real.parts_of(field, point[field])
            if axis is None:
                point[field] = self.there[field].clone()
            else:
                point[field].select(axis, place).copy_(self.there[field].select(axis, place))
        return point


def neighbourhood(study: Study, model: nn.Module) -> Neighbourhood:
    """A model around some of a study's inputs."""
    subject = study.subject
    # What a sequence of ids costs grows with its rows, and its positions are many.
    sizes = subject.typical if any(map(_is_sequence_of_ids, subject.task.signature.inputs)) else with_rows(subject, _ROWS)
    here, there = (RealInputs(subject, model, subject.batch(sizes, seed)) for seed in (0, 1))
    return Neighbourhood(here, here.point(), there.point())


def why_not(study: Study, near: Neighbourhood, calls: int) -> str:
    """Why nothing can be learnt in a neighbourhood; empty where it can.

    Args:
        study: The model.
        near: The neighbourhood.
        calls: How many calls of the model it would take.
    """
    if not near.here:
        return no_real_input(study.subject)
    near.at(near.here)  # the first call is slower
    started = time.perf_counter()
    near.at(near.there)
    reason = study.too_long((time.perf_counter() - started) * calls)
    kind, floor = torch.finfo(study.subject.dtype), study.subject.floor
    if not reason and near.apart <= max(floor.bound * STRENGTHS[0], kind.tiny / kind.eps):
        return "the output hardly depends on its input (see input_dependence)"
    return reason


def _is_sequence_of_ids(each: Input) -> bool:
    return isinstance(each.values, Ids) and any(isinstance(axis, str) and axis != BATCH for axis in each.axes)


def no_real_input(subject: Subject) -> str:
    """Why nothing of the inputs can be moved a little."""
    reads_ids = any(isinstance(each.values, Ids) for each in subject.task.signature.inputs)
    return "no embedding lookup of the token ids was found" if reads_ids else "no input holds real numbers"


def own_model(study: Study) -> nn.Module:
    """The model in its own dtype, or where that could not tell the smallest step, in float64."""
    subject = study.subject
    if torch.finfo(subject.dtype).eps < STRENGTHS[0] ** 2 or subject.double is None:
        return subject.fresh()
    return subject.double


def normal(like: Point, seed: int) -> Point:
    """Normal random numbers in the shapes of a point."""
    rng = torch.Generator().manual_seed(seed)
    return {name: torch.randn(value.shape, generator=rng, dtype=torch.float64).to(value) for name, value in like.items()}


def signs(like: Point, seed: int) -> Point:
    """Random signs in the shapes of a point."""
    return {name: value.sign() for name, value in normal(like, seed).items()}


def rms(tensor: Tensor) -> float:
    """Root mean square."""
    return float(tensor.pow(2).mean().sqrt())
