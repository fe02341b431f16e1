"""What a file of code would do that a model has no need to do, found by reading it.

A list of names is no proof: whoever wants to can write code that does harm and shows none of them. The scan is there to make the
ordinary attempt visible before anything runs; ``harness.isolation`` is for the others.
"""

from __future__ import annotations

import ast
import io
import logging
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from harness.files import read_regular
from harness.scan.needed import needed_part
from harness.scan.reach import PartOf, Reach, ReachedCall
from harness.scan.rules import HARMLESS_CALLS, METHODS, NAMES, OS_STARTS, RULES, WHOLE_MODULES, Finding, ScanWarning
from harness.scan.source import candidates, rule_of, scan_source

__all__ = [
    "RULES",
    "Finding",
    "PartRun",
    "ScanWarning",
    "dangerous_calls",
    "part_run",
    "scan_files",
    "scan_source",
    "training_calls",
]

_NATIVE = (".so", ".pyd", ".dll", ".dylib", ".pyc", ".pyo", ".whl", ".egg", ".zip")
_CODE = (".pt2", ".onnx", ".pte", ".jit", ".torchscript")
_PYTHON = (".py", ".pyw", ".pyi")
_INSTALLED = frozenset(
    {"torch", "numpy", "harness", "pytest", "pytest_modeltiers", "transformers", "lightning", "safetensors", "conftest"}
)

PICKLED = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz")
"""Endings of files that may hold a pickle."""


def scan_files(files: Mapping[str, bytes]) -> list[Finding]:
    """What files that are imported together would do that a model has no need to do."""
    return [finding for name, content in sorted(files.items()) for finding in _scan_one(name, content)]


def _scan_one(name: str, content: bytes) -> list[Finding]:
    path = PurePosixPath(name)
    if path.suffix in _PYTHON:
        own = [] if path.stem not in _INSTALLED | sys.stdlib_module_names else [Finding("shadowing", name, 0, f"`{path.stem}`")]
        return own + scan_source(content, name)
    if path.suffix in PICKLED:
        return scan_weights(io.BytesIO(content), name)
    if path.suffix in _NATIVE or content.startswith((b"\x7fELF", b"MZ", b"\xcf\xfa\xed\xfe", b"PK\x03\x04")):
        return [Finding("foreign_file", name, 0, "it", detail="compiled or packed code")]
    if path.suffix in _CODE:
        return [Finding("foreign_file", name, 0, "it", detail=f"{path.suffix} can hold code, or name files elsewhere")]
    return []


_STATE = (".pt", ".pth", ".bin", ".ckpt")
"""Endings of files in which there is always one, that names at least how tensors are rebuilt."""

logging.getLogger("picklescan").addHandler(logging.NullHandler())  # it reports to us, not to the user's terminal


def scan_weights(content: IO[bytes], file: str) -> list[Finding]:
    """What a file of weights would run if it were unpickled.

    Without picklescan (the extra ``gist``), or where it finds nothing to scan, the file as a whole is a finding: what was not looked at
    is not sound.
    """
    try:
        from picklescan.scanner import SafetyLevel, scan_bytes
    except ImportError:
        return [Finding("unpickling", file, 0, "a pickle", detail="not looked into: picklescan is not installed")]
    try:
        result = scan_bytes(content, file, file_ext=f".{file.rpartition('.')[2]}")
    except Exception as error:  # whatever a broken file does to a scanner
        return [Finding("unpickling", file, 0, "a pickle", detail=f"picklescan: {type(error).__name__}")]
    named = {f"{found.module}.{found.name}" for found in result.globals if found.safety is not SafetyLevel.Innocuous}
    if result.scan_err or not result.scanned_files or (file.endswith(_STATE) and not result.globals):
        return [Finding("unpickling", file, 0, "a pickle", detail="picklescan could not read it")]
    return [Finding("unpickling", file, 0, name) for name in sorted(named)]


