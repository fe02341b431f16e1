"""Seconds, calls and peak memory of whole runs on models from 0.8 million to 70 billion parameters.

    python benchmarks/large.py [--row NAME ...] [--device cuda] [--budget SECONDS] [--broken-layer N] [--tests]

Every row runs in a process of its own, whose peak resident memory is printed, imports included; on a GPU that of the device is
printed too. Exits with 1 where a row does not reach what it is held to. A model that does not fit is planned, not run, and so is one of
several GiB whose plan takes longer than the row may; the plan says which tests are left out, and why. All but `lm_tiny`
are built with `transformers`, with random weights: pip install -e ".[huggingface]".
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
GIB = 1 << 30
NOTES = "MODELTIERS_LARGE_NOTES"


@dataclass(frozen=True)
class Row:
    """A run, and what it is held to.

    Attributes:
        config: The config; ``model_file`` is added where it has a ``model_factory``.
        tiers: The tiers that run; none for a model that is planned only.
        weights: Bytes of the model's weights.
        seconds: Most seconds by the clock.
        times: Most memory, in times of the weights.
        gib: Most memory in GiB.
        calls: Most calls of the model.
    """

    config: dict[str, Any]
    tiers: tuple[int, ...] = (1,)
    weights: int = 0
    seconds: float = 0.0
    times: float = 0.0
    gib: float = 0.0
    calls: int = 0


_GPT2 = {"task_type": "causal_lm", "vocab_size": 50257, "max_seq_len": 256, "model_factory": "gpt2"}
_LLAMA = {"task_type": "causal_lm", "vocab_size": 32000, "max_seq_len": 256, "model_factory": "llama"}

ROWS = {
    "lm_tiny": Row({"task_name": "lm_tiny"}, seconds=5, calls=250),
    "lm_tiny, tier 4": Row({"task_name": "lm_tiny"}, (4,), seconds=10),
    "lm_tiny, all tiers": Row({"task_name": "lm_tiny"}, (1, 2, 3, 4), seconds=25),
    "gpt2": Row(_GPT2, (1, 2), weights=4 * 124_439_808, seconds=40, times=3),
    "llama-1.5b": Row({**_LLAMA, "model_kwargs": {"size": "1.5b"}}, weights=2 * 1_452_394_496, seconds=360, times=1.6),
    "llama-7b": Row({**_LLAMA, "model_kwargs": {"size": "7b"}}, weights=2 * 6_738_415_616, seconds=1200, gib=24),
    "llama-70b": Row({**_LLAMA, "model_kwargs": {"size": "70b"}}, (), weights=2 * 68_976_648_192, seconds=60, gib=2),
}


def measure(name: str, row: Row, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Runs a row: what it took, and what became of its tests."""
    config = _config(name, row, options)
    path = folder / "config.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    planned = None if row.config.get("model_factory") is None else _plan(path, folder)
    if planned is not None and (not row.tiers or not planned["is_possible"] or (row.gib and not _has_time(row, planned))):
        took = planned.pop("took")
        return {"row": name, **took, **_failures(row, took, None), "plan": planned}
    command = [sys.executable, "-m", "pytest", "--model-config", str(path), "-q", "-p", "no:cacheprovider", "-n", "0"]
    command += ["-p", Path(__file__).stem, "--model-report", str(folder / "report"), *(["-k", options.k] if options.k else [])]
    said, took = _run(command, folder, {"MODELTIERS_CACHE": str(folder / "cache"), NOTES: str(folder / "notes.json")})
    report = json.loads((folder / "report" / "health_report.json").read_text(encoding="utf-8"))
    notes = json.loads((folder / "notes.json").read_text(encoding="utf-8"))
    # Forgetting the peak before each test makes `ru_maxrss` forget it too.
    took["peak_gib"] = max([took["peak_gib"], *(each.get("peak_gib", 0.0) for each in notes["tests"].values())])
    calls = sum(each.get("forwards", 0) for each in notes["tests"].values())
    return {
        "row": name,
        **took,
        "times_weights": round(took["peak_gib"] * GIB / row.weights, 2) if row.weights else None,
        "device_peak_gib": notes["device_peak_gib"],
        "calls": calls,
        "rows": sum(each.get("rows", 0) for each in notes["tests"].values()),
        **_failures(row, took, calls),
        **report["summary"],
        "cut": [test for test, each in notes["tests"].items() if each.get("cut")],
        "left_out": {each["check_name"]: each["reason"] for each in report["skipped"]},
        "red": {each["check_name"]: each["message"] for each in report["checks"] if each["status"] in ("failed", "warning")},
        "last": said.strip().splitlines()[-1],
        **({"tests": notes["tests"]} if options.tests else {}),
    }


def _config(name: str, row: Row, options: argparse.Namespace) -> dict[str, Any]:
    config: dict[str, Any] = {**row.config, "tier": [str(tier) for tier in row.tiers or (1, 2)]}
    if "model_factory" in config:
        config["model_file"] = str(HERE / "nets" / "language_models.py")
    if options.broken_layer is not None:
        layers = {"layers": 24} if name == "gpt2" else {}
        config["model_kwargs"] = {**config.get("model_kwargs", {}), **layers, "broken_layer": options.broken_layer}
    return config | {key: value for key, value in (("device", options.device), ("time_budget", options.budget)) if value}


