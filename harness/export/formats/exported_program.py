"""A program captured by ``torch.export``: with the free axes as declared, or as inferred where the model does not allow those."""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from harness.compat import TracerWarning, lines_of_guards
from harness.export import one_line
from harness.export.formats import Attempt, ExportError
from harness.export.program import Program
from harness.models.wrapped import without_fast_path
from harness.process_state.compat import without_export_log
from harness.properties.places import users_frame
from harness.runtime import seeded
from harness.user_code import is_users_file, is_written_here
from harness.written_in import short_name

_NOISY = ("torch.onnx", "torch.export", "torch._export", "torch._dynamo", "torch.fx", "onnxscript", "onnx_ir", "torch.__trace")

_UNBOUNDED = 1 << 40
"""Sizes beyond this mean that there is no upper limit."""


@dataclass(frozen=True)
class Captured:
    """A program as ``torch.export`` sees it.

    Attributes:
        program: The graph.
        attempts: The ways that were tried.
        limits: Sizes each free axis may take, as derived by ``torch.export``; it knows of branches on a size.
        static: Axes that came out fixed though they were to stay free, with the reason.
        symbols: Names of the size symbols, such as ``{"s77": "batch"}``.
        guards: By axis, the condition that the model's code puts on it, and its line.
    """

    program: ExportedProgram
    attempts: tuple[Attempt, ...]
    limits: dict[str, tuple[int, int | None]]
    static: dict[str, str]
    symbols: dict[str, str]
    guards: dict[str, str]


def capture(program: Program) -> Captured:
    """Exports a program with ``torch.export``.

    Raises:
        ExportError: It cannot be exported in any way; the message has the reason of each.
    """
    attempts: list[Attempt] = []
    for way, specs in _ways(program):
        try:
            with quiet(), seeded(0), torch.no_grad(), without_fast_path(), lines_of_guards(_line_of_guard):
                exported = torch.export.export(program.forward, program.arguments, dynamic_shapes=specs, strict=False)
        except Exception as error:
            attempts.append(Attempt(way, one_line(error)))
            continue
        attempts.append(Attempt(way))
        return _described(exported, program, tuple(attempts))
    raise ExportError(failures(attempts))


def _line_of_guard(frame: FrameType) -> FrameType | None:
    """The user's line that asked about a size; of a package's, such as a model of a library, where none of the user's own did."""
    return users_frame(frame, is_written_here) or users_frame(frame)


def _ways(program: Program) -> Iterator[tuple[str, Any]]:
    dims = {axis: _dimension(axis, low, high, program.step(axis)) for axis, (low, high) in program.limits.items()}
    if not dims:
        yield "torch.export, fixed sizes", None
        return
    free = tuple({position: dims[axis] for position, axis in program.axes[name].items()} for name in program.fields)
    yield "torch.export, free axes", (free,)
    inferred = tuple(dict.fromkeys(program.axes[name], Dim.AUTO) for name in program.fields)
    yield "torch.export, inferred axes", (inferred,)


