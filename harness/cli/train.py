"""``modeltiers train`` and ``modeltiers sweep``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from harness.cli.arguments import add_config, add_json


def add_train(commands: Any) -> None:
    """Adds ``train``."""
    train = commands.add_parser("train", help="train the model of a config")
    add_config(train)
    train.add_argument(
        "--resume", nargs="?", const="last", metavar="CKPT", help="resume from a checkpoint, by default the last one"
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


def add_sweep(commands: Any) -> None:
    """Adds ``sweep``."""
    sweep = commands.add_parser("sweep", help="train a config for every combination of some of its values")
    add_config(sweep)
    sweep.add_argument(
        "--grid",
        action="append",
        default=[],
        required=True,
        metavar="KEY=A,B",
        help="values of a key, or a JSON file; repeatable",
    )
    sweep.add_argument("--metric", default="val_loss", metavar="NAME", help="what the trials are ordered by (val_loss)")
    sweep.add_argument("--mode", choices=("min", "max"), default="min", help="whether smaller or greater is better (min)")
    sweep.add_argument(
        "--executor", choices=("inline", "processes", "ray"), default="inline", help="where the trials run (inline)"
    )
    sweep.add_argument("--workers", type=int, metavar="N", help="trials at once")
    sweep.add_argument("--db", metavar="PATH", help="a file, or the URL of a PostgreSQL database (the config's)")
    sweep.add_argument("--name", metavar="NAME", help="the sweep's name")
    sweep.add_argument("--resume", type=int, metavar="ID", help="resume a sweep")
    sweep.add_argument(
        "--output", type=Path, metavar="DIR", help="where the table and the plot go (sweep-ID beside the database)"
    )
    sweep.add_argument("--quiet", action="store_true", help="show no progress")
    add_json(sweep)
    sweep.set_defaults(run=_sweep)


def _sweep(arguments: argparse.Namespace) -> int:
    from harness.sweeps.run import sweep_config
    from harness.sweeps.sweep import SweepOptions

    options = SweepOptions(
        metric=arguments.metric,
        mode=arguments.mode,
        executor=arguments.executor,
        workers=arguments.workers,
        name=arguments.name,
        resume=arguments.resume,
        output_dir=arguments.output,
        progress=not (arguments.quiet or arguments.json),
    )
    answer = sweep_config(arguments.config, arguments.grid, options, arguments.db)
    print(json.dumps(answer.data) if arguments.json else answer.text)
    return 1 if answer.data["status"] == "fail" else 0
