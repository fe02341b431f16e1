"""``modeltiers train``."""

from __future__ import annotations

import argparse
import json
from typing import Any

from harness.cli.arguments import add_config, add_json


def add(commands: Any) -> None:
    """Adds the command."""
    train = commands.add_parser("train", help="train the model of a config")
    add_config(train)
    train.add_argument(
        "--resume", nargs="?", const="last", metavar="CKPT", help="go on from a checkpoint, by default the last one"
    )
    train.add_argument("--quiet", action="store_true", help="show no progress")
    add_json(train)
    train.set_defaults(run=_train)


def _train(arguments: argparse.Namespace) -> int:
    from harness.config import load_config
    from harness.training.command import summary_of, text_of, train_config
    from harness.training.compute import leads

    config = load_config(arguments.config)
    if arguments.resume:
        config = config.resuming(arguments.resume)
    results = train_config(config, progress=not (arguments.quiet or arguments.json))
    if leads():
        print(json.dumps(summary_of(results)) if arguments.json else text_of(results))
    return 0
