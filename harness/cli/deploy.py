"""``modeltiers export``, ``bundle``, ``profile`` and ``monitor``: what comes after a training."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from harness.cli.arguments import add_config, add_json
from harness.errors import ConfigError


def add_export(commands: Any) -> None:
    """Adds ``export``."""
    export = commands.add_parser("export", help="export the model of a config to its formats")
    add_config(export)
    export.add_argument("--output", type=Path, metavar="DIR", help="where the files go (the config's export_dir)")
    export.add_argument(
        "--format", action="append", default=[], metavar="NAME", help="a format, instead of those of the config; repeatable"
    )
    add_json(export)
    export.set_defaults(run=_export)


def _export(arguments: argparse.Namespace) -> int:
    from harness.export.export_model import export_config

    files = export_config(arguments.config, arguments.output, arguments.format)
    if arguments.json:
        print(json.dumps({"status": "ok", "export": {name: str(path) for name, path in files.items()}}))
        return 0
    for name, path in files.items():
        print(f"{name}: {path}")
    return 0


def add_bundle(commands: Any) -> None:
    """Adds ``bundle``."""
    bundle = commands.add_parser("bundle", help="pack everything a deployment needs; `bundle verify DIR` replays it")
    add_config(bundle, required=False)
    bundle.add_argument("--output", type=Path, metavar="DIR", help="where the bundle goes (<name>-bundle beside the config)")
    bundle.add_argument(
        "--layout", action="append", default=[], metavar="NAME", help="also a layout for triton or mlflow; repeatable"
    )
    bundle.add_argument("--no-health", action="store_true", help="without running the health checks")
    add_json(bundle)
    bundle.set_defaults(run=_bundle)
    further = bundle.add_subparsers(metavar="")
    bundle.commands = further.choices
    verify = further.add_parser("verify", help="check every hash, and replay the golden batches")
    verify.add_argument("folder", type=Path, metavar="DIR", help="the bundle")
    verify.add_argument("--trust", action="store_true", help="also load formats that can run code when loaded")
    add_json(verify)
    verify.set_defaults(run=_verify)


def _bundle(arguments: argparse.Namespace) -> int:
    from harness.export.export_model import bundle_config

    if arguments.config is None:
        raise ConfigError("bundle: give --config FILE, or `bundle verify DIR`")
    made = bundle_config(arguments.config, arguments.output, arguments.layout, health=not arguments.no_health)
    if arguments.json:
        print(json.dumps(made))
    else:
        graded = f"; grade {made['grade']}" if made["grade"] else ""
        print(f"wrote {made['bundle']} ({', '.join(made['formats'])}{graded})")
        for message in made["failed"]:
            print(f"  failed: {message}")
    return 1 if made["status"] == "fail" else 0


def _verify(arguments: argparse.Namespace) -> int:
    from harness.export.bundle.verify import verify_bundle

    report = verify_bundle(arguments.folder, trust=arguments.trust)
    print(json.dumps(report.to_json()) if arguments.json else report)
    return 0 if report.ok else 1


def add_profile(commands: Any) -> None:
    """Adds ``profile``."""
    profile = commands.add_parser("profile", help="profile the data of a config, or a table, as a reference for monitoring")
    profile.add_argument("file", type=Path, nargs="?", metavar="FILE", help="a table to profile without a model: Parquet, CSV, …")
    add_config(profile, required=False)
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
        "--without", action="append", default=[], metavar="COLUMN", help="a column of FILE that is not a feature; repeatable"
    )
    profile.add_argument(
        "--categorical", action="append", default=[], metavar="COLUMN", help="a column of FILE that is levels; repeatable"
    )
    _add_parts(profile)
    profile.add_argument(
        "--windows",
        metavar="COLUMN[:UNIT]",
        help="a column of dates, by hour, day, week or month, or of batches: FILE is windows that show how far sound ones differ "
        "(default: days or weeks of its only column of dates)",
    )
    profile.add_argument(
        "--joint",
        action="store_true",
        help="keep the numbers of up to 1,000 rows, so that a classifier can compare rows as a whole with them",
    )
    profile.add_argument(
        "--familiarity",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="estimate accuracy by how near rows are to training rows, of which up to 1,000 are kept (default: where inputs are "
        "images or tables of at most 1,024 numbers a row); --no-familiarity keeps none and goes by the model's confidence",
    )
    add_json(profile)
    profile.set_defaults(run=_profile)


def _add_parts(command: argparse.ArgumentParser) -> None:
    """Adds what is looked at beside the columns of a FILE."""
    command.add_argument(
        "--slices",
        action="append",
        default=[],
        metavar="COLUMN",
        help="a column of FILE whose values are compared one by one too; repeatable",
    )
    command.add_argument(
        "--measure",
        action="append",
        default=[],
        metavar="WHAT",
        help="what is measured of FILE's rows too: NAME=COLUMN~REGEX, such as refused=answer~^Sorry, or FILE.py:FUNCTION, which takes "
        "the rows as lists by column and returns new columns by name, such as scores or embeddings; repeatable",
    )


def _profile(arguments: argparse.Namespace) -> int:
    if arguments.file is not None and arguments.config is None:
        from harness.monitoring.measures import Measure
        from harness.monitoring.table_command import profile_file
        from harness.monitoring.tables import TableOptions

        options = TableOptions(
            categorical=arguments.categorical,
            without=arguments.without,
            slices=arguments.slices,
            measures=[Measure.parse(one) for one in arguments.measure],
            joint=arguments.joint,
            windows=arguments.windows,
        )
        answer = profile_file(arguments.file, options, arguments.db, arguments.name)
        print(json.dumps(answer.data, allow_nan=False) if arguments.json else answer.text)
        return 0
    _check_one(arguments, "profile")
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
        joint=arguments.joint,
    )
    print(json.dumps(found.data, allow_nan=False) if arguments.json else found.text)
    return 0


def _check_one(arguments: argparse.Namespace, command: str) -> None:
    """Refuses a table beside a config, and neither; and what is said of a table's columns beside a config, whose ``eval`` says it."""
    of_table = [name for name in ("windows", "slices", "without", "categorical", "measure") if getattr(arguments, name, None)]
    if arguments.file is None and of_table:
        raise ConfigError(f"{command}: --{of_table[0]} is for a FILE; of a model's data, the config says it (`eval`)")
    if (arguments.file is None) == (arguments.config is None):
        raise ConfigError(f"{command}: give --config FILE for a model and its data, or a table without a model")


