"""``init`` and the suite on files of public repositories that nobody chose: each has a class, and an example of a call.

The folder holds files as collections of modules have them (paritybench, KernelBench, KernelBook): ``7_Class.py``, with ``get_inputs()`` and
``get_init_inputs()`` behind the class. Some are drawn at random; losses, metrics and distances, which are no models, are left out by name.

With ``--init``, a file is cut before its example, and ``modeltiers init`` has to find out how the class is made and called. Without, a config of
two keys judges the class with its example. What is red is to be reviewed by hand, as nobody promised anything of these files.

    python benchmarks/public_files.py FOLDER --count 60 --seed 52 --init
    python benchmarks/public_files.py FOLDER --count 60 --seed 62 --tier 1 4
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

_NO_MODEL = re.compile(r"Loss|Criterion|Distance|Dice|Metric|Accuracy")
_EXAMPLE = "\ndef get_inputs("

_MADE = """

def build_model():
    arguments, named = get_init_inputs()
    return {name}(*arguments, **named)


def example_inputs():
    return tuple(get_inputs())
"""

_HELPERS = """
from types import SimpleNamespace


class _mock_config(SimpleNamespace):
    def __getitem__(self, name):
        return getattr(self, name)

    def get(self, name, default=None):
        return getattr(self, name, default)

    def __contains__(self, name):
        return hasattr(self, name)
"""
"""Settings as paritybench writes them in the arguments of a class."""


def main() -> int:
    """Prints a line for each file, its findings, and how many there are of each outcome; 1 where a check of ours failed by itself."""
    options = _options()
    files = sorted(file for file in options.folder.glob("*.py") if not _NO_MODEL.search(file.stem))
    random.Random(options.seed).shuffle(files)
    outcomes: Counter[str] = Counter()
    for file in files[: options.count]:
        begun = perf_counter()
        with tempfile.TemporaryDirectory() as name:
            judge = _initialised if options.init else _judged
            outcome, lines = judge(file, Path(name), options.limit, options.tier)
        outcomes[outcome] += 1
        print(f"{outcome:8} {perf_counter() - begun:5.1f} s  {file.stem}", *lines, sep="\n    ", flush=True)
    print(", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common()), f"of {outcomes.total()}")
    return int("broken" in outcomes)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--init", action="store_true", help="without the example")
    parser.add_argument("--tier", nargs="+", default=["1"])
    parser.add_argument("--limit", type=float, default=240.0, help="seconds a file")
    return parser.parse_args()


def _initialised(file: Path, folder: Path, limit: float, _tiers: Sequence[str]) -> tuple[str, list[str]]:
    """``config`` where one was written, ``asked`` where an option was asked for, else ``refused``; how it is called, or why not."""
    text = file.read_text(encoding="utf-8").partition(_EXAMPLE)[0]
    (folder / "model.py").write_text("".join(line for line in text.splitlines(True) if "_paritybench_helpers" not in line))
    code, said = _run([sys.executable, "-m", "harness", "init", "model.py", "--no-run"], folder, limit)
    if code == 0:
        return "config", [line.strip() for line in said.splitlines() if "called with" in line or "guessed arguments" in line]
    why = [line.strip() for line in said.splitlines() if line.startswith("  ")][:1]
    if code not in (2, 124):
        return "broken", said.splitlines()[-3:]
    return "asked" if re.search(r"Say it.*--(?:input|arg) (?!NAME)", said) else "refused", why


def _judged(file: Path, folder: Path, limit: float, tiers: Sequence[str]) -> tuple[str, list[str]]:
    """``green``, or ``red`` with the findings; ``broken`` where a check raised; ``refused`` where the model cannot be made or called."""
    made = _MADE.format(name=file.stem.partition("_")[2])
    (folder / "_paritybench_helpers.py").write_text(_HELPERS)
    (folder / "model.py").write_text(file.read_text(encoding="utf-8") + made, encoding="utf-8")
    (folder / "cfg.json").write_text(json.dumps({"model": "model.py", "tier": list(tiers)}))
    command = [sys.executable, "-m", "pytest", "-q", "--model-config", "cfg.json", "--model-report", "report"]
    code, said = _run(command, folder, limit)
    report = folder / "report" / "health_report.json"
    if not report.exists():
        return "refused", [line for line in said.splitlines() if "Error" in line or "raised" in line][:1] or [
            f"exit status {code}"
        ]
    checks = json.loads(report.read_text(encoding="utf-8"))["checks"]
    red = [check for check in checks if check["status"] in ("failed", "error") and "shown_under" not in check["details"]]
    is_ours = "internal error" in said or any(check["status"] == "error" for check in red)
    return "broken" if is_ours else "red" if red else "green", [f"{check['check_name']}: {check['message']}" for check in red]


def _run(command: Sequence[str], folder: Path, limit: float) -> tuple[int, str]:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired as expired:
        return 124, (expired.stdout or b"").decode(errors="replace")
    return done.returncode, done.stdout + done.stderr


if __name__ == "__main__":
    sys.exit(main())
