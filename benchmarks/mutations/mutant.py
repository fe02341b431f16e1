"""Mutants: drawn at random, and made whenever a model is asked for."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from torch import nn

from harness.adapters import make_adapter
from harness.batches import make_batch, pad_right, typical_sizes
from harness.properties.tracing import path_of
from harness.runtime import seeded

from .bases import Base, bases
from .calls import OneCall, calls_of, patch
from .rewrites import FAULTS, Rewritten
from .surgery import SURGERIES


@dataclass(frozen=True)
class Mutant:
    """A sound model with one fault.

    Attributes:
        base: The sound model.
        operator: Name of the fault.
        path: Path of the module or parameter that is changed.
        function: The torch function whose call is changed; empty for a change of the module itself.
        number: Which of the module's calls of it.
        when: How rarely the fault shows.
    """

    base: Base
    operator: str
    path: str
    function: str = ""
    number: int = 0
    when: str = "always"

    @property
    def name(self) -> str:
        """A name that tells it from every other mutant."""
        place = f"{path_of(self.path)}:{self.function}{self.number}" if self.function else path_of(self.path)
        return f"{self.base.name} {self.operator} {place} {self.when}"

    @property
    def blamed(self) -> str:
        """The path that blame must name: the module that is changed, or whose parameter is."""
        of_parameter = not self.function and SURGERIES[self.operator].of_parameter
        return path_of(self.path.rpartition(".")[0] if of_parameter else self.path)

    def __call__(self) -> nn.Module:
        """A fresh mutant, its weights from the global random state, as the sound model's."""
        model = self.base.factory()
        if not self.function:
            SURGERIES[self.operator].operate(model, self.path)
        else:
            rewrite = Rewritten(self.operator, self.when, self.base.task.max_seq_len or 0)
            patch(model.get_submodule(self.path), OneCall(self.function, self.number, rewrite))
        return model


def draw(count: int, seed: int = 0) -> list[Mutant]:
    """Different mutants at random places: an operator first, so that each has its share, then a model, a place, and how rarely it shows.

    Args:
        count: How many.
        seed: The same seed draws the same mutants, and a larger count those and more.
    """
    rng = random.Random(seed)
    drawn: dict[str, Mutant] = {}
    operators = [*FAULTS, *SURGERIES]
    while len(drawn) < count:
        operator = rng.choice(operators)
        fitting = [base for base in _all_bases() if sites(base, operator)]
        mutant = rng.choice(sites(rng.choice(fitting), operator))
        drawn.setdefault(mutant.name, mutant)
    return list(drawn.values())


@cache
def _all_bases() -> tuple[Base, ...]:
    return tuple(bases())


@cache
def sites(base: Base, operator: str) -> tuple[Mutant, ...]:
    """Every mutant of a model by an operator."""
    if operator in SURGERIES:
        with seeded(0):
            model = base.factory()
        return tuple(Mutant(base, operator, path) for path in SURGERIES[operator].sites(model))
    return tuple(_rewritten(base, operator))


def _rewritten(base: Base, operator: str) -> Iterator[Mutant]:
    fault = FAULTS[operator]
    whens = [when for when in fault.whens if when != "long" or base.task.is_text]
    for path, function, number in _fitting_calls(base, operator):
        yield from (Mutant(base, operator, path, function, number, when) for when in whens)


def _fitting_calls(base: Base, operator: str) -> list[tuple[str, str, int]]:
    """The calls at which a fault can be put, on a batch with padding."""
    return [place for place, fitting in _calls(base) if operator in fitting]


@cache
def _calls(base: Base) -> tuple[tuple[tuple[str, str, int], frozenset[str]], ...]:
    with seeded(0):
        model = base.factory().eval()
    sizes = typical_sizes(base.task)
    batch = make_batch(base.task, sizes)
    if base.task.is_text:
        batch = pad_right(base.task, batch, [sizes.seq, *[sizes.seq // 2] * (sizes.batch - 1)], sizes.seq)
    seen = calls_of(model, lambda: make_adapter(base.task).logits(model, batch))
    return tuple(
        ((s.place.module, s.place.function, s.place.number), frozenset(name for name, fault in FAULTS.items() if fault.fits(s)))
        for s in seen
    )
