"""A config for a model that has none, written to the cache: what ``pytest --model`` runs."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from harness.errors import ConfigError, ModelSourceError, did_you_mean
from harness.export.store import default_folder
from harness.files import text_hash, write_whole
from harness.model_file import architecture_of, settings_of
from harness.models.attempts import Patience
from harness.models.weights import CHECKPOINT
from harness.scaffold import scaffold
from harness.scaffold.config_text import SUGGESTIONS_FOLLOW, config_suggestions
from harness.scaffold.task import Told

_FOLDER = "configs"


@dataclass(frozen=True)
class ConfigApart:
    """A config in the cache.

    Attributes:
        config: The file; the same one for the same model.
        on_path: The folder from which the model's module is imported.
        text: What it says, without suggestions.
        keep: The command that writes it beside the model.
    """

    config: Path
    on_path: Path
    text: str
    keep: str


def config_apart(model: str, trust: bool = False, patience: Patience | None = None) -> ConfigApart:
    """Writes what ``modeltiers init`` would write.

    Args:
        model: A ``.py`` file, a folder of ``save_pretrained``, or ``pkg.mod:Class``.
        trust: Whether the file may start processes and use the network when it is imported.
        patience: The time there is, and who is told what is being done.

    Raises:
        UserError: There is no such model, or nothing is found that fits it; one line and what was tried.
    """
    path = Path(model).expanduser()
    apart = default_folder() / _FOLDER / text_hash(str(path.resolve()))[:12]
    if path.is_dir():
        config, text = apart / f"{_stem(path)}.toml", _of_folder(path, str(path.resolve()))
        write_whole(config, text)
        return ConfigApart(config, path.resolve().parent, text, f"modeltiers init {shlex.quote(model)}")
    file, factory = (path, None) if path.suffix == ".py" else _module_of(model)
    if not file.is_file():
        near = [other.name for other in file.parent.glob("*.py")] if file.parent.is_dir() else []
        raise ModelSourceError(f"--model: no such file {file}.{did_you_mean(file.name, near)}")
    config = apart / f"{_stem(file)}.toml"
    found = scaffold(file, config, Told(factory=factory, trust=trust), overwrite=True, apart=True, patience=patience)
    keep = f"modeltiers init {shlex.quote(str(file))}" + (f" --factory {factory}" if factory else "")
    written = json.dumps(Path(os.path.relpath(file.resolve(), config.resolve().parent)).as_posix())
    return ConfigApart(config, found.source.folder, _shown(config).replace(written, json.dumps(file.name)), keep)


def scaffold_folder(folder: Path, target: Path | None = None, *, overwrite: bool = False) -> Path:
    """Writes a config for a folder of ``save_pretrained``; returns it.

    Args:
        folder: The folder.
        target: Where the config goes; ``modeltiers.toml`` beside the folder by default.
        overwrite: Whether an existing file is replaced.

    Raises:
        ModelSourceError: It is no such folder.
        ConfigError: The config exists already, or has another ending.
    """
    config = target or folder.resolve().parent / "modeltiers.toml"
    if config.suffix != ".toml":
        raise ConfigError(f"{config}: the config of a folder ends in .toml")
    if config.exists() and not overwrite:
        raise ConfigError(f"{config} exists already; --force replaces it, --output writes the config elsewhere")
    written = os.path.relpath(folder.resolve(), config.resolve().parent)
    suggestions = "".join(f"# {line}\n" for line in config_suggestions().splitlines())
    write_whole(config, f"{_of_folder(folder, written)}\n{SUGGESTIONS_FOLLOW}\n{suggestions}")
    return config


def _of_folder(folder: Path, written: str) -> str:
    """The config of a folder, which says the folder as it is written."""
    settings = settings_of(folder)
    if settings is None:
        raise ModelSourceError(f"{folder} is a folder without a readable config.json, expected one of save_pretrained")
    name = architecture_of(settings) or "a model"
    return f"model = {json.dumps(written)}  # {name}; `modeltiers explain` shows its task, as config.json says it\n"


def _module_of(model: str) -> tuple[Path, str | None]:
    """The file of ``pkg.mod:Class``, and the name in it.

    Raises:
        ModelSourceError: There is no such module.
    """
    dotted, colon, name = model.partition(":")
    if model.endswith(CHECKPOINT):
        raise ModelSourceError(
            f'--model: {model} does not say its class; write a config: {{"model": "{model}", "model_file": "FILE.py", '
            '"model_factory": "CLASS"}'
        )
    if not colon or not all(part.isidentifier() for part in (*dotted.split("."), *name.split("."))):
        raise ModelSourceError(f"--model: got {model!r}, expected a .py file, a folder of save_pretrained, or pkg.mod:Class")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    importlib.invalidate_caches()
    try:
        spec = importlib.util.find_spec(dotted)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not (spec.origin or "").endswith(".py"):
        raise ModelSourceError(f"--model: no module {dotted!r} from {Path.cwd()}, nor among what is installed")
    return Path(spec.origin or ""), name


def _shown(config: Path) -> str:
    """A config as `init` wrote it, without its introduction and its suggestions."""
    lines = config.read_text(encoding="utf-8").split(SUGGESTIONS_FOLLOW)[0].splitlines()
    return "\n".join(line for line in lines if line and not line.startswith("#")) + "\n"


def _stem(path: Path) -> str:
    return path.resolve().stem or "model"
