"""Seconds of one processor to judge 100,000 rows of 20 numeric features, one of which has moved by 0.3 standard deviations.

python benchmarks/drift_speed.py [--evidently PYTHON]

PYTHON is the interpreter of an environment of its own with ``evidently`` and ``pandas<3``, where the same rows are judged by its preset.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

ROWS, FEATURES, REPEATS = 100_000, 20, 5
MOST_SECONDS, LEAST_RATIO = 0.25, 10

Columns = dict[str, NDArray[np.float64]]


def columns(seed: int, move: float = 0.0) -> Columns:
    rng = np.random.default_rng(seed)
    return {f"x{place}": rng.lognormal(0.0 if place else move, 1.0, ROWS) for place in range(FEATURES)}


def seconds(judge: Callable[[], list[str]]) -> tuple[float, list[str]]:
    """Processor time, the median of five, and what was named."""
    times = []
    for _ in range(REPEATS):
        started = time.process_time()
        named = judge()
        times.append(time.process_time() - started)
    return statistics.median(times), named


def here() -> tuple[float, list[str]]:
    from harness.monitoring.drift import compare_profiles
    from harness.monitoring.profiles import profile_columns

    reference, window = profile_columns(columns(0)), columns(1, move=0.3)
    return seconds(lambda: compare_profiles(reference, profile_columns(window, reference)).names("fail"))


def evidently() -> tuple[float, list[str]]:
    import pandas
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    reference, window = pandas.DataFrame(columns(0)), pandas.DataFrame(columns(1, move=0.3))
    definition = DataDefinition(numerical_columns=list(reference.columns))

    def judge() -> list[str]:
        sides = [Dataset.from_pandas(side, definition) for side in (window, reference)]
        found = Report([DataDriftPreset()]).run(*sides).dict()["metrics"]
        return [f"{found[0]['value']['count']:.0f} of {FEATURES} columns"]

    return seconds(judge)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evidently", metavar="PYTHON")
    parser.add_argument("--there", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.there:
        print(*evidently())
        return 0
    spent, named = here()
    print(f"{spent:.3f} s of processor time, named {named}")
    held = spent < MOST_SECONDS
    if options.evidently:
        said = subprocess.run([options.evidently, __file__, "--there"], check=True, capture_output=True, text=True).stdout
        taken, _, drifted = said.splitlines()[-1].partition(" ")
        print(f"evidently: {float(taken):.2f} s, {drifted}: {float(taken) / spent:.0f} times as long")
        held = held and float(taken) >= LEAST_RATIO * spent
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
