"""``modeltiers schema``."""

from __future__ import annotations

import argparse
import json
from typing import Any


def add(commands: Any) -> None:
    """Adds the command."""
    schema = commands.add_parser("schema", help="print the JSON Schema of the config file")
    schema.set_defaults(run=_schema)


def _schema(_arguments: argparse.Namespace) -> int:
    from harness.config import json_schema

    print(json.dumps(json_schema(), indent=2))
    return 0
