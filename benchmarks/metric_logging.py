"""Measures how fast processes log metrics to one database at once, and that none fails and no row is lost.

    python benchmarks/metric_logging.py [--rows 10000] [--processes 8] [--db PATH_OR_URL]

The clock starts when every process has imported what it needs, and stops when the last has ended its run: opening the database (which the
first of them makes), logging a row at a time, writing. Exit status 1 where a process fails, or a row is missing, doubled or changed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from harness.experiments import ExperimentDB

NAME = f"metric-logging-{time.time_ns()}"


def write(name: str, index: int, address: str, rows: int, start: Any, seconds: Any) -> None:
    start.wait()
    with ExperimentDB(address) as db, db.start_run(f"{name}-{index}") as run:
        begin = time.perf_counter()
        for step in range(rows):
            run.log_metric("loss", 1 / (step + 1), step=step)
        seconds.put((time.perf_counter() - begin) / rows)


def wrong(db: ExperimentDB, name: str, index: int, rows: int) -> str:
    """What is wrong with the rows of a process; empty where nothing is."""
    columns = db.get_metrics(f"{name}-{index}")
    if columns.step != list(range(rows)):
        return f"process {index}: {len(columns)} rows of {rows}, or in another order"
    if columns.value.tolist() != [1 / (step + 1) for step in range(rows)]:
        return f"process {index}: values that were not logged"
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000, help="rows of all processes together")
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--db", help="a file or a URL; by default a new SQLite file")
    options = parser.parse_args()
    each = options.rows // options.processes
    with tempfile.TemporaryDirectory() as folder:
        address = options.db or str(Path(folder) / "experiments.db")
        context = get_context("spawn")
        start, seconds = context.Barrier(options.processes + 1), context.SimpleQueue()
        processes = [
            context.Process(target=write, args=(NAME, index, address, each, start, seconds)) for index in range(options.processes)
        ]
        for process in processes:
            process.start()
        start.wait()
        begin = time.perf_counter()
        for process in processes:
            process.join()
        took = time.perf_counter() - begin
        failed = sum(process.exitcode != 0 for process in processes)
        with ExperimentDB(address) as db:
            faults = [f"{failed} processes failed"] if failed else []
            faults += (
                [fault for index in range(options.processes) if (fault := wrong(db, NAME, index, each))] if not failed else []
            )
        calls = [] if failed else [seconds.get() for _ in processes]
    print(
        f"{each * options.processes} rows by {options.processes} processes: {took:.2f} s, {each * options.processes / took:,.0f} rows/s"
    )
    if calls:
        print(
            f"a call of log_metric takes {statistics.median(calls) * 1e6:.0f} µs in the loop that logs (median of the processes)"
        )
    print("\n".join(faults) or "no process failed, every row is there as it was logged")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
