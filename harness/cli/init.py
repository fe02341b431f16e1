"""``modeltiers init``, ``explain``, ``schema`` and ``gist``: what comes before a config is run."""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from harness.cli.arguments import add_json
from harness.tasks import FACTS, TaskType

if TYPE_CHECKING:
    from harness.catalogue import Property
    from harness.scaffold import Scaffold
    from harness.tasks import TaskSpec

_TASKS = [task.value for task in FACTS]


def add_init(commands: Any) -> None:
    """Adds ``init``."""
    init = commands.add_parser("init", help="write a config by looking at a model file, and run tier 1 once")
    init.add_argument(
        "model", type=Path, metavar="MODEL.py", help="file with a model factory or class, or a folder of save_pretrained"
    )
    init.add_argument(
        "--output", type=Path, metavar="FILE", help="where the config goes, .toml or .json (modeltiers.toml beside the model)"
    )
    init.add_argument("--force", action="store_true", help="replace what is there")
    init.add_argument("--factory", metavar="NAME", help="the function or class that makes the model, where the file has several")
    init.add_argument(
        "--arg", action="append", default=[], type=_argument, metavar="NAME=VALUE", help="an argument of the factory; repeatable"
    )
    init.add_argument("--task", choices=_TASKS, metavar="TYPE", help="the task, where the model's outputs do not show it")
    init.add_argument(
        "--input",
        action="append",
        default=[],
        type=_input,
        metavar="NAME=AXES",
        help="what forward takes, such as x=batch,3,64,64 or ids=batch,seq:ids=1000 or mask=batch,seq:mask_of=seq; repeatable",
    )
    init.add_argument("--call", metavar="METHOD", default="", help="the method that is called in place of forward")
    init.add_argument("--trust", action="store_true", help="let the file start programs and use the network when it is imported")
    init.add_argument("--no-run", action="store_true", help="write the config only")
    init.set_defaults(run=_init)


