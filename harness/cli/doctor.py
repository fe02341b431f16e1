"""``modeltiers doctor``."""

from __future__ import annotations

import argparse
import json
from typing import Any

from harness.cli.arguments import add_json


def add(commands: Any) -> None:
    """Adds the command."""
    doctor = commands.add_parser(
        "doctor", help="say what is installed, which devices there are, and what each missing package costs"
    )
    add_json(doctor)
    doctor.set_defaults(run=_doctor)


def _doctor(arguments: argparse.Namespace) -> int:
    from harness.doctor import diagnose

    found = diagnose()
    print(json.dumps(found.to_json()) if arguments.json else found.text())
    return int(bool(found.broken))
