"""The command line: ``modeltiers``, which is also ``python -m harness``.

Exit status: 0 ok or warn, 1 fail, 2 the user's input is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.errors import ConfigError, UserError

_WORDS = {"passed": "ok", "warning": "warn", "failed": "fail"}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    as_json = getattr(arguments, "json", False)
    try:
        status = int(arguments.run(arguments))
        sys.stdout.flush()
        return status
    except UserError as error:
        print(f"modeltiers: {error}", file=sys.stderr)
        if as_json:
            print(json.dumps({"status": "error", "error": str(error)}))
        return 2
    except BrokenPipeError:  # the reader, `head` for one, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="modeltiers", description="Model validation as a test suite.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    tiers = commands.add_parser("tiers", help="run the test suite of a config")
    tiers.add_argument("--config", required=True, type=Path, metavar="FILE", help="JSON or TOML file that describes the model")
    tiers.add_argument("--json", action="store_true", help="print one JSON object, and nothing else, on standard output")
    tiers.add_argument("--report", type=Path, metavar="DIR", help="write the health report into DIR")
    tiers.add_argument("--strict", action="store_true", help="warnings fail")
    tiers.add_argument("-n", dest="processes", metavar="N", help="run in N processes (needs pytest-xdist)")
    tiers.set_defaults(run=_tiers)

    init = commands.add_parser("init", help="write a config by looking at a model file")
    init.add_argument("model", type=Path, metavar="MODEL.py", help="file with a model factory or class")
    init.add_argument("--output", type=Path, metavar="FILE", help="where the config goes (modeltiers.json beside the model)")
    init.add_argument("--force", action="store_true", help="replace an existing config")
    init.set_defaults(run=_init)

    schema = commands.add_parser("schema", help="print the JSON Schema of the config file")
    schema.set_defaults(run=_schema)
    return parser


def _schema(_arguments: argparse.Namespace) -> int:
    from harness.config import json_schema

    print(json.dumps(json_schema(), indent=2))
    return 0


def _init(arguments: argparse.Namespace) -> int:
    from harness.scaffold import scaffold

    path, guess = scaffold(arguments.model, arguments.output, overwrite=arguments.force)
    print(f"wrote {path}")
    for key, reason in guess.reasons.items():
        value = guess.task.task_type.value if key == "task_type" else getattr(guess.task, key)
        print(f"  {key} = {value}: {reason}")
    print(f"next: pytest --model-config {path}")
    return 0


def _tiers(arguments: argparse.Namespace) -> int:
    """Runs pytest on the config in a process of its own, so that its output and its exit can be kept apart from ours."""
    from harness.config import load_config

    config = load_config(arguments.config)
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.report or Path(scratch)
        command = [sys.executable, "-m", "pytest", "--model-config", str(arguments.config), "--model-report", str(folder)]
        command += ["--modeltiers-strict"] * arguments.strict + (["-n", arguments.processes] if arguments.processes else [])
        done = subprocess.run(command, capture_output=arguments.json, text=True, check=False)
        if done.returncode not in (0, 1):
            if not arguments.json and done.returncode != 5:
                return 2
            raise ConfigError(_what_stopped(done, config.tiers))
        report = json.loads((folder / "health_report.json").read_text(encoding="utf-8"))
    summary = _summary(report, done.returncode)
    if arguments.json:
        print(json.dumps(summary))
    return done.returncode


def _summary(report: dict[str, Any], returncode: int) -> dict[str, Any]:
    """The object that ``tiers --json`` prints."""
    tiers: dict[str, dict[str, Any]] = {}
    for check in report["checks"]:
        _add(tiers, check["check_name"], {"status": _WORDS[check["status"]], "message": check["message"]})
    for check in report["skipped"]:
        _add(tiers, check["check_name"], {"status": "skipped", "message": check["reason"]})
    for tier in tiers.values():
        found = {test["status"] for test in tier["tests"].values()}
        tier["status"] = next(status for status in ("fail", "warn", "ok", "skipped") if status in found)
    status = "fail" if returncode else ("warn" if report["summary"]["warnings"] else "ok")
    return {
        "model_name": report["model_name"],
        "status": status,
        "health_score": report["health_score"],
        "summary": report["summary"],
        "coverage": report["coverage"],
        "tiers": tiers,
    }


def _add(tiers: dict[str, dict[str, Any]], check_name: str, entry: dict[str, str]) -> None:
    tier, _, test = check_name.removeprefix("tier").partition("::")
    tiers.setdefault(tier, {"tests": {}})["tests"][test] = entry


def _what_stopped(done: subprocess.CompletedProcess[str], tiers: tuple[int, ...]) -> str:
    """Why pytest ran no test, from what it printed."""
    if done.returncode == 5:
        from harness.catalogue import BUILT_TIERS

        asked = ", ".join(str(tier) for tier in tiers)
        built = ", ".join(str(tier) for tier in BUILT_TIERS)
        return f"the config generates no test: it asks for tier {asked}, and this version has tier {built}"
    output = (done.stdout or "") + (done.stderr or "")
    found = re.search(r"ERROR collecting [^\n]*\n(.*?)\n=+ short test summary", output, re.DOTALL)
    if found:
        return found.group(1).strip()
    return output.strip().splitlines()[-1] if output.strip() else "pytest printed nothing"
