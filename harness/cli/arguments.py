"""Arguments that several commands have."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_config(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """``--config FILE``."""
    parser.add_argument(
        "--config", required=required, type=Path, metavar="FILE", help="JSON or TOML file that describes the model"
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """``--json``."""
    parser.add_argument("--json", action="store_true", help="print one JSON object, and nothing else, on standard output")
