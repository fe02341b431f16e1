"""``modeltiers init``: a config for a model file, written by looking at the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harness.errors import ConfigError
from harness.health.report import write_whole
from harness.models.inspection import Guess, find_factory, guess_task
from harness.models.loading import ModelSource
from harness.user_code import import_file


def scaffold(model_file: Path, target: Path | None = None, *, overwrite: bool = False) -> tuple[Path, Guess]:
    """Writes a config for a model file.

    Args:
        model_file: The ``.py`` file.
        target: Where the config goes; ``modeltiers.json`` beside the model by default.
        overwrite: Whether an existing config is replaced.

    Returns:
        The config's path, and what was guessed.

    Raises:
        UserError: The file does not import, makes no model, fits no task, or the config exists already.
    """
    target = target or model_file.parent / "modeltiers.json"
    if target.exists() and not overwrite:
        raise ConfigError(f"{target} exists already; --force replaces it, --output writes elsewhere")
    module = import_file(model_file.resolve(), "MODEL.py")
    factory = find_factory(module)
    model = ModelSource(getattr(module, factory), f"{model_file.name}:{factory}").build()
    guess = guess_task(model)
    return write_whole(target, json.dumps(_keys(model_file, target, factory, guess), indent=2) + "\n"), guess


def _keys(model_file: Path, target: Path, factory: str, guess: Guess) -> dict[str, Any]:
    task = guess.task
    folder = target.resolve().parent
    file = model_file.resolve()
    keys: dict[str, Any] = {
        "task_name": file.stem,
        "task_type": task.task_type.value,
        "model_file": file.relative_to(folder).as_posix() if folder in file.parents else str(file),
    }
    if factory != "build_model":
        keys["model_factory"] = factory
    for name in ("vocab_size", "max_seq_len", "pad_token_id", "image_size", "num_classes", "num_features"):
        value = getattr(task, name)
        if value is not None:
            keys[name] = list(value) if isinstance(value, tuple) else value
    return keys
