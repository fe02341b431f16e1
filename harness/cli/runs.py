"""``modeltiers runs``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from harness.cli.arguments import add_config, add_json

_DEFAULT = "experiments.db"


def add(commands: Any) -> None:
    """Adds the command."""
    runs = commands.add_parser("runs", help="list the runs of an experiment database, or show one")
    runs.add_argument("reference", nargs="?", metavar="RUN", help="id or name of a run")
    add_config(runs, required=False)
    runs.add_argument(
        "--db",
        metavar="PATH",
        help="a file, or the URL of a PostgreSQL database; by default that of --config, or experiments.db here",
    )
    runs.add_argument("--name", metavar="NAME", help="only runs of this name")
    runs.add_argument("--metric", metavar="METRIC", help="show a metric of each run, the best first")
    runs.add_argument("--to-mlflow", metavar="URI", help="copy RUN to the MLflow server or database at this address")
    add_json(runs)
    runs.set_defaults(run=_runs)


def _runs(arguments: argparse.Namespace) -> int:
    from harness.experiments.command import answer, copy_to_mlflow

    database = _database(arguments)
    if arguments.to_mlflow:
        found = copy_to_mlflow(database, arguments.reference, arguments.to_mlflow)
    else:
        found = answer(database, arguments.reference, arguments.name, arguments.metric)
    print(json.dumps(found.data) if arguments.json else found.text)
    return 0


def _database(arguments: argparse.Namespace) -> str | Path:
    """The database that is asked for: by its path, or by the config that names it."""
    if arguments.db is not None or arguments.config is None:
        return arguments.db or _DEFAULT
    from harness.config import load_config

    return load_config(arguments.config).database
