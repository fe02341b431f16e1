"""Settings that lie beside a model: the defaults of a command line, and what JSON and YAML files hold."""

from __future__ import annotations

import ast
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_FOLDERS = ("", "config", "configs", "conf", "hparams")
_ENDINGS = (".json", ".yaml", ".yml")
_MANY_FILES, _LARGEST_FILE, _DEEPEST = 20, 100_000, 4

_FLAGS = {"store_true": False, "store_false": True}
"""What an option is by default, by its action."""


@dataclass(frozen=True)
class SettingsTable:
    """One table of a file.

    Attributes:
        place: The file, and the path of the table in it.
        values: By name.
    """

    place: str
    values: Mapping[str, Any]


def option_defaults(tree: ast.Module) -> dict[str, Any]:
    """What the options of a file's ``argparse`` are by default, by the name that their value has."""
    found: dict[str, Any] = {}
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add_argument"):
            continue
        flags = [each.value for each in node.args if isinstance(each, ast.Constant) and isinstance(each.value, str)]
        given = {each.arg: each.value for each in node.keywords if each.arg}
        name = next((flag for flag in flags if flag.startswith("--")), "").lstrip("-").replace("-", "_")
        name = str(_literal(given["dest"])) if "dest" in given else name
        value = _literal(given["default"]) if "default" in given else _FLAGS.get(str(_literal(given.get("action"))))
        if name and value is not None:
            found.setdefault(name, value)
    return found


def settings_tables(folders: Collection[Path]) -> Iterator[SettingsTable]:
    """The tables of the JSON and YAML files beside a model, those of names first that speak of models.

    Args:
        folders: The model's folder, and the root of its repository.
    """
    places = [folder / name for folder in folders for name in _FOLDERS if (folder / name).is_dir()]
    files = [file for place in places for ending in _ENDINGS for file in sorted(place.glob(f"*{ending}"))]
    for file in files[:_MANY_FILES]:
        yield from _tables_in(_read(file), file.name, 0)


def _tables_in(value: Any, place: str, depth: int) -> Iterator[SettingsTable]:
    if not isinstance(value, dict) or depth > _DEEPEST:
        return
    named = {name: inner for name, inner in value.items() if isinstance(name, str)}
    yield SettingsTable(place, named)
    for name, inner in named.items():
        yield from _tables_in(inner, f"{place}, {name}" if depth == 0 else f"{place}.{name}", depth + 1)


def _read(file: Path) -> Any:
    """What a file holds; ``None`` where it cannot be read."""
    try:
        if file.stat().st_size > _LARGEST_FILE:
            return None
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".json":
            return json.loads(text)
        import yaml

        return yaml.safe_load(text)
    except Exception:  # a file of another kind, or no reader of YAML: it says nothing
        return None


def _literal(node: ast.expr | None) -> Any:
    """The plain value of an expression; ``None`` where it is not one."""
    if node is None:
        return None
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None
    return value if isinstance(value, (bool, int, float, str, list)) else None
