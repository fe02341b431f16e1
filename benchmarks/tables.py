"""Tables without a model: false findings on clean windows of five tables of scikit-learn, what is found of broken ones, and time and memory.

python benchmarks/tables.py [--windows N] [--rows N --columns N] [--evidently PYTHON]

``--rows`` and ``--columns`` are of the Parquet files that the commands are timed on. PYTHON is the interpreter of an environment of its own with
``evidently``, ``pandas<3`` and ``pyarrow``, where the same two files are read and judged by its default preset.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

TABLES = ("breast_cancer", "wine", "diabetes", "digits", "iris")
Columns = dict[str, Any]

EVIDENTLY = """
import sys, pandas
from evidently import Dataset, Report
from evidently.presets import DataDriftPreset
reference, window = map(pandas.read_parquet, sys.argv[1:])
print(Report([DataDriftPreset()]).run(Dataset.from_pandas(window), Dataset.from_pandas(reference)).dict()["metrics"][0]["value"])
"""


def table(name: str) -> Columns:
    """A table that scikit-learn ships, its target as a category."""
    from sklearn import datasets

    data = getattr(datasets, f"load_{name}")()
    names = getattr(data, "feature_names", range(data.data.shape[1]))
    return {**{str(each): data.data[:, place] for place, each in enumerate(names)}, "target": data.target.astype(str)}


def in_other_units(window: Columns, rng: np.random.Generator) -> Columns:
    """4% of the values of the first column are 1,000 times as large."""
    name = next(iter(window))
    return {**window, name: np.where(rng.random(len(window[name])) < 0.04, 1000 * (window[name] + 1), window[name])}


def without_a_column(window: Columns, rng: np.random.Generator) -> Columns:
    """The first column is gone."""
    return dict(list(window.items())[1:])


def sent_twice(window: Columns, rng: np.random.Generator) -> Columns:
    """A third of the rows is there twice."""
    return {name: np.concatenate([column, column[: len(column) // 3]]) for name, column in window.items()}


BROKEN: dict[str, Callable[[Columns, np.random.Generator], Columns]] = {
    "clean": lambda window, _: window,
    "4% x 1,000": in_other_units,
    "a column gone": without_a_column,
    "a third twice": sent_twice,
}


def rates(windows: int) -> None:
    """Prints how often windows are ok, warned of and failed, and what is found beside drift."""
    from harness.monitoring.tables import compare_table, profile_of_table

    rng = np.random.default_rng(0)
    for name in TABLES:
        whole = table(name)
        for how, broken in BROKEN.items():
            found: Counter[str] = Counter()
            for _ in range(windows):
                order = rng.permutation(len(whole["target"]))
                sides = [{each: column[half] for each, column in whole.items()} for half in (order[::2], order[1::2])]
                report = compare_table(broken(sides[1], rng), profile_of_table(sides[0]))
                found.update([report.status.value, *(each.code for each in report.findings)])
            shares = ", ".join(f"{each} {count / windows:.0%}" for each, count in sorted(found.items()))
            print(f"{name:<14} {how:<14} {shares}", flush=True)


STARTER = """
import os, subprocess, sys
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
print(usage.ru_utime + usage.ru_stime, usage.ru_maxrss // 1024, os.waitstatus_to_exitcode(status))
"""


def timed(*command: str) -> str:
    """Processor seconds and peak memory of a command, started by a small process: a child's peak begins with that of what starts it."""
    found = subprocess.run([sys.executable, "-c", STARTER, *command], stdout=subprocess.PIPE, text=True, check=True)
    seconds, megabytes, status = found.stdout.split()
    return f"{float(seconds):6.1f} s {int(megabytes):5} MB  (exit {status})"


def write(path: Path, rows: int, columns: int, seed: int) -> None:
    """A file of numbers and, in every fifth column, categories."""
    import pyarrow
    import pyarrow.parquet

    rng = np.random.default_rng(seed)
    writer = None
    for start in range(0, rows, 50_000):
        size = min(50_000, rows - start)
        made = {
            f"x{place}": rng.choice(list("abcdefgh"), size) if place % 5 == 4 else rng.standard_normal(size)
            for place in range(columns)
        }
        part = pyarrow.table(made)
        writer = writer or pyarrow.parquet.ParquetWriter(path, part.schema)
        writer.write_table(part)
    assert writer is not None
    writer.close()


def speed(rows: int, columns: int, evidently: str | None) -> None:
    """Prints time and memory of the commands, and of evidently on the same files."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("reference.parquet", "window.parquet")]
        for seed, file in enumerate(files):
            write(file, rows, columns, seed)
        command, db = [sys.executable, "-m", "harness"], f"{folder}/runs.db"
        print(f"{rows:,} rows, {columns:,} columns")
        print("profile          ", timed(*command, "profile", str(files[0]), "--name", "reference", "--db", db))
        print("monitor          ", timed(*command, "monitor", str(files[1]), "--reference", "reference", "--db", db))
        print("from both files  ", timed(*command, "monitor", str(files[1]), "--reference", str(files[0])))
        if evidently is not None:
            print("evidently        ", timed(evidently, "-c", EVIDENTLY, *map(str, files)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=100)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--columns", type=int, default=100)
    parser.add_argument("--evidently", metavar="PYTHON")
    arguments = parser.parse_args()
    if arguments.windows:
        rates(arguments.windows)
    if arguments.rows:
        speed(arguments.rows, arguments.columns, arguments.evidently)


if __name__ == "__main__":
    main()
