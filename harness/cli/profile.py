"""``modeltiers profile``."""

from __future__ import annotations

import argparse
import json
from typing import Any

from harness.cli.arguments import add_config, add_json


def add(commands: Any) -> None:
    """Adds the command."""
    profile = commands.add_parser("profile", help="profile the data of a config, as a reference for monitoring")
    add_config(profile)
    profile.add_argument("--part", choices=("eval", "train"), default="eval", help="which data of the config (default: eval)")
    profile.add_argument("--db", metavar="PATH", help="where to store it: a file, or the URL of a PostgreSQL database")
    profile.add_argument(
        "--run",
        dest="of_run",
        metavar="RUN",
        help="the run to store it with, by id or name, whose model is profiled too; a new one by default",
    )
    profile.add_argument("--name", metavar="NAME", help='a name for that run from now on, such as "production"')
    profile.add_argument(
        "--familiarity",
        action="store_true",
        help="estimate accuracy by how near rows are to training rows, of which up to 1,000 are then kept (images, tables)",
    )
    add_json(profile)
    profile.set_defaults(run=_profile)


def _profile(arguments: argparse.Namespace) -> int:
    from harness.config import load_config
    from harness.monitoring.profile_command import profile_config

    config = load_config(arguments.config)
    found = profile_config(
        config,
        arguments.db,
        run=arguments.of_run,
        name=arguments.name,
        part=arguments.part,
        familiarity=arguments.familiarity,
    )
    print(json.dumps(found.data, allow_nan=False) if arguments.json else found.text)
    return 0
