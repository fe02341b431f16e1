"""``modeltiers train``, ``sweep``, ``runs`` and ``repro``: what is trained, and what was trained before."""

from __future__ import annotations

import argparse
import json
import warnings
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
    from harness.training.compute import leads
    from harness.training.run import summary_of, text_of, train_config

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
    from harness.sweeps import SweepOptions, sweep_config

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


_DEFAULT = "experiments.db"


def add_runs(commands: Any) -> None:
    """Adds ``runs``."""
    runs = commands.add_parser("runs", help="list the runs of an experiment database, or show one")
    runs.add_argument("reference", nargs="?", metavar="RUN", help="id or name of a run")
    add_config(runs, required=False)
    runs.add_argument(
        "--db",
        metavar="PATH",
        help="a file, or the URL of a PostgreSQL database; by default that of --config, or experiments.db here",
    )
    runs.add_argument("--name", metavar="NAME", help="only runs of this name")
    runs.add_argument(
        "--metric", metavar="METRIC", help="show a metric of each run, the best first; of RUN one series of its windows"
    )
    runs.add_argument(
        "--svg", type=Path, metavar="FILE", help="with --metric: draw the series of RUN, with its limits, as a picture"
    )
    runs.add_argument("--to-mlflow", metavar="URI", help="copy RUN to the MLflow server or database at this address")
    runs.add_argument("--send", type=Path, metavar="FOLDER", help="send what runs left there while the database was away")
    add_json(runs)
    runs.set_defaults(run=_runs)


def _runs(arguments: argparse.Namespace) -> int:
    from harness.experiments.command import answer, copy_to_mlflow, send

    database = _database(arguments)
    if arguments.send is not None:
        found = send(database, arguments.send)
    elif arguments.to_mlflow:
        found = copy_to_mlflow(database, arguments.reference, arguments.to_mlflow)
    else:
        found = answer(database, arguments.reference, arguments.name, arguments.metric, arguments.svg)
    print(json.dumps(found.data) if arguments.json else found.text)
    return 0


def _database(arguments: argparse.Namespace) -> str | Path:
    """The database that is asked for: by its path, or by the config that names it."""
    if arguments.db is not None or arguments.config is None:
        return arguments.db or _DEFAULT
    from harness.config import load_config

    return load_config(arguments.config).database


def add_repro(commands: Any) -> None:
    """Adds ``repro``."""
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
