"""The rules of the architecture, checked against the imports of every file. ARCHITECTURE.md says them in words."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Set
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
LONGEST = 400
"""Lines of a file."""

LEVELS = {
    "errors": 0,
    "files": 0,
    "documents": 0,
    "compat": 0,
    "runtime": 0,
    "wording": 0,
    "tasks": 0,
    "evidence": 0,
    "excerpts": 0,
    "internal_errors": 0,
    "owners": 0,
    "formats": 0,
    "config_keys": 0,
    "config_values": 0,
    "catalogue": 0,
    "config": 0,
    "config_file": 0,
    "config_mistakes": 0,
    "partial_import": 0,
    "user_code": 0,
    "written_in": 0,
    "model_file": 0,
    "processes": 0,
    "provenance": 0,
    "process_state": 0,
    "statistics": 0,
    "batches": 0,
    "adapters": 0,
    "scan": 0,
    "isolation": 0,
    "gists": 1,
    "models": 1,
    "data": 1,
    "recording": 1,
    "properties": 1,
    "charts": 1,
    "health": 1,
    "fixes": 1,
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
    "__init__": 0,
}
"""Rooms of harness: an import goes to a lower level, or to a neighbour on the same one."""

FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("harness", "pytest_modeltiers")
    for path in sorted((ROOT / package).rglob("*.py"))
}
"""Every file by its module's name."""


class Import(NamedTuple):
    """An import: what, by whom, and whether it is at the top of the file."""

    by: str
    what: str
    is_at_top: bool


def imports_of(module: str) -> Iterator[Import]:
    """What a file imports, late imports included; not what only type checkers see."""
    tree = ast.parse(FILES[module].read_text(encoding="utf-8"))
    unseen = {id(inner) for node in ast.walk(tree) if _is_for_types(node) for inner in ast.walk(node)}
    top = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        if id(node) in unseen:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            yield from (Import(module, name if name in FILES else node.module, id(node) in top) for name in sorted(names))
        elif isinstance(node, ast.Import):
            yield from (Import(module, alias.name, id(node) in top) for alias in node.names)


def _is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


@cache
def all_imports() -> tuple[Import, ...]:
    return tuple(found for module in FILES for found in imports_of(module))


def room_of(module: str) -> str:
    return [*module.split("."), "__init__"][1]


def circles(arrows: Mapping[str, Set[str]]) -> set[frozenset[str]]:
    """Groups of more than one place that all lead to one another (Tarjan, SIAM Journal on Computing 1, 1972)."""
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    open_: list[str] = []
    found: set[frozenset[str]] = set()

    def visit(place: str) -> None:
        number[place] = low[place] = len(number)
        open_.append(place)
        for other in sorted(arrows.get(place, ())):
            if other not in number:
                visit(other)
                low[place] = min(low[place], low[other])
            elif other in open_:
                low[place] = min(low[place], number[other])
        if low[place] == number[place]:
            group = open_[open_.index(place) :]
            del open_[open_.index(place) :]
            if len(group) > 1:
                found.add(frozenset(group))

    for place in sorted(arrows):
        if place not in number:
            visit(place)
    return found


def test_harness_knows_nothing_of_pytest() -> None:
    foreign = [i for i in all_imports() if i.by.startswith("harness") and i.what.startswith(("pytest", "_pytest", "hypothesis"))]
    assert foreign == []


def test_arrows_point_one_way() -> None:
    inside = [i for i in all_imports() if i.by.startswith("harness") and i.what.startswith("harness")]
    assert [i for i in inside if LEVELS[room_of(i.what)] > LEVELS[room_of(i.by)]] == []


LOADED_BY_NAME = {
    "harness": "the public names, imported where they are asked for",
    "harness.catalogue": "a property's entry names its function",
    "harness.formats": "a format's entry names its exporter",
    "harness.config": "an example is read by calling the model, which a config without an example must not import",
}
"""What names modules of a higher level as text, to import them where they are used, and why."""


def test_higher_modules_are_loaded_by_name_from_known_places_only() -> None:
    def names(module: str) -> Iterator[str]:
        for node in ast.walk(ast.parse(FILES[module].read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value.partition(":")[0]

    harness = [module for module in FILES if module.startswith("harness")]
    upwards = {
        module
        for module in harness
        for name in names(module)
        if name in harness and LEVELS[room_of(name)] > LEVELS[room_of(module)]
    }
    assert {module if module in LOADED_BY_NAME else module.rpartition(".")[0] for module in upwards} == set(LOADED_BY_NAME)


def test_no_circles_between_the_rooms_of_harness() -> None:
    arrows: dict[str, set[str]] = {}
    for found in all_imports():
        if found.by.startswith("harness.") and found.what.startswith("harness.") and room_of(found.by) != room_of(found.what):
            arrows.setdefault(room_of(found.by), set()).add(room_of(found.what))
    assert circles(arrows) == set()


def test_no_circles_between_files() -> None:
    arrows: dict[str, set[str]] = {}
    for found in all_imports():
        if found.what in FILES and found.what != found.by:
            arrows.setdefault(found.by, set()).add(found.what)
    assert circles(arrows) == set()


def test_circles_are_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"e"}, "e": set()}) == {frozenset("abc")}