def _argument(text: str) -> tuple[str, Any]:
    """``width=64``; the value as JSON, or else as text."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text!r}")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def _input(text: str) -> Any:
    """``x=batch,3,64,64:range=0,1``."""
    from harness.models.first_call.argument import GivenInput

    try:
        return GivenInput.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _init(arguments: argparse.Namespace) -> int:
    from harness.models.attempts import Patience
    from harness.scaffold import scaffold
    from harness.scaffold.task import Told

    if arguments.model.is_dir():
        from harness.scaffold.apart import scaffold_folder

        config = scaffold_folder(arguments.model, arguments.output, overwrite=arguments.force)
        print(f"wrote {config}")
        return try_out(config, arguments.no_run)
    with Progress(sys.stderr) as progress:
        told = Told(
            factory=arguments.factory,
            arguments=dict(arguments.arg),
            task=TaskType(arguments.task) if arguments.task else None,
            inputs=arguments.input,
            call=arguments.call,
            trust=arguments.trust,
        )
        patience = Patience(say=progress.say, stage=progress.stage)
        found = scaffold(arguments.model, arguments.output, told, overwrite=arguments.force, patience=patience)
    print(account(found))
    return try_out(found.config, arguments.no_run)


def try_out(config: Path, only_write: bool) -> int:
    """Runs tier 1 of a new config, and says what comes next; returns the exit status."""
    status = 0 if only_write else _run_tier_1(config)
    if status > 1:
        print(f"modeltiers: tier 1 did not run; what pytest says is above. The config is {config}", file=sys.stderr)
        return 2
    print(
        f"next: pytest --model-config {shlex.quote(str(config))} --model-report report   # every tier; then open report/health_report.html"
    )
    return status


def account(found: Scaffold) -> str:
    """What was found, and from what."""
    from harness.partial_import import LEFT_OUT

    lines = [f"{found.signature}, built by {found.factory.call}"]
    if left_out := LEFT_OUT.get(str(found.source.file)):
        lines.append(f"  only what its models need is run: {left_out}")
    others = [(file, why) for file, why in LEFT_OUT.items() if "not installed" in why and file != str(found.source.file)]
    lines += [f"  {Path(file).name}, {why}: what needs it raises" for file, why in others]
    if found.factory.through:
        lines.append(f"  it has no forward: its `{found.factory.through}` is called in its place{_or_a_method(found)}")
    if found.called:
        lines.append(f"  called with {found.called}")
    if found.guess is not None:
        task = found.guess.task
        for key, reason in found.guess.reasons.items():
            lines.append(f"  {key} = {task.task_type.value if key == 'task_type' else getattr(task, key)}: {reason}")
    if found.declared is not None:
        lines += [f"  {path}: {' '.join(reason.split())}" for path, reason in found.declared.reasons.items()]
    if found.factory.place:
        lines.append(f"  arguments as in {found.factory.place}")
    if found.factory.guessed:
        where = found.bridge.name if found.bridge and found.factory.objects else "`model_kwargs`"
        lines.append(f"  guessed arguments: {', '.join(found.factory.guessed)}; put your own into {where}")
    if found.others:
        lines.append(f"  also there: {', '.join(found.others)}; --factory NAME takes one of them")
    lines += [f"wrote {path}" for path in (found.config, found.bridge, *found.files) if path is not None]
    return "\n".join(lines)


def _or_a_method(found: Scaffold) -> str:
    """How to have a method called instead, where there are some."""
    from harness.models.attempts import methods_to_call

    target = found.factory.target
    methods = methods_to_call(target) if isinstance(target, type) else []
    others = f" (also there: {', '.join(methods[1:4])})" if len(methods) > 1 else ""
    return f'; to call another method, say call = "{methods[0]}" in the config{others}' if methods else ""


def _run_tier_1(config: Path) -> int:
    """Runs tier 1 in a separate process; returns pytest's exit status."""
    print(f"running tier 1: pytest --model-config {shlex.quote(str(config))} -m tier1", flush=True)
    command = [sys.executable, "-m", "pytest", "--model-config", str(config), "-m", "tier1", "-q", "--no-header"]
    return subprocess.run(command, check=False).returncode


def add_explain(commands: Any) -> None:
    """Adds ``explain``."""
    told = "print the signature a config stands for, the properties that follow, and why each one applies"
    explain = commands.add_parser("explain", help=told)
    explain.add_argument("config", type=Path, metavar="CONFIG", help="the config file")
    add_json(explain)
    explain.set_defaults(run=_explain)


def _explain(arguments: argparse.Namespace) -> int:
    from harness.catalogue import CATALOGUE
    from harness.config import load_config
    from harness.tasks.keys import declared_keys, to_yaml

    config = load_config(arguments.config)
    task = config.task_spec()
    signature, read = declared_keys(task.signature), config.read_example()
    entries = [entry for entry in CATALOGUE.values() if entry.tier in config.tiers and entry.applies_to(task)]
    cases = {entry.name: entry.cases_for(task, config.export_options.artifacts) for entry in entries}
    entries = [entry for entry in entries if cases[entry.name] or not entry.has_cases]
    if arguments.json:
        properties = [
            {
                "name": entry.name,
                "tier": entry.tier,
                "statement": entry.statement,
                "cases": list(cases[entry.name]),
                "why": {case or entry.name: entry.why(task, case) for case in cases[entry.name] or ("",)},
            }
            for entry in entries
        ]
        found = {} if read is None else {"read_from": read.origin, "reasons": read.reasons}
        print(json.dumps({"signature": signature, **found, "properties": properties}))
        return 0
    print(to_yaml(signature))
    if read is not None and read.reasons:
        print("\n".join([f"read from {read.origin}", *(f"  {key}: {why}" for key, why in read.reasons.items())]) + "\n")
    for tier in config.tiers:
        print(f"tier {tier}")
        for entry in entries:
            if entry.tier == tier:
                print(_explained(entry, cases[entry.name], task))
    return 0


