"""The line of the user's code that a finding is about: what a file keeps as it was at the exporter's example, or cannot hold."""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from harness.batches import Batch
from harness.compat import TorchDispatchMode, without_compiler
from harness.export import outcome
from harness.export.exports import Exports
from harness.export.formats.exported_program import capture
from harness.export.formats.torchscript import traced
from harness.export.program import Outputs
from harness.export.shape_grid import Point
from harness.properties.large_tensors import largest_absolute
from harness.properties.noise import difference
from harness.properties.places import file_of, line_that_fixes_a_size, made_at, parsed_file, users_line
from harness.properties.watched_lines import operator_line

_NUMBER_TAKEN = torch.ops.aten._local_scalar_dense.default
"""What ``x.item()``, ``int(x)`` and ``if x:`` run."""

_LINE = re.compile(r"\(([^()\s]+\.py:\d+)\)")

_OF_A_SIZE = ("integer", "float", "len", "Iterating", "constants", "NumPy")
"""What a tracer says of a line that makes a size a number; of a comparison of sizes it says ``boolean``, which many checks are."""

_ROUNDING = 1e-5
"""Share of an output's largest value that may be rounding."""

Numbers = dict[str, list[Any]]


@without_compiler
class _Decisions(TorchDispatchMode):
    """Notes the numbers that lines of the user's code take out of tensors, and gives some lines those of another call.

    Args:
        given: By line, what it is given at each time; at later ones the last again.
    """

    def __init__(self, given: Mapping[str, Sequence[Any]]) -> None:
        super().__init__()
        self.found: Numbers = defaultdict(list)
        self._given = given

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is not _NUMBER_TAKEN:
            return result
        place = users_line(sys._getframe(1))
        self.found[place].append(result)
        given = self._given.get(place)
        return given[min(len(self.found[place]), len(given)) - 1] if given else result


def line_of_a_decision(exports: Exports, point: Point, found: Outputs, output: str, bound: float) -> str:
    """The line that takes a number out of a tensor which a file keeps: with the example's number there, the model gives what the file does.

    Args:
        exports: The exports.
        point: Where file and model differ.
        found: What the file gives there.
        output: The output that differs.
        bound: Up to where outputs count as equal.

    Returns:
        The place; empty where no such line is seen.
    """
    batch = exports.batch(point)
    there, here = _run(exports, exports.program.example)[1], _run(exports, batch)[1]
    differing = [place for place, numbers in here.items() if place and there.get(place) and numbers != there[place]]
    for places in (*([place] for place in differing), differing if len(differing) > 1 else []):
        kept, _ = _run(exports, batch, {place: there[place] for place in places})
        if output not in kept or kept[output].shape != found[output].shape:
            continue
        scale = largest_absolute(found[output])  # numbers of another call may make outputs larger
        if difference(kept[output], found[output]) <= max(bound, _ROUNDING * scale):
            return places[0]
    return ""


def _run(exports: Exports, batch: Batch, given: Mapping[str, Sequence[Any]] | None = None) -> tuple[Outputs, Numbers]:
    """The model's outputs, none where it raises, and the numbers it took out of tensors."""
    decisions = _Decisions(given or {})
    with suppress(Exception), decisions:
        return exports.eager(batch), decisions.found
    return {}, decisions.found


def line_of_a_size(exports: Exports, format: str) -> str:
    """The line that makes a size a number of Python: as a tracer says, or ``torch.export``, or as it is written; empty where none is known."""
    manifest = exports.artifact(format).manifest
    if manifest is None and exports.exporter(format).kind == "computation":
        lines = (outcome(lambda: traced(exports.program))[0] or (None, []))[1]
    else:
        lines = list(manifest.notes.get("frozen", ())) if manifest else []
    said = (line.partition(": ") for line in lines)
    places = dict.fromkeys(place for place, _, why in said if any(word in why for word in _OF_A_SIZE))
    refused = {line for attempt in manifest.attempts for line in _LINE.findall(attempt.error)} if manifest else set()
    if len(places) == 1 or not refused.isdisjoint(places):
        return next((place for place in places if place in refused), next(iter(places)))
    captured, _ = outcome(lambda: capture(exports.program))
    reasons = [*captured.static.values(), *captured.guards.values()] if captured is not None else []
    return next((found[1] for reason in reasons if (found := _LINE.search(reason))), "") or line_that_fixes_a_size(
        exports.reference
    )


def deciding_line(model: nn.Module, place: str) -> str:
    """The line of the innermost ``if`` or loop that decides whether a line runs, or of the one before it that may return; else the line.

    Args:
        model: The model, whose files are looked into.
        place: The line, ``model.py:14``.
    """
    name, _, number = place.rpartition(":")
    file, line, found = file_of(name, model), int(number), 0
    body = parsed_file(str(file)) if file is not None else []
    while body:
        inner = next((each for each in body if each.lineno <= line <= (each.end_lineno or 0)), None)
        earlier = body[: body.index(inner)] if inner is not None else []
        if isinstance(inner, (ast.FunctionDef, ast.ClassDef)):
            found = 0
        elif returns := [
            each for each in earlier if isinstance(each, ast.If) and isinstance(each.body[-1], (ast.Return, ast.Raise))
        ]:
            found = returns[-1].lineno
        if isinstance(inner, (ast.If, ast.For, ast.While)):
            found = inner.lineno
        parts = [getattr(inner, part, None) or [] for part in ("body", "orelse", "finalbody")]
        body = next((part for part in parts if part and part[0].lineno <= line <= (part[-1].end_lineno or 0)), [])
    return f"{name}:{found}" if found else place


def line_of_operator(exports: Exports, message: str) -> str:
    """The line that runs the operator of which an exporter says that it cannot write it; empty where it names none, or a line itself."""
    names = [] if re.search(r"\.py:\d+\)", message) else re.findall(r"\baten(?:::|\.)(\w+)", message)
    return operator_line(lambda: exports.eager(exports.program.example), names) if names else ""


def line_of_what_is_lost(model: nn.Module) -> str:
    """Where the only tensor is made that an attribute keeps and no state dict does; empty where there are several or none."""
    kept = [
        (type(module), name) for module in model.modules() for name, value in vars(module).items() if isinstance(value, Tensor)
    ]
    return made_at(*kept[0]) if len(kept) == 1 else ""
