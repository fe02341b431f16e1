"""``modeltiers repro``."""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

from harness.cli.arguments import add_json


def add(commands: Any) -> None:
    """Adds the command."""
    repro = commands.add_parser("repro", help="rebuild a run from its bundle; `repro create RUN` makes one")
    repro.add_argument("source", metavar="run.zip|create", help="the bundle, or the word create")
    repro.add_argument("run_ref", nargs="?", metavar="RUN", help="with create: id or name of a run")
    repro.add_argument("--db", default="experiments.db", metavar="PATH", help="with create: the run's database")
    repro.add_argument("--trust", action="store_true", help="run the code that the bundle brings")
    repro.add_argument("--data-dir", type=Path, metavar="DIR", help="where data files are that are not in the bundle")
    repro.add_argument("--output", type=Path, metavar="DIR", help="where it is unpacked; with create, where the zip goes")
    add_json(repro)
    repro.set_defaults(run=_repro)


def _repro(arguments: argparse.Namespace) -> int:
    from harness.errors import ConfigError
    from harness.evidence import Status
    from harness.repro import create_repro_bundle, repro

    if arguments.source == "create":
        if arguments.run_ref is None:
            raise ConfigError("repro create: give the id or name of a run")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            path = create_repro_bundle(arguments.run_ref, db=arguments.db, output_dir=arguments.output or ".")
        said = [str(warning.message) for warning in caught if warning.category is UserWarning]
        answer = {"status": "warn" if said else "ok", "bundle": str(path), "warnings": said}
        print(
            json.dumps(answer) if arguments.json else "\n".join([f"wrote {path}", *(f"warning: {sentence}" for sentence in said)])
        )
        return 0
    result = repro(arguments.source, trust=arguments.trust, output_dir=arguments.output, data_dir=arguments.data_dir)
    print(json.dumps(result.to_json()) if arguments.json else result)
    return 1 if result.status is Status.FAIL else 0
