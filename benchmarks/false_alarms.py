"""Runs tier 1 on ten real architectures over many seeds; every failure would be a false alarm.

python benchmarks/false_alarms.py --seeds 10
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path

import torch
from architectures import architectures

from harness.evidence import Status
from pytest_modeltiers.live import judge_model


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    table, failures = [], 0
    print(f"{'architecture':<12} {'seeds':>5} {'judged':>7} {'fail':>5} {'warn':>5} {'skip':>5} {'s/seed':>7}")
    for name, architecture in architectures().items():
        if options.only and name not in options.only:
            continue
        counts: Counter[Status] = Counter()
        notes: Counter[str] = Counter()
        started = time.perf_counter()
        for seed in range(options.seeds):
            for label, evidence in judge_model(architecture.factory, architecture.task, seed=seed).items():
                counts[evidence.status] += 1
                if evidence.status is not Status.OK:
                    notes[f"{evidence.status.value} {label}: {evidence.headline}"] += 1
        seconds = (time.perf_counter() - started) / options.seeds
        failures += counts[Status.FAIL]
        judged = counts.total() - counts[Status.SKIPPED]
        print(
            f"{name:<12} {options.seeds:>5} {judged:>7} {counts[Status.FAIL]:>5} {counts[Status.WARN]:>5} "
            f"{counts[Status.SKIPPED]:>5} {seconds:>7.2f}",
            flush=True,
        )
        for note, times in notes.items():
            print(f"    {times} × {note}")
        table.append({"architecture": name, "seeds": options.seeds, "notes": notes, **{s.value: counts[s] for s in Status}})
    if options.json:
        options.json.write_text(json.dumps(table, indent=2))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
