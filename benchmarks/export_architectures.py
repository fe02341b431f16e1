"""Tier 4 on ten real architectures: what exports, what agrees, and what the reason is where it does not.

python benchmarks/export_architectures.py --json out.json
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from architectures import architectures

from harness.export.export_model import run_tier4_export_validation
from harness.runtime import seeded

FORMATS = ("torchscript", "onnx", "pytorch", "safetensors", "torch_export")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", help="names of architectures")
    parser.add_argument("--json", type=Path, help="where the verdicts go")
    arguments = parser.parse_args()
    found = {}
    for name, architecture in architectures().items():
        if arguments.only and name not in arguments.only:
            continue
        started = time.perf_counter()
        with seeded(0):
            model = architecture.factory()
        found[name] = run_tier4_export_validation(model, None, architecture.task, formats=FORMATS)
        print(f"{name}: {found[name]['status']} in {time.perf_counter() - started:.1f} s", flush=True)
        for format in FORMATS:
            for check, verdict in found[name][format]["checks"].items():
                if verdict["status"] in ("warn", "fail"):
                    print(f"  {verdict['status']} {check}[{format}] {verdict['message']}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
