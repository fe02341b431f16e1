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

    _add_export(commands)
    _add_bundle(commands)

    _add_runs(commands)

    init = commands.add_parser("init", help="write a config by looking at a model file")
    init.add_argument("model", type=Path, metavar="MODEL.py", help="file with a model factory or class")
    init.add_argument("--output", type=Path, metavar="FILE", help="where the config goes (modeltiers.json beside the model)")
    init.add_argument("--force", action="store_true", help="replace an existing config")
    init.set_defaults(run=_init)

    schema = commands.add_parser("schema", help="print the JSON Schema of the config file")
    schema.set_defaults(run=_schema)
    return parser


def _add_export(commands: Any) -> None:
    export = commands.add_parser("export", help="export the model of a config to its formats")
    export.add_argument("--config", required=True, type=Path, metavar="FILE", help="JSON or TOML file that describes the model")
    export.add_argument("--output", type=Path, metavar="DIR", help="where the files go (the config's export_dir)")
    export.add_argument("--json", action="store_true", help="print one JSON object, and nothing else, on standard output")
    export.set_defaults(run=_export)


def _add_bundle(commands: Any) -> None:
    bundle = commands.add_parser("bundle", help="pack everything a deployment needs; `bundle verify DIR` replays it")
    bundle.add_argument("--config", type=Path, metavar="FILE", help="JSON or TOML file that describes the model")
    bundle.add_argument("--output", type=Path, metavar="DIR", help="where the bundle goes (<name>-bundle beside the config)")
    bundle.add_argument(
        "--layout", action="append", default=[], metavar="NAME", help="also a layout for triton or mlflow; repeatable"
    )
    bundle.add_argument("--no-health", action="store_true", help="without running the health checks")
    bundle.add_argument("--json", action="store_true", help="print one JSON object, and nothing else, on standard output")
    bundle.set_defaults(run=_bundle)
    verify = bundle.add_subparsers(metavar="").add_parser("verify", help="check every hash, and replay the golden batches")
    verify.add_argument("folder", type=Path, metavar="DIR", help="the bundle")
    verify.add_argument("--trust", action="store_true", help="also load formats that can run code when loaded")
    verify.add_argument("--json", action="store_true", help="print one JSON object, and nothing else, on standard output")
    verify.set_defaults(run=_verify)


def _add_runs(commands: Any) -> None:
    runs = commands.add_parser("runs", help="list the runs of an experiment database, or show one")
    runs.add_argument("reference", nargs="?", metavar="RUN", help="id or name of a run")
    runs.add_argument("--db", default="experiments.db", metavar="PATH", help="a file, or the URL of a PostgreSQL database")
    runs.add_argument("--name", metavar="NAME", help="runs of this name alone")
    runs.add_argument("--metric", metavar="METRIC", help="show a metric of each run, the best first")
    runs.add_argument("--json", action="store_true", help="print one JSON object, and nothing else, on standard output")
    runs.set_defaults(run=_runs)


def _export(arguments: argparse.Namespace) -> int:
    from harness.export.command import export_config

    files = export_config(arguments.config, arguments.output)
    if arguments.json:
        print(json.dumps({"status": "ok", "export": {name: str(path) for name, path in files.items()}}))
        return 0
    for name, path in files.items():
        print(f"{name}: {path}")
    return 0


def _bundle(arguments: argparse.Namespace) -> int:
    from harness.export.command import bundle_config

    if arguments.config is None:
        raise ConfigError("bundle: give --config FILE, or `bundle verify DIR`")
    made = bundle_config(arguments.config, arguments.output, arguments.layout, health=not arguments.no_health)
    if arguments.json:
        print(json.dumps(made))
    else:
        print(f"wrote {made['bundle']} ({', '.join(made['formats'])}; health {made['health_score']})")
        for message in made["failed"]:
            print(f"  failed: {message}")
    return 1 if made["status"] == "fail" else 0


def _verify(arguments: argparse.Namespace) -> int:
    from harness.export.bundle.verify import verify_bundle

    report = verify_bundle(arguments.folder, trust=arguments.trust)
    print(json.dumps(report.to_json()) if arguments.json else report)
    return 0 if report.ok else 1


def _runs(arguments: argparse.Namespace) -> int:
    from harness.experiments.command import answer

    found = answer(arguments.db, arguments.reference, arguments.name, arguments.metric)
    print(json.dumps(found.data) if arguments.json else found.text)
    return 0


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
    files = _tier4(report)
    status = "fail" if returncode else ("warn" if report["summary"]["warnings"] else "ok")
    return {
        "model_name": report["model_name"],
        "status": status,
        "health_score": report["health_score"],
        "summary": report["summary"],
        "coverage": report["coverage"],
        "tiers": tiers,
        **files,
    }


def _tier4(report: dict[str, Any]) -> dict[str, Any]:
    """The files of tier 4 and their figures; empty where it did not run."""
    from harness.evidence import Evidence, Status
    from harness.export.checks.summary import overall, summary_of

    found: dict[str, dict[str, Evidence]] = {}
    for check in report["checks"]:
        name, _, format = check["check_name"].removeprefix("tier4::").rstrip("]").partition("[")
        if check["check_name"].startswith("tier4::") and format:
            evidence = Evidence(
                name, Status(_WORDS[check["status"]]), check["message"], details=check["details"].get("facts", {})
            )
            found.setdefault(format, {})[name] = evidence
    if not found:
        return {}
    results = {format: summary_of(checks) for format, checks in found.items()}
    files = {format: result["path"] for format, result in results.items() if result["path"]}
    return {"export": files, "tier4": {**results, "status": overall(result["status"] for result in results.values())}}


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
