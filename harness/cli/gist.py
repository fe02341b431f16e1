"""``modeltiers gist``."""

from __future__ import annotations

import argparse
import json
from typing import Any

from harness.cli.arguments import add_json


def add(commands: Any) -> None:
    """Adds the command."""
    gist = commands.add_parser("gist", help="show a GitHub gist that holds a model, and what a scan of its code finds")
    gist.add_argument("gist_id", metavar="ID", help="the gist's id, the last part of its address")
    gist.add_argument("--revision", metavar="R", help="the commit (default: the latest)")
    gist.add_argument("--trust", action="store_true", help="trust these very files from now on, whatever the scan finds")
    add_json(gist)
    gist.set_defaults(run=_gist)


def _gist(arguments: argparse.Namespace) -> int:
    from harness.gists.command import look_at

    found = look_at(arguments.gist_id, arguments.revision, arguments.trust)
    print(json.dumps(found.data) if arguments.json else found.text)
    return int(found.data["status"] == "fail")
