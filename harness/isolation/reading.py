"""What the isolated process may read of the user's files: the code that it imports and its project, without what is hidden there."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

_LONGEST = 1000
_NEVER = frozenset(map(Path, ("/", "/proc", "/sys", "/dev", "/run", "/etc", "/var", "/home", "/root", "/tmp")))


def imported_folders(own: Iterable[Path] = ()) -> list[str]:
    """What may be read for imports: the folders on ``sys.path``, those of packages installed as editable, and those of the code itself.

    Args:
        own: Folders of the code that is not trusted.
    """
    entries = [Path(entry) for entry in sys.path if entry]
    return sorted({str(found) for folder in (*entries, *_editable(), *own) for found in visible_entries(folder)})


def visible_entries(folder: Path) -> Iterator[Path]:
    """The files and folders in a folder, so far as they are not hidden: ``.git``, ``.env`` and ``.ssh`` hold secrets, code does not lie there.

    A file is itself. Links that lead out of the folder are left out, as are folders that hold those of users and processes.
    """
    if _is_for_packages(folder) or folder.is_file():
        yield folder
        return
    try:
        here, children = folder.resolve(), sorted(folder.iterdir())
    except OSError:
        return
    private = _private_folders()
    for child in children:
        target = child.resolve()
        if not child.name.startswith(".") and here in target.parents and target not in private:
            yield child


def named_paths(keys: Any, folder: Path) -> Iterator[Path]:
    """The files and folders that the keys of a config name, except those in hidden folders of the user's home.

    Args:
        keys: Keys and values, nested as they are.
        folder: What relative paths start from.
    """
    if isinstance(keys, dict):
        keys = list(keys.values())
    if isinstance(keys, (list, tuple)):
        for value in keys:
            yield from named_paths(value, folder)
    elif isinstance(keys, (str, Path)) and str(keys) and len(str(keys)) < _LONGEST and "\0" not in str(keys):
        path = Path(folder, keys).resolve()
        if path not in _private_folders() and path != folder.resolve() and not _is_hidden(path) and path.exists():
            yield path


def _is_hidden(path: Path) -> bool:
    home = _home()
    return home is not None and home in path.parents and path.relative_to(home).parts[0].startswith(".")


def _private_folders() -> set[Path]:
    """Home folders, and what holds them."""
    home = _home()
    return set(_NEVER) if home is None else {*_NEVER, home, *home.parents}


def _home() -> Path | None:
    try:
        return Path.home().resolve()
    except (OSError, RuntimeError):  # a user without one
        return None


def _is_for_packages(folder: Path) -> bool:
    return bool({"site-packages", "dist-packages"} & set(folder.parts))


def _editable() -> Iterator[Path]:
    """Folders of packages that setuptools finds by a table instead of a path."""
    for name, module in list(sys.modules.items()):
        if name.startswith("__editable__"):
            places = getattr(module, "MAPPING", None)
            yield from (Path(place) for place in (places or {}).values() if os.path.exists(place))
