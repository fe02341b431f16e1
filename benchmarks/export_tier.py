"""Tier 4 of a config with an empty cache and again with a full one: seconds of both, and their ratio.

    python benchmarks/export_tier.py [CONFIG]

Exits with 1 where the first run takes more than 60 s, or the second more than a third of it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LONGEST, SHARE = 60.0, 1 / 3


def run(config: Path, cache: str) -> float:
    """Seconds of a whole run, imports included."""
    command = [sys.executable, "-m", "pytest", "--model-config", str(config), "-m", "tier4", "-q", "-p", "no:cacheprovider"]
    started = time.perf_counter()
    done = subprocess.run(command, env={**os.environ, "MODELTIERS_CACHE": cache}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stdout)
    return time.perf_counter() - started


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("config", nargs="?", type=Path, default=Path(__file__).parent.parent / "examples" / "lm_tiny_export.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / arguments.config.name
        content = json.loads(arguments.config.read_text(encoding="utf-8"))
        content["export"]["export_dir"] = str(Path(folder) / "exports")
        copy.write_text(json.dumps(content), encoding="utf-8")
        cold, warm = (run(copy, f"{folder}/cache") for _ in range(2))
    print(json.dumps({"cold_seconds": round(cold, 1), "warm_seconds": round(warm, 1), "share": round(warm / cold, 3)}))
    return int(cold > LONGEST or warm > SHARE * cold)


if __name__ == "__main__":
    sys.exit(main())