def add_monitor(commands: Any) -> None:
    """Adds ``monitor``."""
    monitor = commands.add_parser("monitor", help="evaluate a model, compare it with its baseline, and its data with a profile")
    monitor.add_argument("file", type=Path, nargs="?", metavar="FILE", help="a table to compare with --reference without a model")
    add_config(monitor, required=False)
    monitor.add_argument("--db", metavar="PATH", help="where the reference of FILE is stored (experiments.db)")
    monitor.add_argument("--baseline", metavar="RUN", help="the run to compare with, by id or name, instead of the config's")
    monitor.add_argument(
        "--reference",
        metavar="RUN",
        help="the run whose profile to compare with, instead of the config's; of FILE another file too",
    )
    _add_parts(monitor)
    monitor.add_argument(
        "--html", type=Path, metavar="PAGE", help="a page that lists every feature, the worst first, with a search"
    )
    monitor.add_argument(
        "--at", metavar="TIME", type=datetime.fromisoformat, help="when the data is of, such as 2026-11-30T02:00; by default now"
    )
    monitor.add_argument("--strict", action="store_true", help="warnings fail")
    add_json(monitor)
    monitor.set_defaults(run=_monitor)


def _monitor(arguments: argparse.Namespace) -> int:
    if arguments.file is not None and arguments.config is None:
        from harness.monitoring.table_command import monitor_file

        if arguments.reference is None:
            raise ConfigError("monitor: name what to compare with by --reference: a stored profile, or another file")
        if arguments.at is not None:
            raise ConfigError(
                "monitor: --at is for a config, whose windows are stored; a table without a model has no history: leave it out"
            )
        answer = monitor_file(
            arguments.file,
            arguments.reference,
            arguments.db,
            arguments.html,
            slices=arguments.slices,
            measures=arguments.measure,
        )
        print(json.dumps(answer.data, allow_nan=False) if arguments.json else answer.text)
        return int(answer.data["status"] == "fail" or (arguments.strict and answer.data["status"] == "warn"))
    _check_one(arguments, "monitor")
    from harness.config import load_config
    from harness.monitoring.run import monitor_config

    config = load_config(arguments.config)
    with _progress(quiet=arguments.json) as on_batch:
        found = monitor_config(
            config,
            baseline=arguments.baseline,
            reference=arguments.reference,
            time=arguments.at,
            on_batch=on_batch,
            html=arguments.html,
        )
    print(json.dumps(found.data, allow_nan=False) if arguments.json else found.text)
    return int(found.data["status"] == "fail" or (arguments.strict and found.data["status"] == "warn"))


def add_power(commands: Any) -> None:
    """Adds ``power``."""
    power = commands.add_parser(
        "power", help="say how many rows a window needs for drift, a loss of accuracy or a missed threshold to be found"
    )
    add_config(power)
    add_json(power)
    power.set_defaults(run=_power)


def _power(arguments: argparse.Namespace) -> int:
    from harness.config import load_config
    from harness.monitoring.power import power_config

    found = power_config(load_config(arguments.config))
    print(json.dumps(found.data, allow_nan=False) if arguments.json else found.text)
    return 0


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
    """A bar on stderr for as long as the evaluation takes, where there is a terminal."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("evaluating", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
