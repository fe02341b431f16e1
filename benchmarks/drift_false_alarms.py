"""How often the drift gate raises an alarm where there is no drift: windows and references drawn from one distribution.

python benchmarks/drift_false_alarms.py [--quick] [--repeats 1000] [--processes 2] [--sessions] [--nights]

What a profile holds is counts, so counts are drawn: for edges on the quantiles of a reference, the shares between them follow a Dirichlet
distribution, whatever the data's own (a skewed one too); tied values and categories are multinomial. The lines "from rows" draw the rows
themselves and make the profiles of them.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing import Pool

import numpy as np
from numpy.typing import NDArray

from harness.evidence import Status
from harness.monitoring import DriftOptions
from harness.monitoring.dependence import Groups, order_dependence
from harness.monitoring.drift import DriftReport, compare_profiles
from harness.monitoring.drift.verdict import DriftFinding
from harness.monitoring.features.categorical import LEVELS
from harness.monitoring.features.counts import CategoricalCounts, Clusters, FeatureCounts, NumericCounts
from harness.monitoring.features.edges import choose_edges
from harness.monitoring.features.values import BUCKETS, bucket_of
from harness.monitoring.profiles import Profile, profile_columns

ALPHA = 0.05
BINS = 100
REFERENCE_N = 10_000
SIZES = (50, 200, 1_000, 10_000, 100_000)
ZEROS = 0.7

Draw = Callable[[np.random.Generator, int, int], tuple[FeatureCounts, FeatureCounts]]
NAMES = tuple(f"level{number}" for number in range(1000))
BY_NAME = np.argsort(np.argsort(NAMES))
FILTER_HOLDS = 700
TOPICS = np.random.default_rng(0).dirichlet(20 * np.random.default_rng(1).dirichlet(np.full(BUCKETS, 0.5)) + 1e-3, size=8)
BUCKET = np.array([bucket_of(name) for name in NAMES])


def skewed(generator: np.random.Generator, m: int, n: int) -> tuple[FeatureCounts, FeatureCounts]:
    """A lognormal, or any other continuous distribution: ranks do not tell them apart."""
    ranks = np.unique(np.ceil(np.arange(1, BINS) * m / BINS).astype(int))
    inside = np.diff(np.concatenate([[0], ranks, [m + 1]]))
    edges = np.arange(1.0, len(ranks) + 1)
    reference = np.diff(np.concatenate([[0], ranks, [m]]))
    return NumericCounts(edges, reference), NumericCounts(edges, generator.multinomial(n, generator.dirichlet(inside)))


def integers(generator: np.random.Generator, m: int, n: int) -> tuple[FeatureCounts, FeatureCounts]:
    """Whole numbers, geometric with mean 20."""
    support = np.arange(400.0)
    shares = (20 / 21) ** support
    return on_support(generator, support, shares / shares.sum(), m, n)


def zero_inflated(generator: np.random.Generator, m: int, n: int) -> tuple[FeatureCounts, FeatureCounts]:
    """Zeros in 70% of the rows, and amounts rounded to whole cents in the rest."""
    support = np.round(np.concatenate([[0.0], np.arange(1, 2000) / 100]), 2)
    shares = np.exp(-0.5 * np.log(np.maximum(support, 1e-9)) ** 2) / np.maximum(support, 0.01)
    shares[0] = 0.0
    shares *= (1 - ZEROS) / shares.sum()
    shares[0] = ZEROS
    return on_support(generator, support, shares, m, n)


def on_support(
    generator: np.random.Generator, support: NDArray[np.float64], shares: NDArray[np.float64], m: int, n: int
) -> tuple[FeatureCounts, FeatureCounts]:
    reference, current = generator.multinomial(m, shares), generator.multinomial(n, shares)
    seen = reference > 0
    edges = choose_edges(support[seen], reference[seen], BINS)
    place = np.searchsorted(edges, support, side="right")
    return tuple(NumericCounts(edges, binned(place, counts, len(edges) + 1)) for counts in (reference, current))  # type: ignore[return-value]


def categories(generator: np.random.Generator, m: int, n: int, count: int, zipf: bool) -> tuple[FeatureCounts, FeatureCounts]:
    shares = 1 / np.arange(1.0, count + 1) if zipf else np.ones(count)
    reference, current = (generator.multinomial(size, shares / shares.sum()) for size in (m, n))
    order = np.lexsort((BY_NAME[:count], -reference))
    seen = order[reference[order] > 0]
    listed, others = seen[:LEVELS], seen[LEVELS:]
    once = int((reference == 1).sum())
    known = b"" if len(others) < FILTER_HOLDS else None
    features = []
    for counts in (reference, current):
        rest, unseen = int(counts[others].sum()), int(counts[reference == 0].sum())
        if known is None:
            rest, unseen = rest + unseen, 0
        levels = tuple(NAMES[level] for level in listed)
        buckets = binned(BUCKET[:count], counts, BUCKETS)
        features.append(CategoricalCounts(levels, counts[listed], rest, unseen, 0, buckets, known, once))
    return features[0], features[1]


def tokens(generator: np.random.Generator, m: int, n: int) -> tuple[FeatureCounts, FeatureCounts]:
    """Texts of eight topics and of very different lengths; one in a hundred repeats a word a hundred times."""
    return text_counts(generator, m), text_counts(generator, n)


def text_counts(generator: np.random.Generator, rows: int) -> CategoricalCounts:
    lengths = np.ceil(generator.gamma(2, 20, rows)).astype(int)
    words = generator.multinomial(lengths, TOPICS[generator.integers(0, len(TOPICS), rows)])
    words[generator.random(rows) < 0.01, 0] += 100
    lengths = words.sum(axis=1)
    squares, products = (words**2).sum(axis=0), (words * lengths[:, None]).sum(axis=0)
    clusters = Clusters(rows, int((lengths**2).sum()), tuple(squares.tolist()), tuple(products.tolist()))
    buckets = words.sum(axis=0)
    return CategoricalCounts((), np.zeros(0, np.int64), int(buckets.sum()), buckets=buckets, clusters=clusters)


def binned(place: NDArray[np.intp], counts: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    return np.bincount(place, counts, minlength=size).astype(np.int64)


DRAWS: dict[str, Draw] = {
    "skewed": skewed,
    "integers": integers,
    "zero-inflated": zero_inflated,
    "2 categories": partial(categories, count=2, zipf=False),
    "20 categories, Zipf": partial(categories, count=20, zipf=True),
    "150 categories, uniform": partial(categories, count=150, zipf=False),
    "1000 categories, Zipf": partial(categories, count=1000, zipf=True),
    "1000 categories, uniform": partial(categories, count=1000, zipf=False),
    "tokens of texts": tokens,
}
SLOW = "tokens of texts"
MOST_TEXTS = 10_000


@dataclass(frozen=True)
class Case:
    """One line of the table."""

    data: str
    features: int
    n: int
    reference_n: int = REFERENCE_N
    from_rows: bool = False

    @property
    def kinds(self) -> Iterator[str]:
        names = [name for name in DRAWS if name != SLOW] if self.data == "mixed" else [self.data]
        return (names[place % len(names)] for place in range(self.features))


def report_of(case: Case, seed: int) -> DriftReport:
    generator = np.random.default_rng([seed, case.n, case.features, case.reference_n, sum(case.data.encode())])
    if case.from_rows:
        reference = profile_columns(columns(generator, case.reference_n), categorical=["zipf", "pair"])
        return compare_profiles(reference, profile_columns(columns(generator, case.n), reference), DriftOptions(alpha=ALPHA))
    pairs = {f"{kind} {place}": DRAWS[kind](generator, case.reference_n, case.n) for place, kind in enumerate(case.kinds)}
    sides = [
        Profile(1, size, {name: pair[side] for name, pair in pairs.items()}, {}, "")
        for side, size in enumerate((case.reference_n, case.n))
    ]
    return compare_profiles(*sides, DriftOptions(alpha=ALPHA))


def columns(generator: np.random.Generator, n: int) -> dict[str, NDArray[np.generic]]:
    numbers = {f"lognormal {place}": generator.lognormal(0, 2, n) for place in range(8)}
    rounded = {f"rounded {place}": np.round(generator.lognormal(0, 1, n), 1) for place in range(4)}
    zeros = {f"zeros {place}": np.where(generator.random(n) < ZEROS, 0.0, generator.lognormal(0, 1, n)) for place in range(3)}
    missing = {"missing": np.where(generator.random(n) < 0.02, np.nan, generator.normal(size=n))}
    vectors = {"vectors": generator.normal(size=(n, 32)) @ np.diag(np.linspace(1, 3, 32))}
    levels = {"zipf": np.minimum(generator.zipf(1.3, n), 1000).astype(str), "pair": generator.integers(0, 2, n).astype(str)}
    return {**numbers, **rounded, **zeros, **missing, **vectors, **levels, "poisson": generator.poisson(3, n).astype(float)}


def outcomes(case: Case, seeds: Iterable[int]) -> Counter[str]:
    found: Counter[str] = Counter()
    for seed in seeds:
        report = report_of(case, seed)
        verdicts = [verdict for one in report.features for verdict in one.verdicts]
        found["fail"] += report.status is Status.FAIL
        found["warn"] += not report.names(Status.FAIL) and bool(report.names(Status.WARN))
        found["significant"] += any(verdict.is_significant for verdict in verdicts)
        found["unproven"] += any(verdict.finding is DriftFinding.UNPROVEN for verdict in verdicts)
        found["blind"] += bool(report.blind)
        found["named"] += len(report.named)
    return found


def cases(quick: bool) -> list[Case]:
    sizes = SIZES[::2] if quick else SIZES
    single = [Case(data, 1, n) for data in DRAWS if data != SLOW for n in sizes]
    texts = [Case(SLOW, 1, n, reference_n=1_000) for n in sizes if n <= MOST_TEXTS]
    several = [Case("mixed", 20, n) for n in sizes]
    small_reference = [Case("mixed", 20, n, reference_n=200) for n in sizes]
    wide = [Case("mixed", 200, n) for n in SIZES[::2]]
    rows = [
        Case("from rows", 20, n, reference_n=m, from_rows=True)
        for n, m in ((50, 1_000), (200, 1_000), (1_000, 1_000), (1_000, 10_000))
    ]
    return [*single, *texts, *several, *small_reference, *rows, *wide]


ROWS_A_SESSION = 10
MOVED = 0.6


def sessions(generator: np.random.Generator, count: int, alike: float, move: float = 0.0) -> dict[str, NDArray[np.generic]]:
    """Ten features of rows that come in sessions; so large a share of their variance is the session's. One of them moved."""
    found: dict[str, NDArray[np.generic]] = {}
    for place in range(10):
        own = np.repeat(generator.normal(size=count), ROWS_A_SESSION)
        rows = math.sqrt(alike) * own + math.sqrt(1 - alike) * generator.normal(size=len(own))
        found[f"feature {place}"] = rows + (move if place == 0 else 0.0)
    return found


