"""How a size follows from others: formulas that fit the sizes that were seen, and the size to try next, which tells them apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, islice
from math import gcd, prod

_LARGEST_STEP = 1024
_MOST_FORMULAS, _MOST_SIZES = 1024, 256
"""How many are compared, and at how many sizes at once."""

_FEW_FORMULAS = 8
"""How many are compared at every size, where those sizes tell none apart."""


@dataclass(frozen=True)
class _Formula:
    """A size that follows from another: ``(factor * size + rest) // step * unit + extra``."""

    factor: int
    rest: int
    step: int
    unit: int = 1
    extra: int = 0

    def of(self, size: int) -> int:
        return (self.factor * size + self.rest) // self.step * self.unit + self.extra

    def written(self, axis: str) -> str:
        inner = _written(axis, self.factor, self.rest, self.step)
        return _added(f"({inner}) * {self.unit}", self.extra) if self.unit > 1 else inner


def fitted(axis: str, seen: Mapping[int, int]) -> str | None:
    """The formula of one axis that gives every size that was seen, such as ``time // 4``; ``None`` where there is none.

    Args:
        axis: The input's axis.
        seen: The output's size by the input's; of four inputs at least, or no formula is more than a guess.
    """
    first = next(_formulas(seen), None)
    return None if first is None else first.written(axis)


def undecided(seen: Mapping[int, int], sizes: Sequence[int]) -> int | None:
    """A size that tells formulas apart that fit what was seen, if possible many of them; ``None`` where all of them agree.

    Args:
        seen: The output's size by the input's.
        sizes: Sizes of the input that may be tried, in order.
    """
    formulas = list(islice(_formulas(seen), _MOST_FORMULAS))
    others = [size for size in sizes if size not in seen]
    if len(formulas) < 2 or not others:
        return None
    if len(formulas) == _MOST_FORMULAS:  # the slope is unknown yet
        return max(others, key=lambda size: min(abs(size - each) for each in seen))
    spread = others[:: -(-len(others) // _MOST_SIZES)]
    groups = {size: max(Counter(each.of(size) for each in formulas).values()) for size in spread}
    best = min(groups, key=lambda size: (groups[size], size))
    if groups[best] < len(formulas):
        return best
    few = formulas[1 :: -(-len(formulas) // _FEW_FORMULAS)]
    return next((size for size in others for each in few if each.of(size) != formulas[0].of(size)), None)


def _formulas(seen: Mapping[int, int]) -> Iterator[_Formula]:
    """The formulas that give every size that was seen, the most likely first."""
    found = False
    for formula in _formulas_of_steps(seen):
        found = True
        yield formula
    least = min(seen.values())
    common = 0 if found else gcd(*(size - least for size in seen.values()))
    for unit in (each for each in range(common, 1, -1) if common % each == 0):
        # What an encoder rounds, the decoder multiplies.
        extra = least % unit
        for inner in _formulas_of_steps({a: (o - extra) // unit for a, o in seen.items()}):
            yield replace(inner, unit=unit, extra=extra)


def _formulas_of_steps(seen: Mapping[int, int]) -> Iterator[_Formula]:
    """Formulas of one slope, of which whole steps remain."""
    small, large = min(seen), max(seen)
    rise = seen[large] - seen[small]
    if rise <= 0:
        return
    if rise >= large - small:
        factor = round(rise / (large - small))
        rest = seen[small] - factor * small
        if all(factor * a + rest == o for a, o in seen.items()):
            yield _Formula(factor, rest, 1)
        return
    slope = (large - small) / rise
    # A power of two is what strides and pools come to.
    around = range(2, min(_LARGEST_STEP, 2 * round(slope) + 2))
    for step in sorted(around, key=lambda step: (abs(step - slope), step.bit_count() > 1, step)):
        # (a + rest) // step == o for every pair, that is o * step - a <= rest < (o + 1) * step - a.
        low = max(o * step - a for a, o in seen.items())
        high = min((o + 1) * step - a for a, o in seen.items())
        for rest in sorted(range(low, high), key=lambda rest: (rest != 0, (rest % step) != 0, abs(rest))):
            yield _Formula(1, rest, step)


def product(factors: Sequence[tuple[str, Mapping[int, int]]], sizes: Mapping[str, int], size: int) -> str | None:
    """The formula of an output's axis that several axes of the inputs change, as of patches; ``None`` where it is none of the usual ones.

    Args:
        factors: The axes, each with the sizes that were seen when only it changed.
        sizes: The sizes of the axes when none changed.
        size: The output's size then.
    """
    if len(factors) > 2 and prod(sizes[axis] for axis, _ in factors) == size:
        whole = all(len({o / a for a, o in seen.items()}) == 1 for _, seen in factors)
        return " * ".join(axis for axis, _ in factors) if whole else None
    if len(factors) != 2:
        return None
    (first, by_first), (second, by_second) = factors
    if _is_sum(by_first) and _is_sum(by_second):
        return _added(f"{first} + {second}", size - sizes[first] - sizes[second])
    for extra in (0, 1, 2):
        pairs = [
            (one, two)
            for one in _parts(first, by_first, extra, sizes[first])
            for two in _parts(second, by_second, extra, sizes[second])
            if one[1] * two[1] == size - extra
        ]
        if pairs:
            one, two = min(pairs, key=lambda pair: abs(pair[0][2] - pair[1][2]))
            return _added(f"{one[0]} * {two[0]}", extra)
    return None


def _parts(axis: str, seen: Mapping[int, int], extra: int, at: int) -> list[tuple[str, int, int]]:
    """What one factor of a product may be: a formula, its size, and its step."""
    found = []
    for step in range(1, min(seen) + 1):
        if len({(o - extra) / (a // step) for a, o in seen.items()}) == 1:
            found.append((axis if step == 1 else f"({axis} // {step})", at // step, step))
    return found


def _is_sum(seen: Mapping[int, int]) -> bool:
    return all(o2 - o1 == a2 - a1 for (a1, o1), (a2, o2) in combinations(sorted(seen.items()), 2))


def _written(axis: str, factor: int, rest: int, step: int) -> str:
    inner = axis if factor == 1 else f"{factor} * {axis}"
    if step == 1:
        return _added(inner, rest)
    if rest and rest % step == 0:
        return _added(f"{inner} // {step}", rest // step)
    if rest == step - 1:
        return f"({inner} - 1) // {step} + 1"
    return f"({_added(inner, rest)}) // {step}" if rest else f"{inner} // {step}"


def _added(text: str, rest: int) -> str:
    return text if not rest else f"{text} {'+' if rest > 0 else '-'} {abs(rest)}"
