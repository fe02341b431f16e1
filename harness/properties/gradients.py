"""Whether the gradient reaches every trainable parameter, and where it is cut."""

from __future__ import annotations

import linecache
import re
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness.evidence import Blame, Evidence
from harness.properties.calling import mode
from harness.properties.gradient_reach import (
    STEPS,
    among_chosen,
    largest_gradients,
    many_rows,
    reached_by_other_weights,
    reached_otherwise,
    unreached_again,
)
from harness.properties.gradient_tracing import (
    GraphLines,
    calls_with_gradient,
    first_bad_gradient,
    graph_of,
    is_alive,
    recording_graph,
)
from harness.properties.large_tensors import moments, root_mean_square
from harness.properties.noise import quantised_part
from harness.properties.places import shown_place
from harness.properties.prerequisites import BACKWARD_RAISES
from harness.properties.subject import Subject
from harness.properties.tracing import path_of
from harness.runtime import seeded
from harness.user_code import is_written_here
from harness.wording import and_others, joined
from harness.written_in import short_name

_CUTS = 4
"""Lines that cut the graph that are tried one by one."""

_DEAD_UNITS = "units that are all dead by chance: a layer of few units behind a ReLU, or weights too small for its biases"
_IDLE_EXPERTS = "experts that a fresh router gives no row: noise in the router, or a loss that balances them, brings them in"


def gradient_reaches(subject: Subject, seed: int = 0) -> Evidence:
    """Every trainable parameter receives a gradient that is not zero, over a few batches in train mode.

    A gradient that is exactly zero at initialisation is normal behind a zero-initialised gate or branch (ReZero, LoRA, zero-gamma),
    so parameters without one are judged again on a copy whose weights were nudged.
    """
    name = "gradient_flow"
    trainable = [path for path, p in subject.model.named_parameters() if p.requires_grad]
    counterexample = f"{subject.typical.describe(subject.task)}, {STEPS} batches, train mode, seed={seed}"
    if not trainable:
        return Evidence.skipped(name, "the model has no trainable parameter")
    if part := quantised_part(subject.model):
        return Evidence.skipped(name, f"`{part}` is quantised, and gradients do not pass through its integers")
    if subject.backward_raises():
        return backward_error(subject, name)
    model = subject.fresh()
    gradients = largest_gradients(subject, model, seed)
    layers = layer_facts(model, gradients)
    unreached = [path for path in trainable if gradients.get(path, 0.0) == 0.0]
    if unreached:
        unreached = unreached_again(subject, model, unreached, gradients, seed)
    elsewhere = reached_otherwise(subject, model, unreached, gradients, seed) if unreached else {}
    unreached = [path for path in unreached if path not in elsewhere]
    if unreached:
        found = _judge_unreached(subject, model, unreached, gradients, seed)
        return replace(found, counterexample=counterexample, details={"layers": layers, "unreached": unreached})
    outputs = " and ".join(dict.fromkeys(elsewhere.values()))
    some = f", {len(elsewhere)} of them from {outputs} only" if elsewhere else ""
    message = f"all {len(trainable)} trainable parameters receive a gradient{some}"
    return Evidence.ok(name, message, (0, 0, "parameters"), counterexample=counterexample, details={"layers": layers})


def _judge_unreached(
    subject: Subject, model: nn.Module, unreached: list[str], gradients: dict[str, float], seed: int
) -> Evidence:
    """The verdict on parameters without a gradient: they have no effect, are dead by chance, or are cut off."""
    name = "gradient_flow"
    if cancelled := _cancelled(subject, model, unreached, gradients):
        path, calls = next(iter(cancelled.items()))
        others = and_others(len(cancelled) - 1, "parameter")
        return Evidence.warned(
            name,
            f"the gradients of parameter `{path}` from {calls} calls cancel exactly{others}: it has no effect",
            (len(cancelled), 0, "parameters"),
            module=path.rpartition(".")[0],
            cause="a bias that is subtracted again, as in the difference of two embeddings: leave it out (bias=False)",
            code="cancels",
        )
    chosen = among_chosen(model, unreached, gradients)
    seeds: list[str] = []
    never = unreached
    if chosen or all(path in gradients for path in unreached):
        seeds, never = reached_by_other_weights(subject, unreached, many_rows(subject) if chosen else None, seed)
    unreached = never or unreached
    why, blame = _cut(subject, model, unreached[0], gradients)
    if not never:
        return Evidence.warned(
            name,
            f"parameter `{unreached[0]}` receives no gradient{and_others(len(unreached) - 1, 'parameter')} with the weights of seed "
            f"{subject.seed}, but one with those of {joined(seeds)}: {why}",
            (len(unreached), 0, "parameters"),
            module=blame,
            place=blame.place,
            cause=_IDLE_EXPERTS if chosen else _DEAD_UNITS,
            code="dead_by_chance",
        )
    return Evidence.failed(
        name,
        f"parameter `{unreached[0]}` receives no gradient{and_others(len(unreached) - 1, 'parameter')}: {why}",
        (len(unreached), 0, "parameters"),
        module=blame,
        place=blame.place,
        cause="a detach(), no_grad() or .data, an argmax or rounding in the path, a module that forward never calls, or a branch "
        "multiplied by zero",
        code="no_gradient",
    )


