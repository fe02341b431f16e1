"""What a local file would do to the machine when it is imported, or when its model is built: start a program, or use the network."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.scan.reach import Reach, ReachedCall
from harness.scan.rules import HARMLESS_CALLS, METHODS, NAMES, OS_STARTS, WHOLE_MODULES, Finding
from harness.scan.source import candidates, rule_of

_REFUSED = ("process", "network")
_TRAINS = ("backward", "fit")
_WORDS = re.compile(
    b"|".join(
        word.encode()
        for word in sorted(
            {name.partition(".")[0] for name, rule in {**WHOLE_MODULES, **NAMES}.items() if rule in _REFUSED}
            - {"torch", "os", "asyncio"}
            | {
                "hub",
                "model_zoo",
                "init_process_group",
                "TCPStore",
                "rpc",
                "exec",
                "eval",
                "import_module",
                "__import__",
                "spawn",
            }
            | {name for name, rule in METHODS.items() if rule in _REFUSED}
            | {r"os\W", "asyncio"}
        )
    )
)
"""What the text of a file has that starts programs or uses the network."""

_TRAINING_WORDS = re.compile(rb"\.(backward|fit)\(")


def dangerous_calls(path: Path, factory: str | None = None, kwargs: Mapping[str, Any] | None = None) -> Iterator[Finding]:
    """The calls that start programs or use the network when a file is imported and its model is built.

    A name that is only imported, and a function that nothing calls on the way, are no findings. A file that cannot be read or parsed has
    none either: its import says what is wrong.

    Args:
        path: The file.
        factory: The function or class that builds the model; ``None`` for the import only.
        kwargs: Its arguments.
    """
    for when, call in _reached(path, _WORDS, factory, kwargs or {}):
        for rule, subject in _starts(call):
            yield _finding(rule, call, subject, when)


def training_calls(path: Path) -> Iterator[Finding]:
    """The calls that train a model when a file is imported."""
    for when, call in _reached(path, _TRAINING_WORDS, None, {}):
        func = call.node.func
        if isinstance(func, ast.Attribute) and func.attr in _TRAINS:
            yield _finding("training", call, f".{func.attr}()", when)


def _reached(
    path: Path, words: re.Pattern[bytes], factory: str | None, kwargs: Mapping[str, Any]
) -> Iterator[tuple[str, ReachedCall]]:
    try:
        reach = Reach(path, words)
        yield from (("is imported", call) for call in reach.at_import())
        if factory is not None:
            yield from (("builds its model", call) for call in reach.at_build(factory, kwargs))
    except (OSError, SyntaxError, ValueError, RecursionError):
        return


def _starts(call: ReachedCall) -> Iterator[tuple[str, str]]:
    """The rules that a call breaks by what it calls, or by what it hands on to be called."""
    names = call.file.names
    handed_on = [*call.node.args, *(keyword.value for keyword in call.node.keywords)]
    for node in (call.node.func, *(each for each in handed_on if isinstance(each, (ast.Name, ast.Attribute)))):
        imported = names.is_import(node)
        for name in names.all_of(node):
            for candidate in candidates(name, imported):
                rule = rule_of(candidate)
                if rule in _REFUSED and _does_something(candidate):
                    yield str(rule), candidate
    func = call.node.func
    if isinstance(func, ast.Attribute) and METHODS.get(func.attr) in _REFUSED and not names.is_import(func):
        is_own = isinstance(func.value, ast.Name) and func.value.id in ("self", "cls")
        if not is_own:
            yield METHODS[func.attr], f".{func.attr}()"


def _does_something(name: str) -> bool:
    root, _, rest = name.partition(".")
    if root == "os":
        return rest.startswith(OS_STARTS)
    return bool(rest) and name not in HARMLESS_CALLS


def _finding(rule: str, call: ReachedCall, subject: str, when: str) -> Finding:
    line = call.node.lineno if call.file.lines else 0
    code = call.file.lines[line - 1].strip() if 0 < line <= len(call.file.lines) else ""
    return Finding(rule, str(call.file.path), line, subject, code, detail=f"when the file {when}")
