"""The size of an output's axis as a formula of the sizes of the inputs' axes, from sizes that were seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from math import gcd

_LARGEST_STEP = 256


def fitted(axis: str, seen: Mapping[int, int]) -> str | None:
    """The formula of one axis that gives every size that was seen, such as ``time // 4``; ``None`` where there is none.

    Args:
        axis: The input's axis.
        seen: The output's size by the input's; of four inputs at least, or no formula is more than a guess.
    """
    found = _fitted_steps(axis, seen)
    unit = gcd(*(size - min(seen.values()) for size in seen.values()))
    if found is None and unit > 1:
        # What an encoder rounds, the decoder multiplies.
        rest = min(seen.values()) % unit
        inner = _fitted_steps(axis, {a: (o - rest) // unit for a, o in seen.items()})
        return None if inner is None else _added(f"({inner}) * {unit}", rest)
    return found


def _fitted_steps(axis: str, seen: Mapping[int, int]) -> str | None:
    """A formula of one slope, of which whole steps remain."""
    small, large = min(seen), max(seen)
    rise = seen[large] - seen[small]
    if rise <= 0:
        return None
    if rise >= large - small:
        factor = round(rise / (large - small))
        rest = seen[small] - factor * small
        return _written(axis, factor, rest, 1) if all(factor * a + rest == o for a, o in seen.items()) else None
    slope = (large - small) / rise
    around = sorted(range(2, min(_LARGEST_STEP, 2 * round(slope) + 2)), key=lambda step: (abs(step - slope), step))
    for step in around:
        # (a + rest) // step == o for every pair, that is o * step - a <= rest < (o + 1) * step - a.
        low = max(o * step - a for a, o in seen.items())
        high = min((o + 1) * step - a for a, o in seen.items())
        if low < high:
            rest = min(range(low, high), key=lambda rest: (rest != 0, (rest % step) != 0, abs(rest)))
            return _written(axis, 1, rest, step)
    return None


def product(factors: Sequence[tuple[str, Mapping[int, int]]], sizes: Mapping[str, int], size: int) -> str | None:
    """The formula of an output's axis that several axes of the inputs change, as of patches; ``None`` where it is none of the usual ones.

    Args:
        factors: The axes, each with the sizes that were seen when only it changed.
        sizes: The sizes of the axes when none changed.
        size: The output's size then.
    """
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
