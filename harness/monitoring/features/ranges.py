"""The range of a reference: values of a window outside it, as a few in other units are; and moments that continue after it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from harness.monitoring import DriftOptions
from harness.monitoring.features import Difference, Effect, Resolution
from harness.monitoring.features.counts import NumericCounts

DATE = "date"
"""The unit of moments, which are counted in microseconds since 1970."""

RANGE = "range"

_OUTSIDE = 0.01
"""The least share of values outside the range that matters."""

_RARE = 1e-6
"""Values outside are told from this probability on. As it is so small, they are no test of each window, which would cost the others power."""

_DECADES = 3
_TAIL = 0.5
_CONFIDENCE = 0.95


def edges_around(low: float, high: float, after: float, unit: str) -> NDArray[np.float64]:
    """Edges outside which a reference has nothing: its least value, what comes after its greatest, and 10, 100 and 1,000 times the largest.

    Args:
        low: The least value.
        high: The greatest.
        after: The next float.
        unit: ``date`` for moments, which are not so many times as large.
    """
    with np.errstate(over="ignore"):
        beyond = max(abs(low), abs(high)) * 10.0 ** np.arange(1, _DECADES + 1) if not unit else np.zeros(0)
    return np.concatenate([[low, after], beyond, -beyond if low < 0 else []])


def continues(reference: NumericCounts, current: NumericCounts) -> bool:
    """Whether most values of a window are moments after the last one of the reference."""
    if reference.unit != DATE or not (reference.finite and current.finite):
        return False
    return 2 * int(current.counts[_places(reference)[1] + 1 :].sum()) > current.finite


def compare_ranges(feature: str, reference: NumericCounts, current: NumericCounts, options: DriftOptions) -> Iterable[Difference]:
    """Whether values lie outside the range of the reference: too few of them to move a distribution, as 2% in other units are.

    Of ``m + n`` values that are drawn alike, the ``u`` greatest are all in the window with the probability ``C(n, u) / C(m + n, u)``. Values ten
    times as large as any of the reference are rarer still: where tails fall with the inverse square root or faster, by ``10 ** -0.5`` each.
    """
    m, n = reference.finite, current.finite
    if not (m and n) or continues(reference, current):
        return []
    first, last = _places(reference)
    below, above = int(current.counts[:first].sum()), int(current.counts[last + 1 :].sum())
    logs = [_log_all_in(n, m, max(below, above))]
    for power in range(1, _DECADES + 1):
        count = sum(counts for reached, counts in _by_power(reference, current).items() if reached >= power)
        logs.append(count * (math.log(n / (m + n)) - _TAIL * power * math.log(10)))
    p = min(1.0, 2 * len(logs) * math.exp(min(logs)))
    if p > _RARE:
        return []
    share = (below + above) / n
    margin = NormalDist().inv_cdf((1 + _CONFIDENCE) / 2) * math.sqrt(share * (1 - share) / n)
    found = Difference(
        feature=feature,
        aspect=RANGE,
        test="values outside",
        p=p,
        effect=Effect("share outside", share, max(0.0, share - margin), min(1.0, share + margin), _OUTSIDE),
        resolution=Resolution(lambda alpha, _power: _fewest_seen(alpha, m, n) / math.sqrt(1 / m + 1 / n), m, n),
        where=_where(reference, current, share),
    )
    return [found]


def _places(reference: NumericCounts) -> tuple[int, int]:
    """The first and the last bin that the reference has values in."""
    held = np.flatnonzero(reference.counts)
    return int(held[0]), int(held[-1])


def _log_all_in(n: int, m: int, values: int) -> float:
    """The logarithm of the probability that so many values of ``m + n`` are all among the ``n``."""
    return math.lgamma(n + 1) - math.lgamma(n - values + 1) + math.lgamma(m + n - values + 1) - math.lgamma(m + n + 1)


def _fewest_seen(alpha: float, m: int, n: int) -> float:
    """The least share outside that is significant."""
    return math.log(min(alpha, _RARE) / 2) / math.log(n / (m + n)) / n


def _where(reference: NumericCounts, current: NumericCounts, share: float) -> str:
    """``2.0% of the values are outside 21.3 to 118, most of them 100 to 1,000 times as large: other units?``, where that is so."""
    low, high = _ends(reference)
    said = f"{share:.1%} of the values are outside {shown(low, reference.unit)} to {shown(high, reference.unit)}"
    power, count = _by_power(reference, current).most_common(1)[0] if _by_power(reference, current) else (0, 0)
    if 2 * count <= share * current.finite:
        return said
    times = f"{10**power:,} to {10 ** (power + 1):,}" if power < _DECADES else f"more than {10**power:,}"
    return f"{said}, most of them {times} times as large: other units?"


def _ends(reference: NumericCounts) -> tuple[float, float]:
    """The range of a reference."""
    first, last = _places(reference)
    return float(reference.edges[max(first - 1, 0)]), float(reference.edges[min(last, len(reference.edges) - 1)])


def _by_power(reference: NumericCounts, current: NumericCounts) -> Counter[int]:
    """How many values are 10, 100 and 1,000 times as large as the largest of the reference, by the power of ten."""
    first, last = _places(reference)
    edges, largest = reference.edges, max(map(abs, _ends(reference)))
    found: Counter[int] = Counter()
    for place in np.flatnonzero(current.counts).tolist():
        least = abs(float(edges[place - 1])) if place > last else abs(float(edges[place])) if place < first else 0.0
        if largest and least > 5 * largest:
            found[round(math.log10(least / largest))] += int(current.counts[place])
    return found


def shown(value: float, unit: str) -> str:
    """A value in four digits; a moment as the day, and the minute where there is one."""
    if unit != DATE:
        return f"{value:.4g}"
    moment = str(np.datetime64(int(value), "us").astype("M8[m]")).replace("T", " ")
    return moment.removesuffix(" 00:00")
