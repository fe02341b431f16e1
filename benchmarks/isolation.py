"""Whether isolation changes a verdict: configs judged with and without it, test by test.

    python benchmarks/isolation.py [CONFIG ...]        # by default the examples
    python benchmarks/isolation.py --k "causal or padding" my/configs/*.json

Each config is copied with its folder, so that nothing is written beside it. A check that is skipped in isolation, as it needs what is refused to
everybody, is listed and no difference. Exits with 1 where a test has another verdict.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from harness.config_file import read_keys

EXAMPLES = Path(__file__).parent.parent / "examples"


def verdicts(config: Path, isolated: bool, keyword: str) -> dict[str, str]:
    """The verdict of each test, by its name."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "copy"
        shutil.copytree(config.parent, folder, ignore=shutil.ignore_patterns(".git", "*.db", "checkpoints"))
        keys = {**read_keys(config), **({"isolation": "process"} if isolated else {})}
        (folder / "compared.json").write_text(json.dumps(keys), encoding="utf-8")
        command = [sys.executable, "-m", "pytest", "--model-config", "compared.json", "--model-hints", "0", "-q"]
        command += ["--modeltiers-json", "found.json", *(["-k", keyword] if keyword else [])]
        environment = {**os.environ, "MODELTIERS_CACHE": f"{name}/cache"}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        if not (folder / "found.json").is_file():
            return {"(collection)": (done.stdout.strip().splitlines() or ["nothing was printed"])[-1]}
        found = json.loads((folder / "found.json").read_text(encoding="utf-8"))
    skipped = {check["check_name"]: f"skipped: {check['reason']}" for check in found["skipped"]}
    return {**skipped, **{check["check_name"]: check["status"] for check in found["checks"]}}


def main() -> int:
    """Compares each config."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("configs", nargs="*", type=Path)
    parser.add_argument("--k", default="", help="tests, as of pytest's -k")
    arguments = parser.parse_args()
    compared = differ = refused = 0
    for config in arguments.configs or sorted(EXAMPLES.glob("*.json")):
        plain, isolated = (verdicts(config.absolute(), each, arguments.k) for each in (False, True))
        for test in sorted({*plain, *isolated}):
            before, now = plain.get(test, "not run"), isolated.get(test, "not run")
            if now.startswith("skipped: isolation refuses"):
                refused += 1
                print(f"{config.name}: {test}: {now}")
            else:
                compared += 1
                if before != now:
                    differ += 1
                    print(f"{config.name}: {test}: {before}, in isolation {now}")
    print(f"{compared} verdicts compared, {differ} differ; {refused} checks need what isolation refuses")
    return bool(differ) or not compared


if __name__ == "__main__":
    sys.exit(main())
