"""The range of a reference, what lies outside and after it, and what a change looks like: other units, another time zone, spelling."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
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
        where=_where(feature, reference, current, share),
        is_never_usual=sum(_by_power(reference, current).values()) >= _OUTSIDE * n,
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


def _where(feature: str, reference: NumericCounts, current: NumericCounts, share: float) -> str:
    """``2.0% of the values are outside 21.3 to 118, most of them 100 to 1,000 times as large: other units?``, where that is so."""
    low, high = span_of(reference)
    said = f"{share:.1%} of the values are outside {shown(low, reference.unit)} to {shown(high, reference.unit)}"
    found = far_beyond(reference, current, feature, share)
    return f"{said}, {found}" if found else said


def far_beyond(reference: NumericCounts, current: NumericCounts, feature: str, share: float = 1.0) -> str:
    """``most of them 100 to 1,000 times as large: other units?``, where that is so of most of a share of the values; or nothing.

    What a model answers, and how far off that is, has no units.
    """
    if reference.unit or not (reference.finite and current.finite):
        return ""
    power, count = _by_power(reference, current).most_common(1)[0] if _by_power(reference, current) else (0, 0)
    if 2 * count <= share * current.finite:
        return ""
    times = f"{10**power:,} to {10 ** (power + 1):,}" if power < _DECADES else f"more than {10**power:,}"
    who = "most of them" if share < 1 else "most values are"
    return f"{who} {times} times as large{'' if feature.startswith(('output.', 'score.')) else ': other units?'}"


def span_of(reference: NumericCounts) -> tuple[float, float]:
    """The range of a reference."""
    first, last = _places(reference)
    return float(reference.edges[max(first - 1, 0)]), float(reference.edges[min(last, len(reference.edges) - 1)])


def _by_power(reference: NumericCounts, current: NumericCounts) -> Counter[int]:
    """How many values are 10, 100 and 1,000 times as large as the largest of the reference, by the power of ten."""
    first, last = _places(reference)
    edges, largest = reference.edges, max(map(abs, span_of(reference)))
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


Floats = NDArray[np.float64]

_UNITS = (
    (1.609344, "kilometres", "miles", "length"),
    (2.54, "centimetres", "inches", "length"),
    (2.204623, "pounds", "kilograms", "mass"),
    (3.28084, "feet", "metres", "length"),
    (28.349523, "grams", "ounces", "mass"),
    (3.785412, "litres", "gallons", "volume"),
    (60.0, "minutes", "hours", "time"),
    (3600.0, "seconds", "hours", "time"),
    (24.0, "hours", "days", "time"),
    (1000.0, "grams", "kilograms", "mass"),
    (100.0, "cents", "euros", "money"),
    (10.0, "", "", ""),
)
"""How many of the one are one of the other, and what they measure."""

_WORDS = {
    "length": ("dist", "length", "height", "width", "depth", "mile", "km", "speed"),
    "mass": ("weight", "mass", "load"),
    "volume": ("volume", "litre", "liter", "gallon", "tank"),
    "time": ("time", "duration", "delay", "hour", "minute", "second", "days", "latency"),
    "money": ("price", "cost", "amount", "fare", "fee", "revenue", "salary", "income", "paid", "balance", "usd", "eur"),
    "temperature": ("temp",),
    "number": ("count", "number", "visits", "rating", "score", "age"),
}
"""What the name of a column says that it measures."""

_FEWEST_VALUES = 100
_FEWEST_BINS = 8
_SHARES = np.arange(0.1, 0.91, 0.05)
_CLOSE = 0.03
"""The distance between shares that rounding and chance leave where a guess is right."""

_NEARER = 4.0
"""So many times as near as without the guess, or the guess explains nothing."""

_WIDE = 0.1
_TELLING = 1 / 4
"""So many of the edges must lie in bins that hold at most 10% of the values, or nearly every guess fits."""

_LEAST_FACTOR = 1.03
_SAME_FACTOR = 0.03
_HOURS = 24
_FEWEST_HOURS = 8


def looks_like(reference: NumericCounts, current: NumericCounts, name: str = "") -> str:
    """``as if every value were 1.609 times as large: kilometres instead of miles?``; empty where the change is no such one.

    Args:
        reference: The feature in the reference.
        current: In the window.
        name: What it is called: a price is not told in miles.
    """
    if reference.unit or min(reference.finite, current.finite) < _FEWEST_VALUES:
        return ""
    hours = _hours_later(reference, current)
    if hours or np.count_nonzero(reference.counts) < _FEWEST_BINS:
        return hours
    before, _ = _shares_at(reference, reference.edges)
    distance = float(np.abs(before - _shares_at(current, reference.edges)[0]).max())
    limit = min(max(_CLOSE, 1.4 * math.sqrt(1 / current.finite + 1 / reference.finite)), distance / _NEARER)
    measured = list(_as_measured(reference, current))
    for guesses in (_of_known_units(name, [factor for factor, more, _ in measured if not more]), measured):
        with np.errstate(over="ignore", invalid="ignore"):
            found = [(_distance(before, current, reference.edges * factor + more), said) for factor, more, said in guesses]
        nearest, said = min(found, key=lambda one: one[0], default=(math.inf, ""))
        if nearest <= limit:
            return said
    return ""


def _of_known_units(name: str, measured: list[float]) -> Iterator[tuple[float, float, str]]:
    """Factors and summands of units that a column may be in, with what each would mean.

    Args:
        name: Of the column.
        measured: By what its quantiles were multiplied, if by anything; a unit is only asked about where that is nearly its factor.
    """
    called = {kind for kind, words in _WORDS.items() if any(word in name.lower() for word in words)}
    for factor, one, other, kind in _UNITS:
        for times, here, there in ((factor, one, other), (1 / factor, other, one)):
            if any(abs(math.log(times / each)) > _SAME_FACTOR for each in measured) or (kind and called and kind not in called):
                continue
            units = f"{here} instead of {there}?" if here else "other units?"
            yield times, 0.0, f"as if every value were {times:.4g} times as large: {units}"
    if called and "temperature" not in called:
        return
    yield 1.8, 32.0, "as if every value were 1.8 times as large and 32 more: Fahrenheit instead of Celsius?"
    yield (
        1 / 1.8,
        -32 / 1.8,
        "as if 32 were taken from every value, and it were 0.5556 times as large: Celsius instead of Fahrenheit?",
    )


def _as_measured(reference: NumericCounts, current: NumericCounts) -> Iterator[tuple[float, float, str]]:
    """The factor and the summand by which quantiles moved."""
    before, now = _quantiles(reference), _quantiles(current)
    known = np.isfinite(before) & np.isfinite(now)
    before, now = before[known], now[known]
    if not len(before):
        return
    nonzero = before != 0
    with np.errstate(over="ignore"):  # of a value near zero it is infinite, which is no factor
        factor = float(np.median(now[nonzero] / before[nonzero])) if nonzero.any() else 1.0
    if 0 < factor < math.inf and abs(math.log(factor)) > math.log(_LEAST_FACTOR):
        yield factor, 0.0, f"as if every value were {factor:.3g} times as large"
    more = float(np.median(now - before))
    yield 1.0, more, f"as if every value were {abs(more):.3g} {'more' if more > 0 else 'less'}"


def _shares_at(counts: NumericCounts, points: Floats) -> tuple[Floats, Floats]:
    """The least and the greatest share of values below each point that the counts allow."""
    below = np.concatenate([[0.0], np.cumsum(counts.counts) / counts.finite])
    return below[np.searchsorted(counts.edges, points, side="right")], below[
        np.searchsorted(counts.edges, points, side="left") + 1
    ]


def _distance(before: Floats, current: NumericCounts, edges: Floats) -> float:
    """How far shares of a window below moved edges are at least from the reference's; infinite where its bins there are too wide to tell."""
    low, high = _shares_at(current, edges)
    inside = (before > 0.05) & (before < 0.95)
    telling = inside & (high - low <= _WIDE) & (low > 0.0) & (high < 1.0)
    if np.count_nonzero(telling) < max(_FEWEST_BINS, _TELLING * np.count_nonzero(inside)):
        return math.inf
    return float(np.maximum(np.maximum(low - before, before - high), 0.0).max())


