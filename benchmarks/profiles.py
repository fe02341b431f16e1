"""Measures how fast rows are counted into a profile, how large it is, and that memory does not depend on the number of rows.

    python benchmarks/profiles.py [--rows 20000000] [--repeats 20] [--core 0]

Speed is the median over repeats on one core. Exit status 1 where 100,000 rows of 20 numeric columns take 0.15 s or more, a feature takes more
than 2 KB, memory grows, or counts are not those of the rows. `--rows 100000000` takes about two minutes.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from harness.monitoring.profiles import Profile, compute_dataset_profile, profile_columns

PART = 1 << 16
SECONDS = 0.15
BYTES = 2048
GROWTH = 16.0
CITIES = np.array([f"city {number}" for number in range(500)], object)


def numeric(seed: int, rows: int = 100_000, columns: int = 20) -> dict[str, np.ndarray]:
    """Columns of four kinds: normal, skewed, tied, and with NaN."""
    rng = np.random.default_rng(seed)
    made: list[Callable[[], np.ndarray]] = [
        lambda: rng.standard_normal(rows),
        lambda: np.exp(3 * rng.standard_normal(rows)),
        lambda: rng.poisson(6, rows).astype(np.float64),
        lambda: np.where(rng.random(rows) < 0.05, np.nan, rng.standard_normal(rows)),
    ]
    return {f"column {number}": made[number % 4]() for number in range(columns)}


def features() -> dict[str, np.ndarray]:
    """A column of each kind that a profile knows."""
    rng = np.random.default_rng(0)
    return {
        **numeric(0, columns=4),
        "few levels": rng.choice(CITIES[:8], 100_000),
        "many levels": CITIES[rng.zipf(1.3, 100_000) % 500],
        "distinct texts": np.array([f"{number:x}" for number in rng.integers(0, 1 << 60, 100_000)], object),
        "embedding": rng.standard_normal((100_000, 64)).astype(np.float32),
    }


class Rows:
    """Rows that are made as they are read, and the same each time."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self.log: list[tuple[int, float]] = []

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        rng = np.random.default_rng(0)
        for start in range(0, self._rows, PART):
            rows = min(PART, self._rows - start)
            yield {
                "normal": rng.standard_normal(rows),
                "tied": rng.integers(0, 1000, rows) ** 2 / 7,
                "city": CITIES[rng.integers(0, 500, rows)],
            }
            self.log.append((start + rows, memory()))


def memory() -> float:
    """The most memory the process has taken so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def timed(call: Callable[[], Any], repeats: int) -> float:
    """Median seconds."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def speed(repeats: int) -> list[str]:
    reference_rows, window_rows = numeric(1), numeric(2)
    reference = profile_columns(reference_rows)
    taken = timed(lambda: profile_columns(window_rows, reference), repeats)
    print(
        f"100,000 rows x 20 numeric columns: window {taken:.3f} s, reference {timed(lambda: profile_columns(reference_rows), 3):.3f} s"
    )
    window = profile_columns(window_rows, reference)
    wrong = [name for name, values in window_rows.items() if not is_counted(window.features[name], values)]
    return [f"window took {taken:.3f} s"] * (taken >= SECONDS) + [f"{name}: wrong counts" for name in wrong]


def is_counted(counts: Any, values: np.ndarray) -> bool:
    """Whether counts are those of a plain search for each value."""
    finite = values[np.isfinite(values)]
    plain = np.bincount(np.searchsorted(counts.edges, finite, side="right"), minlength=len(counts.counts))
    return np.array_equal(plain, counts.counts) and counts.nan == np.isnan(values).sum()


def sizes() -> list[str]:
    profile = profile_columns(features())
    print("bytes a feature, of 100,000 rows:")
    found = {name: len(Profile.of(profile.n, {name: feature}, {}).to_bytes()) for name, feature in profile.features.items()}
    for name, size in found.items():
        print(f"  {name:<16}{size:>6}")
    return [f"{name} takes {size} bytes" for name, size in found.items() if size > BYTES]


def streaming(rows: int) -> list[str]:
    reference = compute_dataset_profile(Rows(min(rows, 2_000_000)))
    source = Rows(rows)
    start = time.perf_counter()
    window = compute_dataset_profile(source, reference=reference)
    seconds = time.perf_counter() - start
    made = timed(lambda: [None for _ in Rows(2_000_000)], 1) * rows / 2_000_000
    early, late = next(mb for done, mb in source.log if done >= rows / 20), source.log[-1][1]
    print(
        f"{rows:,} rows x 3 columns streamed: {seconds:.1f} s, of which about {made:.1f} s to make the rows; "
        f"memory {early:.0f} MB after a twentieth, {late:.0f} MB at the end"
    )
    start = time.perf_counter()
    whole = compute_dataset_profile(source)
    print(f"the same as a reference, read twice: {time.perf_counter() - start:.1f} s; memory {memory():.0f} MB at the end")
    problems = [f"memory grew by {late - early:.0f} MB"] * (late - early > GROWTH)
    problems += [f"memory grew by {memory() - late:.0f} MB for a reference"] * (memory() - late > 4 * GROWTH)
    return problems + ["rows were lost"] * (window.n != rows or whole.features["normal"].n != rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000_000, help="rows that are streamed")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--core", type=int, default=0, help="the one core to run on")
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {options.core})
    problems = [*speed(options.repeats), *sizes(), *streaming(options.rows)]
    print("\n".join(problems) or "all held")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