def test_every_room_has_a_level() -> None:
    assert {room_of(module) for module in FILES if module.startswith("harness")} == set(LEVELS)


def test_no_file_is_longer_than_it_can_be_read() -> None:
    lengths = {module: len(path.read_text(encoding="utf-8").splitlines()) for module, path in FILES.items()}
    assert {module: lines for module, lines in lengths.items() if lines > LONGEST} == {}


NAMES_TASK_TYPES = {
    "harness": "a public name",
    "harness.cli.init": "an option of the command",
    "harness.config": "the key",
    "harness.config_keys": "the key",
    "harness.config_values": "the presets",
    "harness.export.bundle.contract": "a key of the file",
    "harness.models.answers": "init looks for the type that a model fits",
    "harness.models.attempts": "init looks for the type that a model fits",
    "harness.models.inspection": "init looks for the type that a model fits",
    "harness.models.stubs": "the embedded models, one for each type",
    "harness.model_file": "the type that an architecture's name stands for",
    "harness.scaffold.task": "init looks for the type that a model fits",
    "harness.scaffold.config_text": "init writes the key",
    "harness.scaffold.example": "a message about the key",
    "pytest_modeltiers.live": "an example of its use",
}
"""The files beside `tasks` that name task types, and why; all others ask for facts of the signature."""


def test_files_ask_for_facts_and_not_for_task_types() -> None:
    naming = {
        module
        for module, path in FILES.items()
        if not module.startswith("harness.tasks")
        and any(word in path.read_text(encoding="utf-8") for word in ("TaskType", "task_type"))
    }
    assert naming == NAMES_TASK_TYPES.keys()


def test_no_name_of_a_package_is_the_name_of_a_file_in_it() -> None:
    """Importing the file would put it in the place of what has its name."""
    packages = {module: path for module, path in FILES.items() if path.name == "__init__.py"}
    hidden = [
        f"{module}.{name}"
        for module, path in packages.items()
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        for name in _names_bound_by(node)
        if f"{module}.{name}" in FILES and getattr(node, "module", "") != f"{module}.{name}"
    ]
    assert hidden == []


def _names_bound_by(node: ast.stmt) -> list[str]:
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return [alias.asname or alias.name for alias in node.names]
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return [node.name]
    return [name.id for name in ast.walk(node) if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)]


def test_the_entry_point_imports_only_the_standard_library_and_pytest() -> None:
    entry_point = tuple(
        f"pytest_modeltiers{part}" for part in ("", ".plugin", ".crashes", ".hooks", ".progress", ".without_config")
    )
    allowed = {"pytest", "__future__", *sys.stdlib_module_names}
    light = [i for i in all_imports() if i.by in entry_point and i.is_at_top and i.what not in entry_point]
    assert [i for i in light if i.what.split(".")[0] not in allowed] == []


def test_light_modules_import_no_torch() -> None:
    light = "harness, harness.config, harness.catalogue, harness.cli, harness.monitoring.table_command, pytest_modeltiers.plugin"
    code = f"import {light}, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def _paths_named_in_the_plan() -> Iterator[Path]:
    """The files and folders that ARCHITECTURE.md names: in its tree, by their folders' indentation, and whole in its text."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    folders: list[tuple[int, Path]] = []
    for line in text.partition("```text\n")[2].partition("```")[0].splitlines():
        indent = len(line) - len(line.lstrip())
        folders = [each for each in folders if each[0] < indent]
        above = folders[-1][1] if folders else ROOT
        names = re.findall(r"\S+", re.match(r"\s*((?:[\w/]+(?:\.py|/)(?:\s|$))*)", line)[1])  # type: ignore[index]
        if len(names) == 1 and names[0].endswith("/"):
            folders.append((indent, above / names[0]))
        yield from (above / name for name in names)
    yield from (
        ROOT / name for name in re.findall(r"`((?:harness|pytest_modeltiers|tests|docs|benchmarks|examples)/[\w/.-]+)`", text)
    )


def test_every_path_that_the_plan_names_exists() -> None:
    named = list(_paths_named_in_the_plan())
    assert len(named) > 200
    assert [str(path) for path in named if not path.exists()] == []


def test_the_changelog_says_nothing_twice() -> None:
    """Git joins what two branches add to it, and so may keep a line that one of them has moved."""
    lines = [line for line in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").splitlines() if len(line) > 40]
    assert sorted({line for line in lines if lines.count(line) > 1}) == []
