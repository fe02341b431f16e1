"""A backward pass that raises: the line of the forward pass that it cannot differentiate, and the module that the line belongs to.

Autograd raises far from the line at fault. Its anomaly mode keeps the line that made each node of the graph.
"""

from __future__ import annotations

import linecache
import re
import warnings
from contextlib import suppress
from pathlib import Path

import torch
from torch import nn

from harness.evidence import Evidence, Status
from harness.properties.places import shown_place
from harness.properties.subject import BACKWARD_RAISES, Subject, mode
from harness.properties.tracing import path_of
from harness.randomness import seeded
from harness.user_code import is_users_file

_FRAME = re.compile(r'File "([^"]+)", line (\d+), in ')

_IN_PLACE = "modified by an inplace operation"


def backward_error(subject: Subject, name: str) -> Evidence:
    """The failure that stands for every property that needs a gradient.

    Args:
        subject: A model whose backward pass raises at typical sizes.
        name: The property.
    """
    model = subject.fresh()
    places = _lines_at_fault(subject, model)
    raised = subject.backward_raises().removeprefix(BACKWARD_RAISES)
    where = place = ""
    if places:
        place = shown_place(*places[0])
        file, line = places[0]
        where = f" at `{linecache.getline(file, line).strip()}` ({Path(file).name}, line {line})"
    module = next((found for file, line in places if (found := _module_of(model, file, line))), "")
    cause = "an operation that cannot be differentiated, or whose own backward is wrong"
    if _IN_PLACE in raised:
        cause = "a tensor changed in place (`+=`, `/=`, `add_()`, an assignment to a slice) that this line's backward pass still needs"
    return Evidence(
        name,
        Status.FAIL,
        f"{BACKWARD_RAISES.strip()}{where}: {raised}",
        counterexample=f"{subject.typical.describe(subject.task)}, train mode, seed=0",
        module=module,
        cause=cause,
        place=place,
    )


def _lines_at_fault(subject: Subject, model: nn.Module) -> list[tuple[str, int]]:
    """Files and lines of the user's code that made the node whose backward raised, innermost first; empty where it cannot be told."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        # It is known to raise; what is wanted is the warning that comes with it.
        anomaly = torch.autograd.set_detect_anomaly(True, check_nan=False)
        with suppress(RuntimeError), anomaly, mode(model, train=True), seeded(0):
            subject.backward(subject.batch(), model)
    frames = [frame for warning in caught for frame in _FRAME.findall(str(warning.message))]
    return [(file, int(line)) for file, line in reversed(frames) if is_users_file(file) and not _is_installed(file)]


def _is_installed(file: str) -> bool:
    """Whether a file is of an installed package, such as the test runner's at the outer end of a traceback."""
    return any(part in ("site-packages", "dist-packages") for part in Path(file).parts)


def _module_of(model: nn.Module, file: str, line: int) -> str:
    """Path of the only module whose forward holds a line; empty where none or several do."""
    found = []
    for path, module in model.named_modules():
        code = getattr(type(module).forward, "__code__", None)
        if code is None or Path(code.co_filename) != Path(file):
            continue
        lines = [number for _, _, number in code.co_lines() if number is not None]
        if lines and min(lines) <= line <= max(lines):
            found.append(path_of(path))
    return found[0] if len(found) == 1 else ""
