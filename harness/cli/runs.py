"""``modeltiers runs``."""

from __future__ import annotations

import argparse
import json
from typing import Any

from harness.cli.arguments import add_json


def add(commands: Any) -> None:
    """Adds the command."""
    runs = commands.add_parser("runs", help="list the runs of an experiment database, or show one")
    runs.add_argument("reference", nargs="?", metavar="RUN", help="id or name of a run")
    runs.add_argument("--db", default="experiments.db", metavar="PATH", help="a file, or the URL of a PostgreSQL database")
    runs.add_argument("--name", metavar="NAME", help="runs of this name alone")
    runs.add_argument("--metric", metavar="METRIC", help="show a metric of each run, the best first")
    add_json(runs)
    runs.set_defaults(run=_runs)


def _runs(arguments: argparse.Namespace) -> int:
    from harness.experiments.command import answer

    found = answer(arguments.db, arguments.reference, arguments.name, arguments.metric)
    print(json.dumps(found.data) if arguments.json else found.text)
    return 0