def _cancelled(subject: Subject, model: nn.Module, unreached: list[str], gradients: dict[str, float]) -> dict[str, int]:
    """The calls of each of some biases, where each call has a gradient and only their sum is zero; empty where that is not so for all.

    Weights whose gradients cancel are another matter: then no input counts.
    """
    if any(path not in gradients or model.get_parameter(path).ndim != 1 for path in unreached):
        return {}
    with mode(model, train=True), seeded(0):
        alive = calls_with_gradient(model, lambda: subject.backward(subject.batch(), model))
    model.zero_grad(set_to_none=True)
    found = {path: alive.get(path.rpartition(".")[0], 0) for path in unreached}
    return found if all(calls > 1 for calls in found.values()) else {}


def layer_facts(model: nn.Module, gradients: dict[str, float]) -> list[dict[str, Any]]:
    """Scale and gradient of every parameter, for plots."""
    facts = []
    for path, parameter in model.named_parameters():
        mean, std, rms = (*moments(parameter), root_mean_square(parameter)) if parameter.numel() else (0.0, 0.0, 0.0)
        facts.append(
            {
                "name": path,
                "shape": list(parameter.shape),
                "count": parameter.numel(),
                "mean": mean,
                "std": std,
                "rms": rms,
                "grad_rms": gradients.get(path),
                "trainable": parameter.requires_grad,
            }
        )
    return facts


def _cut(subject: Subject, model: nn.Module, path: str, gradients: dict[str, float]) -> tuple[str, Blame]:
    """Why a parameter receives no gradient, and the module and the line in which its path to the loss is cut."""
    owner, _, _ = path.rpartition(".")
    if path in gradients:
        with mode(model, train=True), seeded(0):
            killer = first_bad_gradient(model, lambda: subject.backward(subject.batch(), model), is_alive, path)
        model.zero_grad(set_to_none=True)
        if killer in ("", path_of("")):
            return "its gradient is exactly zero", Blame(owner or path, killer.place)
        return f"its gradient is exactly zero, like that of the inputs of `{killer}`", killer
    lines = GraphLines()
    with mode(model, train=True), seeded(0), torch.enable_grad(), recording_graph(model) as calls, lines:
        batch = subject.batch()
        loss = subject.adapter.loss(subject.logits_with_grad(batch, model), batch)
    if owner and all(call.module != owner for call in calls):
        return f"forward never calls `{owner}`", Blame(owner)
    parameter, graph = model.get_parameter(path), graph_of(loss)
    cuts = lines.lines_of_cuts(parameter)
    place = next((line for line in cuts[:_CUTS] if _reaches_without(subject, model, parameter, line)), "")
    cutter = next((call.module for call in calls if call.cuts(graph)), "")
    if cutter and cutter != path_of(""):
        return f"`{cutter}` cuts the graph", Blame(cutter, place)
    place = place or lines.last_line(parameter)
    for container in _enclosing(owner):
        if not container or any(call.reaches(graph) for call in calls if call.module == container):
            where = f"`{container}`" if container else "the model's own forward"
            fate = "it is not used" if container == owner else f"the output of `{owner}` is cut off or dropped"
            return f"inside {where} {fate}", Blame(path_of(container), place)
    return "it is cut off", Blame(owner, place)


def _reaches_without(subject: Subject, model: nn.Module, parameter: Tensor, line: str) -> bool:
    """Whether the loss depends on a parameter through the graph where a line does not cut it."""
    with mode(model, train=True), seeded(0), torch.enable_grad(), GraphLines(kept=line):
        batch = subject.batch()
        loss = subject.adapter.loss(subject.logits_with_grad(batch, model), batch)
    return any(getattr(node, "variable", None) is parameter for node in graph_of(loss))


def _enclosing(path: str) -> Iterator[str]:
    """A module's path and those of the modules around it, innermost first, ending with the root's empty path."""
    while path:
        yield path
        path = path.rpartition(".")[0]
    yield ""


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
        where = f" at `{linecache.getline(file, line).strip()}` ({short_name(file)}, line {line})"
    module = next((found for file, line in places if (found := _module_of(model, file, line))), "")
    cause = "an operation that cannot be differentiated, or whose own backward is wrong"
    if _IN_PLACE in raised:
        cause = "a tensor changed in place (`+=`, `/=`, `add_()`, an assignment to a slice) that this line's backward pass still needs"
    return Evidence.failed(
        name,
        f"{BACKWARD_RAISES.strip()}{where}: {raised}",
        counterexample=f"{subject.typical.describe(subject.task)}, train mode, seed=0",
        module=module,
        cause=cause,
        place=place,
        code="backward_raises",
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
    return [(file, int(line)) for file, line in reversed(frames) if is_written_here(file)]


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
