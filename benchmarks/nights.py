"""Real nights: how often windows of time-stamped tables fail and warn while nothing is broken, and what is found of broken ones.

python benchmarks/nights.py FILE:TIME:UNIT[:WITHOUT,…] … [--reference N] [--moving] [--only-chance] [--nights N] [--clean]

FILE is a CSV file, TIME its column of dates, UNIT what a window is (``day``, ``week``), and WITHOUT are columns left out, such as the
day of the month. The first N windows are the reference, or the N before each. Each later one is compared with it as it is, and after
changes that break it.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Columns = dict[str, Any]
_MISSING = ("", "NA")


def read(path: Path) -> Columns:
    """A CSV file as columns: numbers where all are."""
    import csv

    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    found: Columns = {}
    for name in rows[0]:
        cells = [row[name] for row in rows]
        try:
            found[name] = np.array([float("nan") if cell in _MISSING else float(cell) for cell in cells])
        except ValueError:
            found[name] = np.array([None if cell in _MISSING else cell for cell in cells], object)
    return found


def numbers(window: Columns) -> list[str]:
    """The columns of numbers with more than two values."""
    return [name for name, each in window.items() if each.dtype.kind == "f" and len(np.unique(each[np.isfinite(each)])) > 2]


def in_other_units(window: Columns) -> Columns:
    """All values of a column of numbers are 1,000 times as large."""
    name = numbers(window)[0]
    return {**window, name: 1000 * window[name]}


def without_a_column(window: Columns) -> Columns:
    """A column has no value."""
    name = numbers(window)[-1]
    return {**window, name: np.full(len(window[name]), np.nan)}


def without_a_level(window: Columns) -> Columns:
    """The rows of the most frequent level of a column are gone."""
    name = _levels(window)
    if not name:
        return window
    most = Counter(window[name].tolist()).most_common(1)[0][0]
    return {each: column[window[name] != most] for each, column in window.items()}


def _levels(window: Columns) -> str:
    """A column of few levels, each in a tenth of the rows or more, if there is one."""
    few = [name for name, each in window.items() if each.dtype.kind in "OM" or len(np.unique(each)) < 12]
    found = [name for name in few if len(set(window[name].tolist())) > 1 and name != "moment"]
    return min(found, key=lambda name: len(set(window[name].tolist())), default="")


def flipped(window: Columns) -> Columns:
    """The order of a column of numbers is turned round, as of a sensor whose sign is wrong."""
    name = numbers(window)[0]
    known = window[name][np.isfinite(window[name])]
    return {**window, name: known.min() + known.max() - window[name]}


def shifted(window: Columns) -> Columns:
    """All values of a column of numbers are one standard deviation larger."""
    name = numbers(window)[-1]
    return {**window, name: window[name] + np.nanstd(window[name])}


BROKEN: dict[str, Callable[[Columns], Columns]] = {
    "x 1,000": in_other_units,
    "column gone": without_a_column,
    "level gone": without_a_level,
    "sign turned": flipped,
    "+1 deviation": shifted,
}


def windows_of(table: Columns, time: str, unit: str, without: list[str]) -> list[Columns]:
    """The rows of each window, by time; windows of less than half the usual size are left out."""
    from harness.monitoring.profiles.windows import window_labels

    moments = np.array([str(each).replace("Z", "") for each in table[time]], "M8[us]")
    labels = window_labels(moments, unit)
    kept = {name: column for name, column in table.items() if name not in (*without, time)} | {"moment": moments}
    parts = [{name: column[labels == label] for name, column in kept.items()} for label in np.unique(labels)]
    usual = np.median([len(part["moment"]) for part in parts])
    return [part for part in parts if 2 * len(part["moment"]) > usual]


def joined(windows: list[Columns]) -> Columns:
    """Windows as one table."""
    return {name: np.concatenate([window[name] for window in windows]) for name in windows[0]}


def rates(name: str, windows: list[Columns], unit: str, given: argparse.Namespace) -> None:
    """Prints how many windows fail and warn as they are, and how many broken ones fail."""
    from harness.monitoring import DriftOptions
    from harness.monitoring.profiles import Profile
    from harness.monitoring.spread import SPREAD
    from harness.monitoring.tables import TableOptions, compare_table, profile_of_table

    found: Counter[str] = Counter()
    broken: Counter[str] = Counter()
    codes: Counter[str] = Counter()
    options, size, reference = DriftOptions(windows=given.nights), given.reference, None
    judged = range(size, len(windows))
    for place in judged:
        if reference is None or given.moving:
            reference = profile_of_table(joined(windows[place - size : place]), TableOptions(windows=f"moment:{unit}"))
            if given.only_chance:
                meta = {key: value for key, value in reference.meta.items() if key != SPREAD}
                reference = Profile.of(reference.n, reference.features, meta)
        report = compare_table(windows[place], reference, options=options)
        found[report.status.value] += 1
        codes.update(each.code for each in report.findings)
        codes.update(each.feature for each in report.drift.features if each.status.value == "fail")
        for how, change in ({} if given.clean else BROKEN).items():
            broken[how] += compare_table(change(windows[place]), reference, options=options).status.value == "fail"
    total = len(judged)
    seen = "" if given.clean else ", ".join(f"{how} {broken[how] / total:.0%}" for how in BROKEN)
    why = ", ".join(f"{code} {count}" for code, count in codes.most_common(6))
    print(
        f"| {name} | {total} {unit}s against {size}{' before each' if given.moving else ''} | {given.nights} | "
        f"{'chance' if given.only_chance else 'spread'} | {found['fail'] / total:.1%} | {found['warn'] / total:.1%} | {seen} | {why} |",
        flush=True,
    )


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="FILE:TIME:UNIT[:WITHOUT,...]")
    parser.add_argument("--reference", type=int, default=60, help="windows of the reference")
    parser.add_argument("--moving", action="store_true", help="the reference is the windows before each")
    parser.add_argument("--only-chance", action="store_true", help="no spread of the reference's windows is kept")
    parser.add_argument("--nights", type=int, default=1, help="how many windows share alpha")
    parser.add_argument("--clean", action="store_true", help="nothing is broken")
    parser.add_argument("--most", type=int, default=10**9, help="windows of the file that are looked at")
    given = parser.parse_args()
    for file in given.files:
        path, time, unit, *without = file.split(":")
        windows = windows_of(read(Path(path)), time, unit, without[0].split(",") if without else [])
        rates(Path(path).stem, windows[: given.most], unit, given)


if __name__ == "__main__":
    main()