def dangerous_names(content: IO[bytes], file: str) -> list[str]:
    """Names in a file of weights that picklescan knows to be dangerous; none where it is not installed or cannot read the file."""
    try:
        from picklescan.scanner import SafetyLevel, scan_bytes

        result = scan_bytes(content, file, file_ext=f".{file.rpartition('.')[2]}")
    except Exception:  # not installed, or a file that torch will have a word for
        return []
    return sorted({f"{found.module}.{found.name}" for found in result.globals if found.safety is SafetyLevel.Dangerous})


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


@dataclass(frozen=True)
class PartRun:
    """What is run of a file whose import would do more than define models.

    Attributes:
        tree: The statements.
        because: The first call that no model needs.
    """

    tree: ast.Module
    because: Finding

    @property
    def why(self) -> str:
        """``line 53 trains a model``."""
        return f"line {self.because.line} {RULES[self.because.rule].reason}"

    def has(self, line: int) -> bool:
        """Whether a line is run."""
        return any(node.lineno <= line <= (node.end_lineno or node.lineno) for node in self.tree.body)


def part_run(path: Path) -> PartRun | None:
    """The part of a file that its models need, where importing all of it would train a model, or run commands of a notebook.

    Args:
        path: The file.

    Returns:
        ``None`` where the file can be imported as a whole, has no models, its models need those calls, or it starts programs or uses the
        network beside them, which is for the user to trust.
    """
    found = list(_work_at_import(path))
    if not found or any(each.file != str(path) or not _is_of_a_script(each) for each in found):
        return None
    try:
        part = needed_part(read_regular(path))
    except (OSError, SyntaxError, ValueError, RecursionError):
        return None
    return None if part is None or next(_work_at_import(path, part.tree), None) else PartRun(part.tree, found[0])


def _is_of_a_script(finding: Finding) -> bool:
    return finding.rule == "training" or finding.code.startswith("get_ipython()")


def _work_at_import(path: Path, tree: ast.Module | None = None) -> Iterator[Finding]:
    yield from _training(path, tree)
    for when, call in _reached(path, _WORDS, None, {}, tree):
        yield from (_finding(rule, call, subject, when) for rule, subject in _starts(call))


def dangerous_calls(path: Path, factory: str | None = None, kwargs: Mapping[str, Any] | None = None) -> Iterator[Finding]:
    """The calls that start programs or use the network when a file is imported, or the part of it that is run, and its model is built.

    A name that is only imported, and a function that nothing calls on the way, are no findings. A file that cannot be read or parsed has
    none either: its import says what is wrong.

    Args:
        path: The file.
        factory: The function or class that builds the model; ``None`` for the import only.
        kwargs: Its arguments.
    """
    for when, call in _reached(path, _WORDS, factory, kwargs or {}, _tree_run(path), _tree_run):
        yield from (_finding(rule, call, subject, when) for rule, subject in _starts(call))


def training_calls(path: Path) -> Iterator[Finding]:
    """The calls that train a model when a file is imported, or the part of it that is run."""
    return _training(path, _tree_run(path), _tree_run)


def _tree_run(path: Path) -> ast.Module | None:
    part = part_run(path)
    return None if part is None else part.tree


def _training(path: Path, tree: ast.Module | None, part_of: PartOf | None = None) -> Iterator[Finding]:
    for when, call in _reached(path, _TRAINING_WORDS, None, {}, tree, part_of):
        func = call.node.func
        if isinstance(func, ast.Attribute) and func.attr in _TRAINS:
            yield _finding("training", call, f".{func.attr}()", when)


def _reached(
    path: Path,
    words: re.Pattern[bytes],
    factory: str | None,
    kwargs: Mapping[str, Any],
    tree: ast.Module | None,
    part_of: PartOf | None = None,
) -> Iterator[tuple[str, ReachedCall]]:
    try:
        reach = Reach(path, words, tree, part_of)
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
