"""Measures what the installed but unused plugin adds to ``pytest --collect-only``, and what it imports.

    python benchmarks/overhead.py [--pairs 30]

Runs come in pairs, with and without the plugin, in turn; the figure is the median of the pairs' differences, with the order statistics
that bound the true median at 95%.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TEST = "def test_nothing():\n    pass\n"


def run(folder: Path, *options: str) -> float:
    begin = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", *options], cwd=folder, capture_output=True, check=True
    )
    return (time.perf_counter() - begin) * 1e3


def imported(folder: Path) -> list[str]:
    code = (
        "import pytest, sys; pytest.main(['--collect-only', '-q']); print([m for m in ('torch', 'harness') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    return eval(done.stdout.strip().splitlines()[-1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=30)
    pairs = parser.parse_args().pairs
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "test_nothing.py").write_text(TEST)
        run(folder), run(folder, "-p", "no:modeltiers")
        differences, bases = [], []
        for number in range(pairs):
            # The order alternates, so that a machine that slows down or speeds up favours neither.
            first, second = ((), ("-p", "no:modeltiers")) if number % 2 else (("-p", "no:modeltiers"), ())
            times = {options: run(folder, *options) for options in (first, second)}
            bases.append(times["-p", "no:modeltiers"])
            differences.append(times[()] - bases[-1])
        heavy = imported(folder)
    differences.sort()
    slack = int(0.98 * pairs**0.5)
    low, high = differences[max(0, pairs // 2 - slack)], differences[min(pairs - 1, pairs // 2 + slack)]
    print(f"without the plugin: median {statistics.median(bases):.0f} ms")
    print(f"the plugin adds:    median {statistics.median(differences):+.1f} ms (95%: {low:+.1f} to {high:+.1f}), {pairs} pairs")
    print(f"heavy imports:      {heavy or 'none'}")
    return 1 if heavy else 0


if __name__ == "__main__":
    sys.exit(main())
