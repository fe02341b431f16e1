"""The command line: ``modeltiers``, which is also ``python -m harness``. A file for commands that belong together.

Exit status: 0 ok or warn, 1 fail, 2 the user's input is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from typing import TextIO

from harness import __version__
from harness.cli.compare import add_compare
from harness.cli.deploy import add_bundle, add_export, add_monitor, add_profile
from harness.cli.doctor import add_doctor, add_plan
from harness.cli.init import add_explain, add_gist, add_init, add_schema
from harness.cli.runs import add_repro, add_runs, add_sweep, add_train
from harness.cli.tiers import add_tiers
from harness.errors import ConfigError, MemoryFullError, UserError

_COMMANDS = (
    add_tiers,
    add_compare,
    add_train,
    add_sweep,
    add_export,
    add_bundle,
    add_profile,
    add_monitor,
    add_runs,
    add_repro,
    add_init,
    add_explain,
    add_gist,
    add_schema,
    add_plan,
    add_doctor,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status."""
    with warnings.catch_warnings():
        warnings.showwarning = _say
        return _run(_parser().parse_args(argv))


def _run(arguments: argparse.Namespace) -> int:
    as_json = getattr(arguments, "json", False)
    try:
        status = int(arguments.run(arguments))
        sys.stdout.flush()
        return status
    except UserError as error:
        print(f"modeltiers: {error}", file=sys.stderr)
        if as_json:
            mistakes = {"mistakes": [asdict(mistake) for mistake in error.mistakes]} if isinstance(error, ConfigError) else {}
            print(json.dumps({"status": "error", "code": error.code, "error": str(error), **mistakes}))
        return 2
    except MemoryFullError as error:
        print(f"modeltiers: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("modeltiers: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, `head` for one, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="modeltiers", description="Model validation as a test suite.")
    parser.add_argument("--version", action="version", version=f"modeltiers {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for add_to in _COMMANDS:
        add_to(commands)
    return parser


def _say(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """A warning for people: the sentence, without the line of code that raised it."""
    if issubclass(category, UserWarning):
        print(f"modeltiers: {message}", file=sys.stderr)
