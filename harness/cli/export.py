"""``modeltiers export``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from harness.cli.arguments import add_config, add_json


def add(commands: Any) -> None:
    """Adds the command."""
    export = commands.add_parser("export", help="export the model of a config to its formats")
    add_config(export)
    export.add_argument("--output", type=Path, metavar="DIR", help="where the files go (the config's export_dir)")
    export.add_argument(
        "--format", action="append", default=[], metavar="NAME", help="a format, instead of those of the config; repeatable"
    )
    add_json(export)
    export.set_defaults(run=_export)


def _export(arguments: argparse.Namespace) -> int:
    from harness.export.command import export_config

    files = export_config(arguments.config, arguments.output, arguments.format)
    if arguments.json:
        print(json.dumps({"status": "ok", "export": {name: str(path) for name, path in files.items()}}))
        return 0
    for name, path in files.items():
        print(f"{name}: {path}")
    return 0
