"""Processor time of whole runs beside the `time_budget` they were given, on nets of the size people start from.

    python benchmarks/budget.py [NET ...] [--budget 120] [--tests]

Exits with 1 where a run takes more than a tenth more than its budget, imports included.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

NETS = ("resnet18", "unet", "siamese")
MOST = 1.1


def measure(net: str, budget: float, folder: Path) -> dict[str, Any]:
    """A whole run of a net: seconds of processor and wall, and what became of its tests."""
    module = importlib.import_module(f"nets.{net}")
    config = folder / f"{net}.json"
    config.write_text(json.dumps({**module.CONFIG, "model_file": str(module.__file__), "time_budget": budget}), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "--model-config", str(config), "-q", "-p", "no:cacheprovider"]
    environment = {**os.environ, "MODELTIERS_CACHE": str(folder / "cache")}
    before, started = _children(), time.perf_counter()
    done = subprocess.run(
        [*command, "--model-report", str(folder / net)], env=environment, cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode not in (0, 1):
        raise SystemExit(done.stdout + done.stderr)
    report = json.loads((folder / net / "health_report.json").read_text(encoding="utf-8"))
    return {
        "net": net,
        "budget": budget,
        "processor": round(_children() - before, 1),
        "wall": round(time.perf_counter() - started, 1),
        **report["summary"],
        "skipped": report.get("skipped", []),
        "coverage": report.get("coverage", ""),
        "checks": [[check["check_name"], check["status"], check["duration_seconds"]] for check in report["checks"]],
        "last": done.stdout.strip().splitlines()[-1],
    }


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("nets", nargs="*", default=list(NETS), metavar="NET", help=", ".join(NETS))
    parser.add_argument("--budget", type=float, default=120.0)
    parser.add_argument("--tests", action="store_true", help="print every test with its seconds")
    arguments = parser.parse_args()
    is_over = False
    with tempfile.TemporaryDirectory() as folder:
        for net in arguments.nets:
            found = measure(net, arguments.budget, Path(folder))
            is_over = is_over or found["processor"] > MOST * arguments.budget
            print(json.dumps(found if arguments.tests else {k: v for k, v in found.items() if k not in ("checks", "skipped")}))
    return int(is_over)


if __name__ == "__main__":
    sys.exit(main())
