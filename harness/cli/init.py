"""``modeltiers init``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add(commands: Any) -> None:
    """Adds the command."""
    init = commands.add_parser("init", help="write a config by looking at a model file")
    init.add_argument("model", type=Path, metavar="MODEL.py", help="file with a model factory or class")
    init.add_argument("--output", type=Path, metavar="FILE", help="where the config goes (modeltiers.json beside the model)")
    init.add_argument("--force", action="store_true", help="replace an existing config")
    init.set_defaults(run=_init)


def _init(arguments: argparse.Namespace) -> int:
    from harness.scaffold import scaffold

    path, guess = scaffold(arguments.model, arguments.output, overwrite=arguments.force)
    print(f"wrote {path}")
    for key, reason in guess.reasons.items():
        value = guess.task.task_type.value if key == "task_type" else getattr(guess.task, key)
        print(f"  {key} = {value}: {reason}")
    print(f"next: pytest --model-config {path}")
    return 0
