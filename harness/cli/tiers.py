"""``modeltiers check`` and ``modeltiers tiers``: the suite of a model or of a config."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cli.arguments import add_config, add_json
from harness.errors import ConfigError, ModelSourceError

if TYPE_CHECKING:
    from harness.evidence import Evidence

_WORDS = {"passed": "ok", "warning": "warn", "failed": "fail"}

_CONFIGS = (".json", ".toml", ".yaml", ".yml")


def add_check(commands: Any) -> None:
    """Adds ``check``."""
    check = commands.add_parser("check", help="judge a model now, without a config or with one")
    check.add_argument(
        "model",
        metavar="MODEL",
        help="a .py file, a folder of save_pretrained, pkg.mod:Class, or a config; what breaks most is judged first",
    )
    check.add_argument("--tier", action="append", type=int, choices=range(1, 6), help="judge only this tier; repeatable")
    check.add_argument(
        "-k", dest="tests", metavar="EXPRESSION", help="judge only tests whose names match, such as causal or 'not export'"
    )
    check.add_argument(
        "--hints",
        type=float,
        metavar="SECONDS",
        help="processor time for each failure to look for a change that fixes it (2; 0: none)",
    )
    _add_options(check)
    check.add_argument(
        "--trust", action="store_true", help="let the model's file start programs and use the network when it is imported"
    )
    check.set_defaults(run=_check)


def _check(arguments: argparse.Namespace) -> int:
    """Runs pytest, to which a config and a model without one are two options; returns its exit status."""
    model = arguments.model
    inside = Path(model) / "modeltiers.toml"
    config = str(inside) if inside.is_file() else model if Path(model).suffix in _CONFIGS else ""
    if not config and not model.endswith(".py") and ":" not in model and not Path(model).exists():
        raise ModelSourceError(
            f"no such file {model}; expected a .py file, a folder of save_pretrained, pkg.mod:Class or a config"
        )
    command = [
        sys.executable,
        "-m",
        "pytest",
        *(["--model-config", config] if config else ["--model", model]),
        *_options(arguments),
    ]
    command += ["-m", " or ".join(f"tier{tier}" for tier in arguments.tier)] if arguments.tier else []
    command += ["-k", arguments.tests] if arguments.tests else []
    command += [f"--model-hints={arguments.hints}"] if arguments.hints is not None else []
    command += ["--trust-model"] * arguments.trust
    command += ["--modeltiers-command", shlex.join(["modeltiers", "check", model, *["--trust"] * arguments.trust])]
    status = subprocess.run(command, check=False).returncode
    return status if status in (0, 1) else 2


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--report", type=Path, metavar="DIR", help="write the health report into DIR")
    parser.add_argument("--strict", action="store_true", help="warnings fail")
    parser.add_argument("-n", dest="processes", metavar="N", help="run in N processes (needs pytest-xdist)")


def _options(arguments: argparse.Namespace) -> list[str]:
    """What pytest calls the options."""
    report = ["--model-report", str(arguments.report)] if arguments.report else []
    return [*report, *["--modeltiers-strict"] * arguments.strict, *(["-n", arguments.processes] if arguments.processes else [])]


def add_tiers(commands: Any) -> None:
    """Adds ``tiers``."""
    tiers = commands.add_parser("tiers", help="run the test suite of a config")
    add_config(tiers)
    add_json(tiers)
    _add_options(tiers)
    tiers.set_defaults(run=_tiers)


def _tiers(arguments: argparse.Namespace) -> int:
    """Runs pytest on the config in a separate process, so that its output and its exit can be kept apart from ours."""
    from harness.config import load_config

    config = load_config(arguments.config)
    with tempfile.TemporaryDirectory() as scratch:
        found = Path(scratch) / "report.json"
        command = [sys.executable, "-m", "pytest", "--model-config", str(arguments.config), "--modeltiers-json", str(found)]
        command += _options(arguments)
        done = subprocess.run(command, capture_output=arguments.json, text=True, check=False)
        if done.returncode not in (0, 1):
            if not arguments.json and done.returncode != 5:
                return 2
            raise ConfigError(what_stopped(done, config.tiers))
        report = json.loads(found.read_text(encoding="utf-8"))
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
        "grade": report["grade"],
        "problems": report["problems"],
        "summary": report["summary"],
        "coverage": report["coverage"],
        "tiers": tiers,
        **_tier4(report),
        **_tier5(report),
    }


def _tier4(report: dict[str, Any]) -> dict[str, Any]:
    """The files of tier 4 and their figures; empty where it did not run."""
    from harness.export.checks import overall, summary_of

    found: dict[str, dict[str, Evidence]] = {}
    for test, evidence in _judged(report, 4).items():
        name, _, format = test.rstrip("]").partition("[")
        if format:
            found.setdefault(format, {})[name] = evidence
    if not found:
        return {}
    results = {format: summary_of(checks) for format, checks in found.items()}
    files = {format: result["path"] for format, result in results.items() if result["path"]}
    return {"export": files, "tier4": {**results, "status": overall(result["status"] for result in results.values())}}


def _tier5(report: dict[str, Any]) -> dict[str, Any]:
    """What was monitored; empty where it was not."""
    found = _judged(report, 5)
    if not found:
        return {}
    from harness.monitoring.run import results_of

    results = results_of(found)
    return {name: results[name] for name in ("eval_metrics", "comparison", "drift", "harm")}


def _judged(report: dict[str, Any], tier: int) -> dict[str, Evidence]:
    """The evidence of a tier's checks that were not skipped, by the name of the test."""
    from harness.evidence import Evidence, Status

    own = [check for check in report["checks"] if check["check_name"].startswith(f"tier{tier}::")]
    return {
        (test := check["check_name"].partition("::")[2]): Evidence(
            test.partition("[")[0], Status(_WORDS[check["status"]]), check["message"], details=check["details"].get("facts", {})
        )
        for check in own
    }


def _add(tiers: dict[str, dict[str, Any]], check_name: str, entry: dict[str, str]) -> None:
    tier, _, test = check_name.removeprefix("tier").partition("::")
    tiers.setdefault(tier, {"tests": {}})["tests"][test] = entry


def what_stopped(done: subprocess.CompletedProcess[str], tiers: tuple[int, ...]) -> str:
    """Why pytest ran no test, from what it printed."""
    if done.returncode == 5:
        asked = ", ".join(str(tier) for tier in tiers)
        return f"the config generates no test: of tier {asked}, every property is switched off by `properties`"
    output = (done.stdout or "") + (done.stderr or "")
    found = re.search(r"ERROR collecting [^\n]*\n(.*?)\n=+ short test summary", output, re.DOTALL)
    if found:
        return found.group(1).strip()
    return output.strip().splitlines()[-1] if output.strip() else "pytest printed nothing"