def _quantiles(counts: NumericCounts) -> Floats:
    """Some quantiles, between the edges they lie between; NaN of those that lie beyond all edges."""
    below = np.cumsum(counts.counts)
    bins = np.searchsorted(below, _SHARES * counts.finite)
    edges = np.concatenate([[np.nan], counts.edges, [np.nan]])
    inside = (_SHARES * counts.finite - (below - counts.counts)[bins]) / np.maximum(counts.counts[bins], 1)
    return np.asarray(edges[bins] + inside * (edges[bins + 1] - edges[bins]))


def _hours_later(reference: NumericCounts, current: NumericCounts) -> str:
    """Whether hours of the day are moved around the clock, as those of another time zone are."""
    held = np.flatnonzero(reference.counts)
    hours = reference.edges[np.maximum(held - 1, 0)]
    if len(held) < _FEWEST_HOURS or held[0] == 0 or ((hours % 1 != 0) | (hours < 0) | (hours >= _HOURS)).any():
        return ""
    before, now = reference.counts[held] / reference.finite, current.counts / current.finite

    def apart(later: int) -> float:
        places = np.searchsorted(reference.edges, (hours + later) % _HOURS, side="right")
        return float(np.abs(np.bincount(places, before, minlength=len(now)) - now).sum() / 2)

    nearest = min(range(1, _HOURS), key=apart)
    if apart(nearest) > min(apart(0) / _NEARER, _WIDE):
        return ""
    later = nearest if nearest <= _HOURS // 2 else nearest - _HOURS
    unit = "hour" if abs(later) == 1 else "hours"
    return f"as if every value were {abs(later)} {unit} {'later' if later > 0 else 'earlier'}: another time zone?"


def written_otherwise(new: Sequence[str], known: Sequence[str]) -> str:
    """``'ua' is 'UA' in another case``, of the first new level that is a known one in disguise; or nothing."""
    plain = {" ".join(level.casefold().split()): level for level in known}
    for level in new:
        meant = plain.get(" ".join(level.casefold().split()))
        if meant is not None:
            return f"{level!r} is {meant!r} in another case" if level.strip() != meant.strip() else f"{level!r} is {meant!r}"
        for encoding in ("cp1252", "latin-1"):
            try:
                meant = level.encode(encoding).decode("utf-8")
            except (UnicodeEncodeError, UnicodeDecodeError):
                continue
            if meant != level and meant in known:
                return f"{level!r} is {meant!r} in a wrong encoding"
    return ""
