"""Arguments that several commands have."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

TRUST = "MODELTIERS_TRUST_MODEL"
"""Read by ``harness.models.loading``, in the processes that a command starts as well."""


def add_config(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """``--config FILE``."""
    parser.add_argument(
        "--config", required=required, type=Path, metavar="FILE", help="JSON, TOML or YAML file that describes the model"
    )
    _add_trust(parser)


def add_config_file(parser: argparse.ArgumentParser) -> None:
    """``FILE``, of a command that takes nothing else."""
    parser.add_argument("config", type=Path, metavar="FILE", help="JSON, TOML or YAML file that describes the model")
    _add_trust(parser)


def _add_trust(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--trust", action=_TrustModel, nargs=0, help="let the model's file start programs and use the network when it is imported"
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """``--json``."""
    parser.add_argument("--json", action="store_true", help="print one JSON object, and nothing else, on standard output")


class _TrustModel(argparse.Action):
    """Sets what the model's loading reads."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, *_: Any) -> None:
        """Notes it for this process and those that it starts."""
        os.environ[TRUST] = "1"
