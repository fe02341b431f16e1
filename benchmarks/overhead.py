"""Measures what the installed but unused plugin adds to ``pytest --collect-only``, and what it imports.

    python benchmarks/overhead.py [--pairs 40]

Runs come in pairs, with and without the plugin, in turn and in changing order. Other plugins are left out, as their imports would drown
the difference. The figure is processor time (user and system) of the whole process: the median of the pairs' differences, with the order
statistics that bound the true median at 95%.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import entry_points
from pathlib import Path

TEST = "def test_nothing():\n    pass\n"


OTHERS = tuple(
    option
    for entry in sorted(entry_points(group="pytest11"))
    if entry.name != "modeltiers"
    for option in ("-p", f"no:{entry.name}")
)
WITH = OTHERS
WITHOUT = (*OTHERS, "-p", "no:modeltiers")


def run(folder: Path, *options: str) -> float:
    """Milliseconds of processor time."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", *options]
    subprocess.run(command, cwd=folder, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1e3


def import_cost(times: int = 15) -> float:
    """Median milliseconds that importing what an unused plugin imports takes, in fresh processes that have pytest already."""
    code = (
        "import pytest, time; begin = time.perf_counter(); import pytest_modeltiers.plugin, pytest_modeltiers.checks; "
        "print((time.perf_counter() - begin) * 1e3)"
    )
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout for _ in range(times)]
    return statistics.median(map(float, runs))


def imported(folder: Path) -> list[str]:
    code = (
        "import pytest, sys; pytest.main(['--collect-only', '-q']); print([m for m in ('torch', 'harness') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    return eval(done.stdout.strip().splitlines()[-1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=40)
    pairs = parser.parse_args().pairs
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "test_nothing.py").write_text(TEST)
        run(folder, *WITHOUT), run(folder, *WITH)
        differences, bases = [], []
        for number in range(pairs):
            order = (WITHOUT, WITH) if number % 2 else (WITH, WITHOUT)
            times = {options: run(folder, *options) for options in order}
            bases.append(times[WITHOUT])
            differences.append(times[WITH] - times[WITHOUT])
        heavy = imported(folder)
    differences.sort()
    slack = int(0.98 * pairs**0.5)
    low, high = differences[max(0, pairs // 2 - slack)], differences[min(pairs - 1, pairs // 2 + slack)]
    print(f"without the plugin: median {statistics.median(bases):.0f} ms")
    print(f"the plugin adds:    median {statistics.median(differences):+.1f} ms (95%: {low:+.1f} to {high:+.1f}), {pairs} pairs")
    print(f"its imports take:   median {import_cost():.1f} ms")
    print(f"heavy imports:      {heavy or 'none'}")
    return 1 if heavy else 0


if __name__ == "__main__":
    sys.exit(main())