def _explained(entry: Property, cases: tuple[str, ...], task: TaskSpec) -> str:
    """A property, its cases, and why each applies: once where they have one reason."""
    reasons = {case: entry.why(task, case) for case in cases or ("",)}
    named = f" ({', '.join(cases)})" if cases else ""
    lines = [f"  {entry.name}: {entry.statement}{named}"]
    if len(set(reasons.values())) == 1:
        lines += [f"    because {reason}" for reason in set(reasons.values()) if reason]
    else:
        lines += [f"    {case}: because {reason}" for case, reason in reasons.items() if reason]
    return "\n".join(lines)


def add_schema(commands: Any) -> None:
    """Adds ``schema``."""
    schema = commands.add_parser("schema", help="print the JSON Schema of the config file")
    schema.set_defaults(run=_schema)


def _schema(_arguments: argparse.Namespace) -> int:
    from harness.config import json_schema

    print(json.dumps(json_schema(), indent=2))
    return 0


def add_gist(commands: Any) -> None:
    """Adds ``gist``."""
    gist = commands.add_parser("gist", help="show a GitHub gist that holds a model, and what a scan of its code finds")
    gist.add_argument("gist_id", metavar="ID", help="the gist's id, the last part of its address")
    gist.add_argument("--revision", metavar="R", help="the commit (default: the latest)")
    gist.add_argument(
        "--trust", action="store_true", help="trust exactly these files from now on, even if the scan finds something"
    )
    add_json(gist)
    gist.set_defaults(run=_gist)


def _gist(arguments: argparse.Namespace) -> int:
    """Fetches a gist and scans it; nothing of it is run."""
    from harness.gists import GistSettings, is_trusted, trust
    from harness.gists.cache import describe, open_gist
    from harness.scan import scan_files

    settings = GistSettings.from_environment()
    gist = open_gist(arguments.gist_id, arguments.revision, settings)
    if arguments.trust:
        trust(gist, settings.consent)
    findings, trusted = scan_files(gist.files), is_trusted(gist.sha256, settings.consent)
    fails = bool(findings) and not trusted
    if arguments.json:
        known = {"trusted": trusted, "findings": [finding.to_json() for finding in findings]}
        print(json.dumps({"status": "fail" if fails else "ok", **gist.to_json(), **known}))
        return int(fails)
    print("\n".join([describe(gist), *(f"  {finding}" for finding in findings)]))
    if trusted:
        print(f"trusted: its code will be run (remembered in {settings.consent})")
    elif findings:
        print("not trusted: its code will not be run; if you trust these files, add --trust")
    else:
        print('the scan found nothing, which proves nothing: read the files, or set `isolation` to "process"')
    print(f'pin it: "gist_id": "{gist.id}", "gist_revision": "{gist.revision}", "gist_sha256": "{gist.sha256}"')
    return int(fails)


_QUICK = 1.0
"""Seconds before the first line where lines stay: what is done sooner needs none."""


class Progress:
    """One line of text that is replaced by the next one; on anything but a terminal, a line for each stage, and only when it takes longer.

    Args:
        stream: Where it is written.
    """

    def __init__(self, stream: TextIO) -> None:
        from harness.training.progress import FootLine, is_terminal

        self._stream = stream
        self._line = FootLine(stream) if is_terminal(stream) else None
        self._began = time.monotonic()
        self._stage = self._told = ""

    def stage(self, text: str) -> None:
        """Shows what the attempts that follow are for."""
        self._stage = text
        self.say(text)

    def say(self, text: str) -> None:
        """Shows what is being done now."""
        if self._line is not None:
            self._line.show(text)
        elif time.monotonic() - self._began > _QUICK and self._stage != self._told:
            self._told = self._stage
            print(f"modeltiers: {' '.join(self._stage.split())}", file=self._stream, flush=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._line is not None:
            self._line.close()