def of_sessions(alike: float, count: int, seeds: Iterable[int]) -> Counter[str]:
    """What the gate says of windows of sessions: the group named or not, and of as many independent rows."""
    found: Counter[str] = Counter()
    for seed in seeds:
        generator = np.random.default_rng([seed, count])
        groups = Groups.of(np.repeat(np.arange(count), ROWS_A_SESSION).tolist(), "session")
        before = sessions(generator, 1_000, alike)
        kept = Groups.of(np.repeat(np.arange(1_000), ROWS_A_SESSION).tolist(), "session").one_of_each
        for name, move in (("clean", 0.0), ("moved", MOVED)):
            now = sessions(generator, count, alike, move)
            found[f"{name} unnamed"] += failed(before, now)
            found[f"{name} unnamed and warned"] += order_dependence(now) is not None
            alone = [
                {name: column[places] for name, column in side.items()}
                for side, places in ((before, kept), (now, groups.one_of_each))
            ]
            found[f"{name} named"] += failed(*alone)
            fresh = {name: column[:count] for name, column in sessions(generator, count, 0.0, move).items()}
            found[f"{name} independent"] += failed(alone[0], fresh)
    return found


def failed(before: dict[str, NDArray[np.generic]], now: dict[str, NDArray[np.generic]]) -> bool:
    reference = profile_columns(before)
    return compare_profiles(reference, profile_columns(now, reference), DriftOptions(alpha=ALPHA)).status is Status.FAIL


