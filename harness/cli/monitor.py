"""``modeltiers monitor``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from harness.cli.arguments import add_config, add_json


def add(commands: Any) -> None:
    """Adds the command."""
    monitor = commands.add_parser("monitor", help="evaluate a model, compare it with its baseline, and its data with a profile")
    add_config(monitor)
    monitor.add_argument("--baseline", metavar="RUN", help="the run to compare with, by id or name, instead of the config's")
    monitor.add_argument("--reference", metavar="RUN", help="the run whose profile to compare with, instead of the config's")
    monitor.add_argument("--strict", action="store_true", help="warnings fail")
    add_json(monitor)
    monitor.set_defaults(run=_monitor)


def _monitor(arguments: argparse.Namespace) -> int:
    from harness.config import load_config
    from harness.monitoring.command import monitor_config

    config = load_config(arguments.config)
    with _progress(quiet=arguments.json) as on_batch:
        found = monitor_config(config, baseline=arguments.baseline, reference=arguments.reference, on_batch=on_batch)
    print(json.dumps(found.data, allow_nan=False) if arguments.json else found.text)
    return int(found.data["status"] == "fail" or (arguments.strict and found.data["status"] == "warn"))


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
    """A bar on stderr for as long as the evaluation takes, where there is a terminal."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("evaluating", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