def _dimension(axis: str, low: int, high: int, step: int) -> Any:
    """A free axis; one whose sizes are multiples of a number is that number times another."""
    return Dim(axis, min=low, max=high) if step == 1 else step * Dim(f"_{axis}", min=low // step, max=high // step)


def _described(exported: ExportedProgram, program: Program, attempts: tuple[Attempt, ...]) -> Captured:
    limits: dict[str, tuple[int, int | None]] = {}
    symbols: dict[str, str] = {}
    static: dict[str, str] = {}
    for (field, axes), tensor in zip(program.axes.items(), _inputs(exported), strict=True):
        for position, axis in axes.items():
            size = tensor.shape[position]
            expression = None if isinstance(size, int) else size.node.expr
            if expression is None or expression.is_number:
                # A field that is never read leaves no trace of its sizes.
                if _is_read(exported, program.fields.index(field)):
                    static.setdefault(axis, f"{axis} is always {size}{_where(size)}")
                continue
            symbols[str(expression)] = axis
            found = _limits_of(expression, exported)
            if found is not None:
                limits[axis] = _narrower(limits.get(axis), found)
    return Captured(exported, attempts, limits, static, symbols, _guards(exported, symbols))


def _limits_of(expression: Any, exported: ExportedProgram) -> tuple[int, int | None] | None:
    """Smallest and largest size of an axis, where they are known: of a multiple of a symbol, the symbol's times as much."""
    known = exported.range_constraints.get(expression)
    if known is not None:
        return _lower(known.lower), _upper(known.upper)
    symbol = next(iter(expression.free_symbols), None)
    known = exported.range_constraints.get(symbol)
    if known is None or len(expression.free_symbols) > 1:
        return None
    upper = _upper(known.upper)
    return int(expression.subs(symbol, _lower(known.lower))), None if upper is None else int(expression.subs(symbol, upper))


def _guards(exported: ExportedProgram, symbols: dict[str, str]) -> dict[str, str]:
    """Conditions on the free axes that the model's code asked about, with the line that did."""
    environments = {
        id(size.node.shape_env): size.node.shape_env
        for tensor in _inputs(exported)
        for size in map(_symbolic, tensor.shape)
        if size is not None
    }
    found: dict[str, str] = {}
    for environment in environments.values():
        for guard in environment.guards:
            text = str(guard.expr)
            for symbol, axis in symbols.items():
                named, count = re.subn(rf"\b{re.escape(symbol)}\b", axis, text)
                if count and not _links_sizes(guard.expr):
                    found.setdefault(axis, f"{named}{_place(guard)}")
    return found


def _symbolic(size: Any) -> Any:
    """A size that stayed a symbol; ``None`` of a number."""
    return None if isinstance(size, int) else size


def _links_sizes(condition: Any) -> bool:
    """Whether a condition only says that two sizes are the same one."""
    return str(condition).startswith("Eq(") and not any(side.is_number for side in condition.args)


def _where(size: Any) -> str:
    """The line that fixed a size, where it is known."""
    if isinstance(size, int):
        return ""
    for guard in size.node.shape_env.guards:
        if str(guard.expr).startswith("Eq(") and str(size.node.expr) in str(guard.expr):
            return _place(guard)
    return ""


def _place(guard: Any) -> str:
    """The file and line that put up a guard."""
    found = re.search(r"([^/\\]+:\d+) in", str(guard.sloc))
    return f" ({found.group(1).lstrip('(')})" if found else ""


def _inputs(exported: ExportedProgram) -> list[Tensor]:
    names = set(exported.graph_signature.user_inputs)
    return [node.meta["val"] for node in exported.graph.nodes if node.op == "placeholder" and node.name in names]


def _is_read(exported: ExportedProgram, index: int) -> bool:
    name = exported.graph_signature.user_inputs[index]
    return any(node.name == name and node.users for node in exported.graph.nodes)


def _lower(bound: Any) -> int:
    # Two stands for "not looked at": torch.export never tries a size of 0 or 1. The shape grid does.
    return 1 if int(bound) <= 2 else int(bound)


def _upper(bound: Any) -> int | None:
    # An infinite bound is an object of sympy's or torch's own, and neither turns into a number.
    return int(bound) if bool(bound < _UNBOUNDED) else None


def _narrower(known: tuple[int, int | None] | None, other: tuple[int, int | None]) -> tuple[int, int | None]:
    if known is None:
        return other
    uppers = [upper for upper in (known[1], other[1]) if upper is not None]
    return max(known[0], other[0]), min(uppers, default=None)


def failures(attempts: Iterable[Attempt]) -> str:
    """Why nothing worked, as one line; ways that failed for the same reason are named together, by what their names share."""
    ways: dict[str, list[str]] = {}
    for attempt in attempts:
        ways.setdefault(attempt.error, []).append(attempt.way)
    return "; ".join(f"{_together(names)}: {error}" for error, names in ways.items() if error)


def _together(names: list[str]) -> str:
    """Names of ways; several of one exporter are named once, without their settings."""
    by_exporter: dict[str, list[str]] = {}
    for name in names:
        by_exporter.setdefault(name.partition(", ")[0], []).append(name)
    return " and ".join(exporter if len(found) > 1 else found[0] for exporter, found in by_exporter.items())


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps what exporters print, log and warn about to themselves; what matters of it is in their results."""
    loggers = [logging.getLogger(name) for name in _NOISY]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), without_export_log():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


@contextmanager
def tracing() -> Iterator[list[str]]:
    """Collects what a tracer says it froze in the user's code, a line each; complete after the block."""
    frozen: list[str] = []
    with quiet(), without_fast_path(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield frozen
    for warning in caught:
        if issubclass(warning.category, TracerWarning) and is_users_file(warning.filename):
            line = f"{short_name(warning.filename)}:{warning.lineno}: {str(warning.message).partition('. ')[0]}"
            frozen += [] if line in frozen else [line]


_FLAG_POSITIONS = {
    "dropout": 2,
    "dropout_": 2,
    "feature_dropout": 2,
    "alpha_dropout": 2,
    "feature_alpha_dropout": 2,
    "native_dropout": 2,
    "batch_norm": 5,
    "native_batch_norm": 5,
    "cudnn_batch_norm": 5,
    "rrelu": 3,
}
"""Where each operator's `train` flag stands among its arguments."""

_RANDOM_OPERATORS = {"bernoulli", "bernoulli_", "rand_like", "rand", "randn_like", "randn", "normal", "multinomial"}


def trains(operator: str, arguments: list[Any]) -> bool:
    """Whether a call is one of training: a Dropout or norm whose flag is set, or a random number.

    Args:
        operator: Its name, such as ``aten.dropout.default`` or ``aten::dropout``.
        arguments: Its arguments, constants by their value.
    """
    name = operator.replace("::", ".").removeprefix("aten.").partition(".")[0]
    position = _FLAG_POSITIONS.get(name)
    if position is None:
        return name in _RANDOM_OPERATORS
    active = len(arguments) > position and arguments[position] is True
    rate = arguments[1] if "dropout" in name and len(arguments) > 1 else 1.0
    return active and rate != 0.0
