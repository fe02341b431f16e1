"""The rules of the house, held against the imports of every file."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
GROUND = 0
LEVELS = {
    "errors": GROUND,
    "files": GROUND,
    "compat": GROUND,
    "runtime": GROUND,
    "wording": GROUND,
    "tasks": GROUND,
    "evidence": GROUND,
    "internal_errors": GROUND,
    "owners": GROUND,
    "formats": GROUND,
    "config_keys": GROUND,
    "catalogue": GROUND,
    "config": GROUND,
    "config_file": GROUND,
    "config_mistakes": GROUND,
    "user_code": GROUND,
    "processes": GROUND,
    "statistics": GROUND,
    "batches": GROUND,
    "adapters": GROUND,
    "scan": GROUND,
    "isolation": GROUND,
    "gists": 1,
    "models": 1,
    "data": 1,
    "properties": 1,
    "health": 1,
    "analysis": 2,
    "export": 2,
    "experiments": 2,
    "evaluation": 2,
    "training": 3,
    "monitoring": 3,
    "sweeps": 4,
    "repro": 4,
    "scaffold": 2,
    "cli": 5,
    "__main__": 6,
    "__init__": GROUND,
}
"""Rooms of harness: an import goes to a lower level, or to a neighbour on the same one."""

FILES = sorted(path for package in ("harness", "pytest_modeltiers") for path in (ROOT / package).rglob("*.py"))


def imports_of(path: Path) -> Iterator[tuple[str, bool]]:
    """Modules a file imports, and whether it does so at its top."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, id(node) in top
        elif isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in top) for alias in node.names)


def room_of(module: str) -> str:
    return [*module.split("."), "__init__"][1]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_arrows_point_one_way(path: Path) -> None:
    package, room = path.relative_to(ROOT).parts[0], path.relative_to(ROOT).parts[1].removesuffix(".py")
    for module, _ in imports_of(path):
        if package == "harness":
            assert not module.startswith(("pytest", "_pytest", "hypothesis")), (
                f"harness knows nothing of pytest, but imports {module}"
            )
        if package == "harness" and module.startswith("harness"):
            assert LEVELS[room_of(module)] <= LEVELS[room], f"{room} may not import {module}"


def test_no_circles_between_the_rooms_of_harness() -> None:
    arrows: dict[str, set[str]] = {}
    for path in FILES:
        parts = path.relative_to(ROOT).parts
        if parts[0] == "harness":
            room = parts[1].removesuffix(".py")
            arrows.setdefault(room, set()).update(
                room_of(m) for m, top in imports_of(path) if top and m.startswith("harness.") and room_of(m) != room
            )

    def visit(room: str, way: tuple[str, ...]) -> None:
        assert room not in way, f"circle: {' -> '.join((*way, room))}"
        for other in arrows.get(room, ()):
            visit(other, (*way, room))

    for room in arrows:
        visit(room, ())


def test_every_room_has_a_level() -> None:
    rooms = {path.relative_to(ROOT / "harness").parts[0].removesuffix(".py") for path in (ROOT / "harness").rglob("*.py")}
    assert rooms == set(LEVELS)


def test_the_entry_point_imports_the_standard_library_and_pytest_alone() -> None:
    allowed = {"pytest", "__future__", *sys.stdlib_module_names}
    for path in (ROOT / "pytest_modeltiers" / "plugin.py", ROOT / "pytest_modeltiers" / "__init__.py"):
        heavy = [module for module, top in imports_of(path) if top and module.split(".")[0] not in allowed]
        assert heavy == []


@pytest.mark.parametrize("module", ["harness", "harness.config", "harness.catalogue", "harness.cli", "pytest_modeltiers.plugin"])
def test_light_modules_import_no_torch(module: str) -> None:
    code = f"import {module}, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
