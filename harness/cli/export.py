"""``modeltiers export`` and ``modeltiers bundle``."""

from __future__ import annotations

import argparse
import json
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
    verify = bundle.add_subparsers(metavar="").add_parser("verify", help="check every hash, and replay the golden batches")
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
