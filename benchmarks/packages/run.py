"""Runs the board: each entry in a fresh process, through `modeltiers init` and tiers 1 to 4; resumable.

    python benchmarks/packages/run.py [WORD ...] [--work DIR] [--budget 25] [--again]
    python benchmarks/packages/run.py [WORD ...] [--work DIR] --init      # what `modeltiers init` makes of them, and tier 1 of that
    python benchmarks/packages/run.py --init --helped                     # the same with the `help_line` of those that need one

Needs the packages of `requirements.txt` beside this project, in an environment of their own. Entries whose result lies in DIR or in
`results.json` are not run again. At the end `results.json` and `results.md` are written; exits with 1 where a red line is ours, or nobody
has reviewed it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from packages.entries import ENTRIES
from packages.entry import Entry
from packages.table import help_figures, recorded_rows, result_of, write_results

_PATIENCE = 40
"""By the clock, as a multiple of the budget: the cores may be shared."""

_FOR_INIT = 25.0
"""The same, of a run of `init` only."""


def in_turns(entries: Sequence[Entry]) -> Iterator[Entry]:
    """The entries, one of each package in turn, so that a run that is stopped has seen all packages."""
    packages: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        packages[entry.package].append(entry)
    return (entry for entry in chain.from_iterable(zip_longest(*packages.values())) if entry is not None)


def run(entry: Entry, folder: Path, budget: float, helped: bool = False) -> dict[str, Any]:
    """The result of one entry; with a budget of 0 what `init` made of it, and tier 1 of the config that it wrote."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    benchmarks = Path(__file__).parent.parent
    paths = os.pathsep.join([str(benchmarks), str(benchmarks.parent)])
    environment = {
        **os.environ,
        "PYTHONPATH": paths,
        "MODELTIERS_CACHE": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # installed or not, the plugin is loaded once, by name
    }
    command = [sys.executable, "-m", "packages.child", entry.key, str(folder), str(budget), *(["helped"] if helped else [])]
    with (folder / "log").open("w", encoding="utf-8") as log:
        try:
            status = subprocess.run(
                command,
                cwd=folder,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=_PATIENCE * (budget or _FOR_INIT),
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            status = -1
    shutil.rmtree(folder / "cache", ignore_errors=True)
    file = folder / "found.json"
    found = (
        json.loads(file.read_text(encoding="utf-8"))
        if file.is_file()
        else {"error": f"ended with status {status}", "log": str(folder / "log")}
    )
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=benchmarks, capture_output=True, text=True, check=False
    ).stdout.strip()
    return {"key": entry.key, "commit": commit, "model": entry.model_file, "task": dict(entry.task), "budget": budget, **found}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("words", nargs="*", help="only entries whose name holds one of these")
    parser.add_argument("--work", type=Path, default=Path("board"), help="where results are kept (./board)")
    parser.add_argument("--budget", type=float, default=25.0)
    parser.add_argument("--again", action="store_true", help="run what has a result, too")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no entry after so many")
    parser.add_argument(
        "--init",
        action="store_true",
        help="run `modeltiers init` and tier 1 of what it wrote only, and put the outcome into the rows there are",
    )
    parser.add_argument("--helped", action="store_true", help="with --init: of the entries with a `help_line`, with that line")
    parser.add_argument("--table", action="store_true", help="write the tables only")
    arguments = parser.parse_args()
    work, end = arguments.work.resolve(), time.monotonic() + 60 * arguments.minutes
    results = work / ("helped" if arguments.helped else "init") if arguments.init else work
    results.mkdir(parents=True, exist_ok=True)
    recorded = {} if arguments.init else recorded_rows()
    for entry in in_turns([entry for entry in ENTRIES if entry.task and (entry.help_line or not arguments.helped)]):
        file = results / f"{entry.key}.json"
        is_wanted = not arguments.words or any(word in entry.key for word in arguments.words)
        is_done = entry.key in recorded or result_of(entry, results) is not None
        if arguments.table or not is_wanted or (is_done and not arguments.again) or time.monotonic() > end:
            continue
        found = run(entry, work / "runs" / entry.key, 0.0 if arguments.init else arguments.budget, arguments.helped)
        file.write_text(json.dumps(found, indent=1), encoding="utf-8")
        summary = found.get("summary") or found.get("error", "").strip().splitlines()[-1:]
        print(entry.key, "init", found.get("init", {}).get("status"), summary, f"{found.get('processor')} s", flush=True)
    status = write_results(work)
    if arguments.init:
        print(help_figures())
    return status


if __name__ == "__main__":
    sys.exit(main())
