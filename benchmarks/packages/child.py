"""One entry in a separate process: through `modeltiers init`, and by its own config through those of tiers 1 to 4 that its task has.

python -m packages.child KEY FOLDER BUDGET [helped]  # a budget of 0: `init`, with the entry's help, and tier 1 of its config
"""

from __future__ import annotations

import contextlib
import io
import json
import runpy
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from packages.entries import ENTRIES
from packages.entry import Entry

_TIER1_BUDGET = 10.0
"""Seconds that tier 1 of the config that `init` wrote may take."""


def main() -> int:
    key, folder, budget = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])
    entry = next(entry for entry in ENTRIES if entry.key == key)
    (folder / "model.py").write_text(entry.model_file, encoding="utf-8")
    found: dict[str, Any] = {"init": _init(folder, entry.help_line if sys.argv[4:] else "")}
    if sys.argv[4:] and entry.help_line == "task":
        config = {"task_name": "entry", "model_file": "model.py", **entry.task}
        (folder / "init.json").write_text(json.dumps(config), encoding="utf-8")
        found["init"]["config"] = config
    started = time.process_time()
    if budget:
        found |= _run(entry, folder, budget)
    elif found["init"]["config"]:
        found["init"]["tier1"] = _tier1(folder)
    found["processor"] = round(time.process_time() - started, 1)
    (folder / "found.json").write_text(json.dumps(found), encoding="utf-8")
    return 0


def _init(folder: Path, help_line: str) -> dict[str, Any]:
    """What `modeltiers init` makes of the model's file, with one option of the user's where there is one."""
    from harness.cli import main as modeltiers

    option = help_line.split(" ", 1) if help_line.startswith("--") else []
    said, started = io.StringIO(), time.process_time()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            status = modeltiers(["init", str(folder / "model.py"), "--output", str(folder / "init.json"), "--no-run", *option])
        except SystemExit as stopped:
            status = int(stopped.code or 0)
    config = folder / "init.json"
    return {
        "status": status,
        "seconds": round(time.process_time() - started, 1),
        "config": json.loads(config.read_text(encoding="utf-8")) if config.is_file() else None,
        "said": said.getvalue()[-600:],
    }


def _tier1(folder: Path) -> dict[str, Any]:
    """What tier 1 says by the config that `init` wrote."""
    config = json.loads((folder / "init.json").read_text(encoding="utf-8"))
    own = folder / "init_tier1.json"
    own.write_text(json.dumps({**config, "tier": "1", "time_budget": _TIER1_BUDGET}), encoding="utf-8")
    health, said = _tested(own, folder)
    if health is None:
        return {"error": said[-1500:]}
    failed = [check for check in health["checks"] if check["status"] == "failed"]
    return {
        "summary": health["summary"],
        "failed": [{"test": check["check_name"], "message": check["message"]} for check in failed],
    }


def _tested(config: Path, folder: Path, *plugins: object) -> tuple[dict[str, Any] | None, str]:
    """The health report of a config, and what was printed; no report where nothing ran."""
    report, said = folder / "report", io.StringIO()
    options = ["-q", "-p", "pytest_modeltiers.plugin", "-p", "no:cacheprovider", f"--rootdir={folder}"]
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        pytest.main(["--model-config", str(config), "--model-report", str(report), *options], plugins=[*plugins])
    file = report / "health_report.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None, said.getvalue()


class _Tier1Clock:
    """A plugin of pytest that sums the processor seconds of the tests of tier 1."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Runs a test."""
        started = time.process_time()
        try:
            return (yield)
        finally:
            if "TestTier1" in item.nodeid:
                self.seconds += time.process_time() - started


def _run(entry: Entry, folder: Path, budget: float) -> dict[str, Any]:
    """What the suite finds."""
    keys = {"task_name": "entry", **entry.task, "model_file": "model.py", "tier": ["1", "2", "3", "4"], "time_budget": budget}
    config = folder / "config.json"
    config.write_text(json.dumps(keys), encoding="utf-8")
    clock = _Tier1Clock()
    health, said = _tested(config, folder, clock)
    if health is None:
        return {"error": said[-1500:]}
    return {
        "summary": health["summary"],
        "coverage": health.get("coverage", ""),
        "tier1_seconds": round(clock.seconds, 1),
        "parameters": sum(p.numel() for p in runpy.run_path(str(folder / "model.py"))["build_model"]().parameters()),
        "checks": [
            {
                "test": check["check_name"],
                "status": check["status"],
                "message": check["message"],
                "details": _short(check["details"]),
            }
            for check in health["checks"]
            if check["status"] != "passed"
        ],
        "skipped": {check["check_name"]: check["reason"] for check in health.get("skipped", [])},
    }


def _short(details: dict[str, Any]) -> dict[str, Any]:
    return {
        name: details[name]
        for name in ("counterexample", "module", "measured", "bound", "cause")
        if details.get(name) is not None
    }


if __name__ == "__main__":
    sys.exit(main())
