"""Sentences from templates and word lists: the same on every machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import TypeVar

T = TypeVar("T")


def draw(rng: Random, options: Sequence[T]) -> T:
    """One of the options.

    Of Python's generators only ``random()`` is promised to give the same numbers in every version, so ``choice`` is not used.
    """
    return options[int(rng.random() * len(options))]


def draw_two(rng: Random, options: Sequence[T]) -> tuple[T, T]:
    """Two different ones of the options."""
    first = int(rng.random() * len(options))
    step = 1 + int(rng.random() * (len(options) - 1))
    return options[first], options[(first + step) % len(options)]


def distinct(compose: Callable[[Random], T], count: int, seed: str) -> list[T]:
    """The first ``count`` different things that ``compose`` makes from a seeded generator."""
    rng, found = Random(seed), dict[T, None]()
    while len(found) < count:
        found[compose(rng)] = None
    return list(found)