def print_sessions(repeats: int, processes: int) -> bool:
    """Prints the table of sessions; says whether the group keeps the rate and the power."""
    print(f"\n{ROWS_A_SESSION} rows a session, ten features, against 1,000 sessions, {repeats} windows a line\n")
    print("| alike | sessions | clean: group named | without | warned that rows depend | moved: group named | independent rows |")
    print("|--:|--:|--:|--:|--:|--:|--:|")
    good = True
    with Pool(processes) as pool:
        for alike in (0.95, 0.5):
            for count in (50, 100, 200):
                parts = [range(first, repeats, 4 * processes) for first in range(4 * processes)]
                found = sum(pool.starmap(of_sessions, [(alike, count, part) for part in parts]), Counter[str]())
                names = ("clean named", "clean unnamed", "clean unnamed and warned", "moved named", "moved independent")
                print(f"| {alike:.0%} | {count} | {' | '.join(f'{found[name] / repeats:.1%}' for name in names)} |", flush=True)
                good &= found["clean named"] <= largest_allowed(repeats)
                good &= found["moved named"] >= found["moved independent"] - 0.1 * repeats
    return good


NIGHTS = 200
YEAR_REFERENCE = 2_000
MOVED_A_NIGHT = 0.4


def year_of_nights(n: int, windows: int, seeds: Iterable[int]) -> Counter[str]:
    """Clean windows, one a night, against one reference, at the rate of one and of all; and the last of them with a drift in it."""
    found: Counter[str] = Counter()
    for seed in seeds:
        generator = np.random.default_rng([seed, n])
        reference = profile_columns(columns(generator, YEAR_REFERENCE), categorical=["zipf", "pair"])
        nights = Counter[str]()
        for night in range(NIGHTS):
            now = profile_columns(columns(generator, n), reference)
            for name, number in (("night", 1), ("year", windows)):
                report = compare_profiles(reference, now, DriftOptions(alpha=ALPHA, windows=number))
                nights[f"{name} fail"] += report.status is Status.FAIL
                nights[f"{name} warn"] += not report.names(Status.FAIL) and bool(report.names(Status.WARN))
            if night % 10 == 0:
                nights["looked at"] += 1
                moved = columns(generator, n)
                moved["lognormal 0"] = moved["lognormal 0"] * math.exp(2 * MOVED_A_NIGHT)
                for name, number in (("night", 1), ("year", windows)):
                    options = DriftOptions(alpha=ALPHA, windows=number)
                    nights[f"{name} seen"] += (
                        compare_profiles(reference, profile_columns(moved, reference), options).status is Status.FAIL
                    )
        found.update(nights)
        found.update({f"{name} any": int(nights[f"{name} fail"] > 0) for name in ("night", "year")})
        found["years"] += 1
    return found


