"""A model around some inputs: what it makes of them, of unrelated ones, and of what lies near."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from harness.analysis.study import Study
from harness.batches import Batch, Sizes
from harness.properties.subject import Subject, floating_dtype
from harness.runtime import seeded

Point = dict[str, Tensor]
"""Real inputs by field: ``input_ids`` and ``decoder_input_ids`` as embeddings ``[B, S, D]``, the others as they are in a batch."""


@dataclass(frozen=True)
class RealInputs:
    """A model whose real inputs can be chosen.

    Attributes:
        subject: How the model is called.
        model: The model, in eval mode.
        batch: What it is called with otherwise; the ids of its tokens decide on masks and positions.
    """

    subject: Subject
    model: nn.Module
    batch: Batch

    def point(self) -> Point:
        """The real inputs of the batch; of a text those whose embedding was seen, which is none where ids are read in a way of its own."""
        if not self.subject.task.is_text:
            (field,) = (name for name in self.subject.task.facts.inputs if self.batch[name].is_floating_point())
            return {field: self.batch[field].to(floating_dtype(self.model))}
        lookups = _Lookups(self._ids())
        with torch.no_grad(), lookups:
            self.subject.logits_with_grad(self.batch, self.model)
        return lookups.seen

    def logits(self, point: Point) -> Tensor:
        """The logits at a point, with the graph; of a random model the same at each call.

        Raises:
            ModelRaisedError: The model's code raised.
        """
        copies = {name: value.clone() for name, value in point.items()}  # a model may write into what it is given
        with seeded(0), _Lookups(self._ids(), copies) if self.subject.task.is_text else nullcontext():
            return self.subject.logits_with_grad({**self.batch, **({} if self.subject.task.is_text else copies)}, self.model)

    def _ids(self) -> dict[str, Tensor]:
        return {name: self.batch[name] for name in ("input_ids", "decoder_input_ids") if name in self.batch}


def between(start: Point, end: Point, share: float | Tensor) -> Point:
    """The point a share of the way from one to another."""
    return {name: start[name] + share * (end[name] - start[name]) for name in end}


class _Lookups(TorchFunctionMode):
    """Sees, and may replace, what the model looks up for the ids of its tokens, by ``F.embedding`` or ``table[ids]``.

    Args:
        ids: Token ids by field.
        replacements: What is returned for them instead.
    """

    def __init__(self, ids: dict[str, Tensor], replacements: Point | None = None) -> None:
        super().__init__()
        self.seen: Point = {}
        self._ids = ids
        self._replacements = replacements or {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name not in ("embedding", "__getitem__", "index_select") or not isinstance(result, Tensor):
            return result
        field, turned = self._field(args) if result.is_floating_point() else (None, False)
        if field is None:
            return result
        if field not in self._replacements:
            seen = result.transpose(0, 1) if turned else result
            self.seen.setdefault(field, seen.detach().clone().reshape(*self._ids[field].shape, -1))
            return result
        replacement = self._replacements[field]
        if replacement.numel() != result.numel():
            return result
        return (replacement.transpose(0, 1) if turned else replacement).reshape(result.shape)

    def _field(self, args: tuple[Any, ...]) -> tuple[str | None, bool]:
        """The field whose ids are among the arguments, and whether they are read as ``[length, batch]``."""
        for arg in args[:3]:
            if isinstance(arg, Tensor) and not arg.is_floating_point():
                for field, ids in self._ids.items():
                    if arg.numel() == ids.numel() and torch.equal(arg.flatten().long(), ids.flatten()):
                        return field, False
                    if arg.shape == ids.t().shape and torch.equal(arg.long(), ids.t()):
                        return field, True
        return None, False


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
        text = self.real.subject.task.is_text
        axes = {
            name: tuple(axis for axis in range(value.ndim) if axis != (value.ndim - 1 if text else 1))
            for name, value in self.here.items()
        }
        return {
            name: (self.there[name] - value).pow(2).mean(axes[name], keepdim=True).sqrt() for name, value in self.here.items()
        }

    @property
    def parts(self) -> list[tuple[str, int]]:
        """The tokens, channels or features, by field and number."""
        return [(name, place) for name, value in self.here.items() for place in range(value.shape[1])]

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
        """How often the answer stays the same; ``None`` for a regression."""
        if self.real.subject.task.is_regression:
            return None
        return float((logits.argmax(-1) == self.logits.argmax(-1)).double().mean())

    def last(self, logits: Tensor) -> Tensor:
        """The logits of a sequence's last position, or all there are."""
        return logits[:, -1] if self.real.subject.task.is_per_position else logits

    def keeping(self, part: tuple[str, int]) -> Point:
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

    def _exchanged(self, parts: list[tuple[str, int]]) -> Point:
        point = {name: value.clone() for name, value in self.here.items()}
        for field, place in parts:
            point[field][:, place] = self.there[field][:, place]
        return point


def neighbourhood(study: Study, model: nn.Module) -> Neighbourhood:
    """A model around some of a study's inputs."""
    subject = study.subject
    sizes = subject.typical if subject.task.is_text else Sizes(_ROWS)
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
        return "no embedding lookup of the token ids was found"
    near.at(near.here)  # the first call is slower
    started = time.perf_counter()
    near.at(near.there)
    reason = study.too_long((time.perf_counter() - started) * calls)
    kind, floor = torch.finfo(study.subject.dtype), study.subject.floor
    if not reason and near.apart <= max(floor.bound * STRENGTHS[0], kind.tiny / kind.eps):
        return "the output hardly depends on its input (see input_dependence)"
    return reason


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
