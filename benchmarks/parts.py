"""What no single column shows: parts of the data in which a model got worse (`slices`), and rows that differ as a whole (`--joint`).

    python benchmarks/parts.py [--repeats 400] [--first-seed 0] [--processes 2]

How often either is found where there is nothing, and where there is something of a known size; rows as a whole in an eighth of the repeats where
there is something. Exit status 1 where the rate without drift is above the 99% binomial bound of its level.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable
from functools import partial
from multiprocessing import Pool

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from harness.monitoring.joint import LEVEL, RowsKept, joint_drift
from harness.monitoring.slices import Cut, Parts, right_by_slice, slices_that_lost

ALPHA = 0.05
REFERENCE, WINDOW = 2_000, 1_000
ACCURACY = 0.9
NUMBERS, LEVELS = 6, 2


def parts_of(columns: dict[str, list[object]], cuts: dict[str, Cut] | None = None) -> Parts:
    own = cuts or {name: Cut.of(column) for name, column in columns.items()}
    return Parts({name: own[name].labels(column) for name, column in columns.items()}, own)


def answers(random: np.random.Generator, n: int, loss: float, where: str) -> tuple[dict[str, list[object]], NDArray[np.float64]]:
    """Six numbers and two categories, and which answers are right: less often in a quarter of one column, or of a quarter of that."""
    numbers = random.normal(size=(NUMBERS, n))
    levels = random.choice(list("abcd"), (LEVELS, n))
    inside = (numbers[0] > 0.674) & ((levels[0] == "b") if where == "two columns" else True)
    columns: dict[str, list[object]] = {f"x{place}": column.tolist() for place, column in enumerate(numbers)}
    columns |= {f"c{place}": column.tolist() for place, column in enumerate(levels)}
    return columns, (random.random(n) < ACCURACY - loss * inside).astype(np.float64)


def of_slices(loss: float, where: str, seeds: Iterable[int]) -> Counter[str]:
    found: Counter[str] = Counter()
    for seed in seeds:
        random = np.random.default_rng([seed, 1])
        before, right_before = answers(random, REFERENCE, 0.0, where)
        now, right = answers(random, WINDOW, loss, where)
        reference = parts_of(before)
        lost = slices_that_lost(
            right_by_slice(reference, right_before), right_by_slice(parts_of(now, dict(reference.cuts)), right), margin=0.05
        )
        found["named"] += bool(lost)
        found["right first"] += bool(lost) and "x0=above" in lost[0].name
    return found


def rows(random: np.random.Generator, n: int, how: str, size: float) -> RowsKept:
    """Ten columns of four kinds; the first two go together by so much, or the sign of the third follows from theirs."""
    values = random.normal(size=(n, 10))
    if how == "correlation":
        values[:, 1] = size * values[:, 0] + np.sqrt(1 - size**2) * values[:, 1]
    if how == "three columns":
        follows = random.random(n) < size
        values[follows, 2] = np.abs(values[follows, 2]) * np.sign(values[follows, 0] * values[follows, 1])
    values[:, 3:5] = np.exp(values[:, 3:5])
    values[:, 5:7] = np.round(values[:, 5:7])
    values[random.random((n, 10)) < 0.02] = np.nan
    return RowsKept(tuple(f"x{place}" for place in range(10)), values.astype(np.float32))


def of_rows(how: str, size: float, seeds: Iterable[int]) -> Counter[str]:
    found: Counter[str] = Counter()
    for seed in seeds:
        random = np.random.default_rng([seed, 2])
        result = joint_drift(rows(random, 1_000, "", 0.0), rows(random, 1_000, how, size))
        assert result is not None
        found["significant"] += result.p <= LEVEL
        found["found"] += result.is_found
        found["pair"] += result.is_found and set(result.pair) == {"x0", "x1"}
        found["auc"] += round(1000 * result.auc)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=400)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    repeats = options.repeats
    seeds = range(options.first_seed, options.first_seed + repeats)
    parts = [seeds[first :: 4 * options.processes] for first in range(4 * options.processes)]
    held = True
    with Pool(options.processes) as pool:
        print(f"{WINDOW:,} rows against {REFERENCE:,}, {NUMBERS} numbers and {LEVELS} categories, {repeats} windows a line")
        print("| accuracy is less in | by | a part is named | the right one first |\n|---|--:|--:|--:|")
        for where, loss in (
            ("nothing", 0.0),
            ("one column", 0.1),
            ("one column", 0.15),
            ("two columns", 0.3),
            ("two columns", 0.4),
        ):
            found = sum(pool.map(partial(of_slices, loss, where), parts), Counter[str]())
            print(
                f"| {where} | {100 * loss:.0f} points | {found['named'] / repeats:.1%} | {found['right first'] / repeats:.1%} |",
                flush=True,
            )
            held &= loss > 0 or found["named"] <= binom.ppf(0.99, repeats, ALPHA)
        few = [part[: -(-len(part) // 8)] for part in parts]
        print(f"\n1,000 rows of ten columns against 1,000, {repeats} windows without drift, {sum(map(len, few))} with")
        print("| goes together | by | significant | found | the two columns named | mean AUC |\n|---|--:|--:|--:|--:|--:|")
        for how, size in (
            ("nothing", 0.0),
            ("correlation", 0.3),
            ("correlation", 0.5),
            ("correlation", 0.7),
            ("three columns", 0.6),
            ("three columns", 1.0),
        ):
            chosen = few if size else parts
            total = sum(map(len, chosen))
            found = sum(pool.map(partial(of_rows, how, size), chosen), Counter[str]())
            shares = " | ".join(f"{found[name] / total:.1%}" for name in ("significant", "found", "pair"))
            print(f"| {how} | {size:g} | {shares} | {found['auc'] / total / 1000:.2f} |", flush=True)
            held &= size > 0 or found["significant"] <= binom.ppf(0.99, repeats, LEVEL)
    print(f"held: {held}")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
