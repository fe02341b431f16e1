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

from harness.batches import Batch, Sizes
from harness.evidence import Blame, Evidence
from harness.properties.calling import ModelRaisedError, NoGradientError, mode
from harness.properties.carried_state import going_on
from harness.properties.gradient_tracing import (
    GraphLines,
    calls_with_gradient,
    first_bad_gradient,
    graph_of,
    is_alive,
    recording_graph,
)
from harness.properties.large_tensors import moments, reading_gradients, root_mean_square
from harness.properties.noise import is_packed, quantised_part
from harness.properties.optional_inputs import lacking, without
from harness.properties.outputs import reached_by_outputs
from harness.properties.places import names_read, shown_place
from harness.properties.prerequisites import BACKWARD_RAISES
from harness.properties.subject import Subject
from harness.properties.tracing import path_of
from harness.runtime import seeded
from harness.user_code import is_written_here
from harness.wording import and_others, joined

_STEPS = 3
_STEPS_WHERE_ABSENT = 16
_NUDGE = 1e-2
_OTHER_WEIGHTS = 3
_CUTS = 4
"""Lines that cut the graph that are tried one by one."""

_STEP = "training_step"
_LOSSES = ("loss", "compute_loss", "get_loss", "calculate_loss", "loss_function")


def gradient_reaches(subject: Subject, seed: int = 0) -> Evidence:
    """Every trainable parameter receives a gradient that is not zero, over a few batches in train mode.

    A gradient that is exactly zero at initialisation is normal behind a zero-initialised gate or branch (ReZero, LoRA, zero-gamma),
    so parameters without one are judged again on a copy whose weights were nudged.
    """
    name = "gradient_flow"
    trainable = [path for path, p in subject.model.named_parameters() if p.requires_grad]
    counterexample = f"{subject.typical.describe(subject.task)}, {_STEPS} batches, train mode, seed={seed}"
    if not trainable:
        return Evidence.skipped(name, "the model has no trainable parameter")
    if part := quantised_part(subject.model):
        return Evidence.skipped(name, f"`{part}` is quantised, and gradients do not pass through its integers")
    if subject.backward_raises():
        return backward_error(subject, name)
    model = subject.fresh()
    gradients = _accumulate(subject, model, seed)
    layers = layer_facts(model, gradients)
    unreached = [path for path in trainable if gradients.get(path, 0.0) == 0.0]
    if unreached:
        unreached = _unreached_again(subject, model, unreached, gradients, seed)
    elsewhere = _reached_elsewhere(subject, model, unreached, seed) if unreached else {}
    elsewhere |= _trained_by_a_step(model, [path for path in unreached if path not in elsewhere and path not in gradients])
    unreached = [path for path in unreached if path not in elsewhere]
    if unreached:
        elsewhere |= _reached_at_longer_sizes(subject, model, unreached, seed)
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
    why, blame = _cut(subject, model, unreached[0], gradients)
    if all(path in gradients for path in unreached) and (seeds := _reached_by_other_weights(subject, unreached, seed)):
        return Evidence.warned(
            name,
            f"parameter `{unreached[0]}` receives no gradient{and_others(len(unreached) - 1, 'parameter')} with the weights of seed "
            f"{subject.seed}, but one with those of {joined(seeds)}: {why}",
            (len(unreached), 0, "parameters"),
            module=blame,
            place=blame.place,
            cause="units that are all dead by chance: a layer of few units behind a ReLU, or weights too small for its biases",
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


def _unreached_again(
    subject: Subject, model: nn.Module, unreached: list[str], gradients: dict[str, float], seed: int
) -> list[str]:
    """Of some parameters without a gradient those that have none on a nudged copy either.

    A gradient of exactly zero in train mode is forgiven where eval mode shows another one: a bias before a batch norm has none in train mode,
    where the norm takes the mean away. One that is absent is not: autograd knows of no way to the parameter. A layer that training leaves out
    at random has a few more batches to be met in.
    """
    absent = any(path not in gradients for path in unreached)
    trained = _accumulate(subject, _nudged(subject.copies.of(model)), seed, steps=_STEPS_WHERE_ABSENT if absent else _STEPS)
    left = [path for path in unreached if trained.get(path, 0.0) == 0.0]
    zero = [path for path in left if path in gradients or path in trained]
    if not zero:
        return left
    evaluated = _accumulate(subject, _nudged(subject.copies.of(model)), seed, train=False)
    return [path for path in left if path not in zero or evaluated.get(path, 0.0) == 0.0]


def _reached_by_other_weights(subject: Subject, unreached: list[str], seed: int) -> list[str]:
    """Seeds of fresh weights with which a gradient reaches the parameters that it does not reach here; empty where one is never reached."""
    if subject.rebuild is None or not subject.fresh_weights:
        return []
    left, seeds = set(unreached), []
    for other in range(subject.seed + 1, subject.seed + 1 + _OTHER_WEIGHTS):
        found = _accumulate(subject, subject.rebuild(other), seed)
        if reached := {path for path in left if found.get(path, 0.0)}:
            left -= reached
            seeds.append(f"seed {other}")
        if not left:
            return seeds
    return []


def _reached_elsewhere(subject: Subject, model: nn.Module, unreached: list[str], seed: int) -> dict[str, str]:
    """Of some parameters that the loss of the logits does not reach those that another output does, each with the output's name."""
    nudged = _nudged(subject.copies.of(model))
    with mode(nudged, True), seeded(seed):
        by_output = reached_by_outputs(subject, nudged, seed)
    return {path: name for name, paths in by_output.items() for path in unreached if path in paths}


def _reached_at_longer_sizes(subject: Subject, model: nn.Module, unreached: list[str], seed: int) -> dict[str, str]:
    """Of some parameters without a gradient those that have one at longer inputs, each with these in words.

    Behind strides a short input is a single step, of which a recurrent layer has nothing to remember and attention nothing to choose.
    """
    found: dict[str, str] = {}
    nudged = _nudged(subject.copies.of(model))
    for sizes in subject.reach.longer():
        try:
            reached = _accumulate(subject, nudged, seed, steps=1, sizes=sizes)
        except ModelRaisedError:  # a limit that the config does not say
            break
        found |= {
            path: f"inputs of {sizes.describe(subject.task)}"
            for path in unreached
            if path not in found and reached.get(path, 0.0)
        }
        if len(found) == len(unreached):
            break
    return found


def _trained_by_a_step(model: nn.Module, unreached: list[str]) -> dict[str, str]:
    """Of some parameters without a gradient those that a Lightning module's training step, or a model's own loss, reads and forward does not.

    Such are the critic of a GAN, the head that projects features for a contrastive loss, and the scale of similarities in a model's ``loss``.
    """
    method = next((each for each in (_STEP, *_LOSSES) if callable(getattr(model, each, None))), _STEP)
    step, forward = (names_read(type(model), each) for each in (method, "forward"))
    return {path: f"`{method}`" for path in unreached if path.partition(".")[0] in step - forward}


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


def _accumulate(
    subject: Subject, model: nn.Module, seed: int, train: bool = True, steps: int = _STEPS, sizes: Sizes | None = None
) -> dict[str, float]:
    """Largest gradient rms of each parameter over a few batches; a parameter without a gradient is absent."""
    found: dict[str, float] = {}

    def read(path: str, gradient: Tensor) -> None:
        rms = root_mean_square(gradient)
        found[path] = max(found.get(path, 0.0), rms if rms == rms else float("inf"))

    with mode(model, train), seeded(seed), reading_gradients(model, read):
        for number, batch in enumerate(_calls(subject, model, seed, steps, sizes)):
            model.zero_grad(set_to_none=True)
            try:
                subject.backward(batch, model)
            except NoGradientError:
                return {}
            except ModelRaisedError:
                if number < steps:
                    raise
                continue  # that a call without an optional input raises is the matter of `optional_inputs`
    model.zero_grad(set_to_none=True)
    return {path: value for path, value in found.items() if value == value}


def _calls(subject: Subject, model: nn.Module, seed: int, steps: int, sizes: Sizes | None) -> Iterator[Batch]:
    """A few batches; then calls that continue from a state, and that lack optional inputs: what a gradient reaches there counts too."""
    batches = [subject.batch(sizes, seed + step) for step in range(steps)]
    yield from batches
    if subject.task.signature.states:
        yield going_on(subject, batches[-1], subject.outputs(batches[0], model))
    if subject.task.declared is not None:
        yield from (without(batches[0], names) for names in lacking(subject))


def _nudged(model: nn.Module) -> nn.Module:
    """The model, with weights moved by a hundredth of their size."""
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point() and not is_packed(parameter):
                scale = _NUDGE * max(float(parameter.abs().mean()), 1.0)
                parameter.add_(scale * torch.randn(parameter.shape, generator=rng).to(parameter))
    return model


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
        where = f" at `{linecache.getline(file, line).strip()}` ({Path(file).name}, line {line})"
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