def print_nights(repeats: int, processes: int) -> bool:
    """Prints the table of nights; says whether a year's rate holds."""
    print(f"\n{NIGHTS} clean windows in a row, 20 features, reference of {YEAR_REFERENCE:,}, {repeats} such years a line\n")
    print(
        "| n | rate of | windows that fail | windows that warn of drift | years with any fail | 0.4 deviations in one feature: fails |"
    )
    print("|--:|---|--:|--:|--:|--:|")
    good = True
    with Pool(processes) as pool:
        for n in (200, 1_000):
            parts = [(n, NIGHTS, range(first, repeats, 2 * processes)) for first in range(2 * processes)]
            found = sum(pool.starmap(year_of_nights, parts), Counter[str]())
            total = NIGHTS * found["years"]
            for name, rate in (("night", "one night"), ("year", f"{NIGHTS} nights")):
                shares = [found[f"{name} fail"] / total, found[f"{name} warn"] / total, found[f"{name} any"] / found["years"]]
                shares.append(found[f"{name} seen"] / found["looked at"])
                print(f"| {n:,} | {rate} | {' | '.join(f'{share:.2%}' for share in shares)} |", flush=True)
            good &= found["year any"] <= largest_allowed(found["years"])
    return good


def largest_allowed(repeats: int) -> int:
    """The upper end of the 95% interval of a binomial count at alpha."""
    chances = [math.comb(repeats, k) * ALPHA**k * (1 - ALPHA) ** (repeats - k) for k in range(repeats // 4 + 4)]
    return int(np.searchsorted(np.cumsum(chances), 0.975))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=None)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="100 repeats, three sizes")
    parser.add_argument("--only", default="", help="lines whose data has this in its name")
    parser.add_argument("--features", type=int, help="lines of so many features")
    parser.add_argument("--sessions", action="store_true", help="windows of sessions instead, whose rows resemble each other")
    parser.add_argument(
        "--nights", action="store_true", help="years of windows instead, one a night, at the rate of a night and of a year"
    )
    options = parser.parse_args()
    if options.nights:
        return 0 if print_nights(options.repeats or 40, options.processes) else 1
    if options.sessions:
        return 0 if print_sessions(options.repeats or 200, options.processes) else 1
    repeats = options.repeats or (100 if options.quick else 1000)
    allowed = largest_allowed(repeats)
    print(
        f"{repeats} windows without drift a line. The gate's alpha is {ALPHA}: up to {allowed / repeats:.3f} is within its binomial interval.\n"
    )
    print(
        "| data | features | reference | n | fail | warn about drift | any significant | beyond the floor alone | window too small | s |"
    )
    print("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
    too_many = 0
    with Pool(options.processes) as pool:
        for case in cases(options.quick):
            if options.only not in case.data or options.features not in (None, case.features):
                continue
            started = time.perf_counter()
            parts = [range(first, repeats, 4 * options.processes) for first in range(4 * options.processes)]
            found = sum(pool.starmap(outcomes, [(case, part) for part in parts]), Counter())
            too_many += found["fail"] > allowed or found["significant"] > allowed
            rates = " | ".join(f"{found[key] / repeats:.3f}" for key in ("fail", "warn", "significant", "unproven", "blind"))
            print(
                f"| {case.data} | {case.features} | {case.reference_n:,} | {case.n:,} | {rates} | {time.perf_counter() - started:.0f} |",
                flush=True,
            )
    print(f"\n{too_many} lines above {allowed / repeats:.3f}")
    return 1 if too_many else 0


if __name__ == "__main__":
    sys.exit(main())