def _plan(config: Path, folder: Path) -> dict[str, Any]:
    said, took = _run([sys.executable, "-m", "harness", "plan", "--json", str(config)], folder, {})
    plan: dict[str, Any] = json.loads(said.strip().splitlines()[-1])
    shown = ("problem", "tests", "left_out", "number_of_calls", "seconds", "peak", "is_possible", "machine", "steps")
    return {"took": took, **{name: plan[name] for name in shown}}


def _has_time(row: Row, planned: dict[str, Any]) -> bool:
    """Whether the tests that are left, by their plan, take no longer than the row may."""
    return float(planned["seconds"]) / planned["machine"]["cores"] <= row.seconds


def _run(command: list[str], folder: Path, environment: dict[str, str]) -> tuple[str, dict[str, Any]]:
    """Runs a command: what it printed, and what it took."""
    paths = os.pathsep.join(filter(None, (str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH"))))
    began = time.perf_counter()
    with (folder / "out").open("w", encoding="utf-8") as out:
        child = subprocess.Popen(
            command, env={**os.environ, "PYTHONPATH": paths, **environment}, cwd=folder, stdout=out, stderr=subprocess.STDOUT
        )
        _, status, used = os.wait4(child.pid, 0)
    said = (folder / "out").read_text(encoding="utf-8")
    if (code := os.waitstatus_to_exitcode(status)) not in (0, 1):
        raise SystemExit(f"{' '.join(command)} ended with {code}\n{said}")
    return said, {
        "wall": round(time.perf_counter() - began, 1),
        "processor": round(used.ru_utime + used.ru_stime, 1),
        "peak_gib": round(used.ru_maxrss * 1024 / GIB, 2),
    }


def _failures(row: Row, took: dict[str, Any], calls: int | None) -> dict[str, list[str]]:
    """What a row does not reach."""
    found = []
    if row.seconds and took["wall"] > row.seconds:
        found.append(f"{took['wall']} s by the clock, at most {row.seconds}")
    if row.times and took["peak_gib"] * GIB > row.times * row.weights:
        found.append(f"{took['peak_gib'] * GIB / row.weights:.1f} times the weights, at most {row.times}")
    if row.gib and took["peak_gib"] > row.gib:
        found.append(f"{took['peak_gib']} GiB, at most {row.gib}")
    if row.calls and calls is not None and calls > row.calls:
        found.append(f"{calls} calls, at most {row.calls}")
    return {"falls_short": found}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--row", action="append", choices=ROWS, metavar="NAME", help=f"only these rows: {', '.join(ROWS)}")
    parser.add_argument("--device", help="such as cuda; by default the CPU")
    parser.add_argument("--budget", type=float, metavar="SECONDS", help="`time_budget` of the runs; by default the config's")
    parser.add_argument("--broken-layer", type=int, metavar="N", help="plant a bug in block N (of 24 for gpt2)")
    parser.add_argument("-k", help="pytest's -k")
    parser.add_argument(
        "--tests", action="store_true", help="print every test with seconds, calls and the process's peak during it"
    )
    options = parser.parse_args()
    asked = options.row or list(ROWS)
    if any("model_factory" in ROWS[name].config for name in asked) and importlib.util.find_spec("transformers") is None:
        raise SystemExit('benchmarks/large.py builds its models with transformers: pip install -e ".[huggingface]"')
    is_short = False
    for name in asked:
        with tempfile.TemporaryDirectory() as folder:
            found = measure(name, ROWS[name], Path(folder), options)
        is_short = is_short or bool(found["falls_short"])
        print(json.dumps(found), flush=True)
    return int(is_short)


# What follows runs in the measured process, as a plugin of pytest.

_tests: dict[str, dict[str, Any]] = {}


def pytest_runtest_setup(item: Any) -> None:
    """Forgets the peak of what ran before."""
    if NOTES in os.environ:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        _tests[item.name] = {"processor": time.process_time(), "start_gib": _memory("VmRSS")}


def pytest_runtest_logreport(report: Any) -> None:
    """Notes what a test used, and what its judge counted."""
    test = _tests.get(report.nodeid.rpartition("::")[2])
    if test is not None and report.when == "teardown":
        test |= {"processor": round(time.process_time() - test["processor"], 2), "peak_gib": _memory("VmHWM")}
    elif test is not None and (finding := getattr(report, "modeltiers", {}).get("finding")):
        test |= {name: finding[name] for name in ("forwards", "rows", "cut") if name in finding}


def pytest_sessionfinish() -> None:
    """Writes what was noted."""
    if NOTES in os.environ:
        import torch

        peak = round(torch.cuda.max_memory_allocated() / GIB, 2) if torch.cuda.is_available() else None
        Path(os.environ[NOTES]).write_text(json.dumps({"tests": _tests, "device_peak_gib": peak}), encoding="utf-8")


def _memory(name: str) -> float:
    """A line of ``/proc/self/status``, in GiB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return round(next(int(line.split()[1]) for line in lines if line.startswith(name + ":")) / (1 << 20), 2)


if __name__ == "__main__":
    sys.exit(main())
