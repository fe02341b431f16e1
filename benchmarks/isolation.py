"""Whether isolation changes a verdict: configs judged with and without it, test by test.

    python benchmarks/isolation.py [CONFIG ...]        # by default the examples
    python benchmarks/isolation.py --k "causal or padding" my/configs/*.json
    board/bin/python benchmarks/isolation.py --packages 60 --k "shape_contract or gradient_flow"  # models of the board of packages
    python benchmarks/isolation.py --start 5           # what isolation adds to the processor time of a run of one test

Each config is copied with its folder, so that nothing is written beside it; of packages, a few are judged in one run of pytest. A check that is
skipped in isolation, as it needs what is refused to everybody, is listed and no difference. Exits with 1 where a test has another verdict, and
where isolation adds more than a second.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from harness.config_file import read_keys

_FOLDER = Path(__file__).resolve().parent.parent / "examples"
EXAMPLES = sorted(found for kind in ("*.json", "*/*.json", "*/*.toml") for found in _FOLDER.glob(kind))
_PACKAGES_AT_ONCE = 5
_MOST_ADDED = 1.0

Verdicts = dict[tuple[str, str], str]
"""By the config's label and the test's name."""


def verdicts(configs: Sequence[tuple[str, Path]], isolated: bool, keyword: str) -> Verdicts:
    """The verdicts on some configs, each given with a label."""
    found: Verdicts = {}
    with tempfile.TemporaryDirectory() as name:
        options: list[str] = []
        for place, (_, config) in enumerate(configs):
            kept = _FOLDER if _FOLDER in config.resolve().parents else config.parent  # one example reads the data of another
            copied = Path(name) / f"c{place}"
            shutil.copytree(kept, copied, ignore=shutil.ignore_patterns(".git", "*.db", "checkpoints"))
            folder = copied / config.resolve().parent.relative_to(kept.resolve())
            keys = {**read_keys(config), **({"isolation": "process"} if isolated else {})}
            (folder / f"compared{place}.json").write_text(json.dumps(keys), encoding="utf-8")
            options += ["--model-config", str((folder / f"compared{place}.json").relative_to(name))]
        done = pytest_run(Path(name), [*options, "--model-report", "out", *(["-k", keyword] if keyword else [])])
        for place, (label, _) in enumerate(configs):
            report = Path(name) / "out" / (f"compared{place}" if len(configs) > 1 else "") / "health_report.json"
            if not report.is_file():
                found[label, "(collection)"] = (done.stdout.strip().splitlines() or ["nothing was printed"])[-1]
                continue
            read = json.loads(report.read_text(encoding="utf-8"))
            found |= {(label, check["check_name"]): f"skipped: {check['reason']}" for check in read["skipped"]}
            found |= {(label, check["check_name"]): check["status"] for check in read["checks"]}
    return found


def pytest_run(folder: Path, options: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """A run of pytest in a folder, with its own cache."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--continue-on-collection-errors",
        "--model-hints",
        "0",
        *options,
    ]
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment = {**kept, "MODELTIERS_CACHE": str(folder / "cache")}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def of_packages(folder: Path, number: int) -> Iterator[tuple[str, Path]]:
    """Configs of models of the board of packages, one of each package in turn."""
    from packages.entries import ENTRIES
    from packages.run import in_turns

    for entry in islice(in_turns([entry for entry in ENTRIES if entry.task]), number):
        own = folder / entry.key.replace(",", "")
        own.mkdir()
        (own / "model.py").write_text(entry.model_file, encoding="utf-8")
        (own / "config.json").write_text(json.dumps({**entry.task, "model_file": "model.py", "tier": "1"}), encoding="utf-8")
        yield entry.key, own / "config.json"


def compare(configs: Sequence[tuple[str, Path]], keyword: str, at_once: int) -> int:
    """Prints each difference, and how many there are."""
    compared = differ = refused = 0
    for first in range(0, len(configs), at_once):
        some = configs[first : first + at_once]
        plain, isolated = (verdicts(some, each, keyword) for each in (False, True))
        for config in some if len(some) > 1 else ():
            if _of(config[0], plain) != _of(config[0], isolated):
                # Without isolation the packages of models judged before are imported already, and what that changes is said of those.
                plain |= verdicts([config], False, keyword)
        for label, test in sorted({*plain, *isolated}):
            before, now = (found.get((label, test), "not run") for found in (plain, isolated))
            if now.startswith("skipped: isolation refuses"):
                refused += 1
                print(f"{label}: {test}: {now}", flush=True)
            else:
                compared += 1
                if before != now:
                    differ += 1
                    print(f"{label}: {test}: {before}, in isolation {now}", flush=True)
        print(f"{first + len(some)} of {len(configs)} models: {compared} verdicts, {differ} differ", flush=True)
    print(f"{compared} verdicts compared, {differ} differ; {refused} checks need what isolation refuses")
    return int(bool(differ) or not compared)


def _of(label: str, found: Verdicts) -> dict[str, str]:
    return {test: verdict for (config, test), verdict in found.items() if config == label}


def start(rounds: int) -> int:
    """Prints the least processor time of a run of one test with and without isolation, in turns."""
    least = {"plain": float("inf"), "isolated": float("inf")}
    with tempfile.TemporaryDirectory() as name:
        keys = {"task_name": "lm_tiny", "tier": "1"}
        for kind, more in (("plain", {}), ("isolated", {"isolation": "process"})):
            (Path(name) / f"{kind}.json").write_text(json.dumps({**keys, **more}), encoding="utf-8")
        for _ in range(rounds):
            for kind in least:
                before = _used()
                pytest_run(Path(name), ["--model-config", f"{kind}.json", "-k", "shape_contract"])
                least[kind] = min(least[kind], _used() - before)
    added = least["isolated"] - least["plain"]
    print(f"a run of one test: {least['plain']:.2f} s, in isolation {least['isolated']:.2f} s: {added:.2f} s more")
    return int(added > _MOST_ADDED)


def _used() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> int:
    """Compares each config."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("configs", nargs="*", type=Path)
    parser.add_argument("--k", default="", help="tests, as of pytest's -k")
    parser.add_argument("--packages", type=int, default=0, help="so many models of the board of packages, in its environment")
    parser.add_argument("--start", type=int, default=0, help="measure the start only, so many times")
    arguments = parser.parse_args()
    if arguments.start:
        return start(arguments.start)
    with tempfile.TemporaryDirectory() as folder:
        given = [
            (f"{config.absolute().parent.name}/{config.name}", config.absolute()) for config in arguments.configs or EXAMPLES
        ]
        if arguments.packages:
            return compare(list(of_packages(Path(folder), arguments.packages)), arguments.k, _PACKAGES_AT_ONCE)
        return compare(given, arguments.k, 1)


if __name__ == "__main__":
    sys.exit(main())
