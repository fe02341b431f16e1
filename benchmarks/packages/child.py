"""One entry in a separate process: through `modeltiers init`, and by its own config through those of tiers 1 to 4 that its task has.

python -m packages.child KEY FOLDER BUDGET    # a budget of 0: `init` only
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


def main() -> int:
    key, folder, budget = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])
    entry = next(entry for entry in ENTRIES if entry.key == key)
    (folder / "model.py").write_text(entry.model_file, encoding="utf-8")
    found: dict[str, Any] = {"init": _init(folder)}
    started = time.process_time()
    if budget:
        found |= _run(entry, folder, budget)
    found["processor"] = round(time.process_time() - started, 1)
    (folder / "found.json").write_text(json.dumps(found), encoding="utf-8")
    return 0


def _init(folder: Path) -> dict[str, Any]:
    """What `modeltiers init` makes of the model's file."""
    from harness.cli import main as modeltiers

    said, started = io.StringIO(), time.process_time()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            status = modeltiers(["init", str(folder / "model.py"), "--output", str(folder / "init.json"), "--no-run"])
        except SystemExit as stopped:
            status = int(stopped.code or 0)
    config = folder / "init.json"
    return {
        "status": status,
        "seconds": round(time.process_time() - started, 1),
        "config": json.loads(config.read_text(encoding="utf-8")) if config.is_file() else None,
        "said": said.getvalue()[-600:],
    }


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
    report, said, clock = folder / "report", io.StringIO(), _Tier1Clock()
    options = ["-q", "-p", "pytest_modeltiers.plugin", "-p", "no:cacheprovider", f"--rootdir={folder}"]
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        status = pytest.main(["--model-config", str(config), "--model-report", str(report), *options], plugins=[clock])
    file = report / "health_report.json"
    if not file.is_file():
        return {"status": int(status), "error": said.getvalue()[-1500:]}
    health = json.loads(file.read_text(encoding="utf-8"))
    return {
        "status": int(status),
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
