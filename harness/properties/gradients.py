"""Whether the gradient reaches every trainable parameter, and where it is cut."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from harness.evidence import Evidence, Status, and_others
from harness.properties.backward_error import backward_error
from harness.properties.gradient_tracing import first_bad_gradient, graph_of, is_alive, recording_graph
from harness.properties.outputs import reached_by_outputs
from harness.properties.quantised import is_packed, quantised_part
from harness.properties.subject import NoGradientError, Subject, gradient_of, mode
from harness.properties.tracing import path_of
from harness.randomness import seeded

_STEPS = 3
_STEPS_WHERE_ABSENT = 16
_NUDGE = 1e-2


def gradient_reaches(subject: Subject, seed: int = 0) -> Evidence:
    """Every trainable parameter receives a gradient that is not zero, over a few batches in train mode.

    A gradient that is exactly zero at initialisation is normal behind a zero-initialised gate or branch (ReZero, LoRA, zero-gamma),
    so parameters without one are judged again on a copy whose weights were nudged.
    """
    name = "gradient_flow"
    trainable = [path for path, p in subject.model.named_parameters() if p.requires_grad]
    counterexample = f"{subject.typical.describe(subject.task)}, {_STEPS} batches, train mode, seed={seed}"
    if not trainable:
        return Evidence(name, Status.SKIPPED, "the model has no trainable parameter")
    if part := quantised_part(subject.model):
        return Evidence(name, Status.SKIPPED, f"`{part}` is quantised, and no gradient passes its integers")
    if subject.backward_raises():
        return backward_error(subject, name)
    model = subject.fresh()
    gradients = _accumulate(subject, model, seed)
    layers = layer_facts(model, gradients)
    unreached = [path for path in trainable if gradients.get(path, 0.0) == 0.0]
    if unreached:
        unreached = _unreached_again(subject, model, unreached, gradients, seed)
    elsewhere = _reached_elsewhere(subject, model, unreached, seed) if unreached else {}
    unreached = [path for path in unreached if path not in elsewhere]
    if not unreached:
        outputs = " and ".join(dict.fromkeys(elsewhere.values()))
        some = f", {len(elsewhere)} of them from {outputs} only" if elsewhere else ""
        return Evidence(
            name,
            Status.OK,
            f"all {len(trainable)} trainable parameters receive a gradient{some}",
            0.0,
            0.0,
            "parameters",
            counterexample,
            details={"layers": layers},
        )
    why, module = _cut(subject, model, unreached[0], gradients)
    return Evidence(
        name,
        Status.FAIL,
        f"parameter `{unreached[0]}` receives no gradient{and_others(len(unreached) - 1, 'parameter')}: {why}",
        float(len(unreached)),
        0.0,
        "parameters",
        counterexample,
        module,
        "a detach(), no_grad() or .data, an argmax or rounding in the path, a module that forward never calls, or a branch multiplied by zero",
        {"layers": layers, "unreached": unreached},
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


def _reached_elsewhere(subject: Subject, model: nn.Module, unreached: list[str], seed: int) -> dict[str, str]:
    """Of some parameters that the loss of the logits does not reach those that another output does, each with the output's name."""
    nudged = _nudged(subject.copies.of(model))
    with mode(nudged, True), seeded(seed):
        by_output = reached_by_outputs(subject, nudged, seed)
    return {path: name for name, paths in by_output.items() for path in unreached if path in paths}


def layer_facts(model: nn.Module, gradients: dict[str, float]) -> list[dict[str, Any]]:
    """Scale and gradient of every parameter, for plots."""
    facts = []
    for path, parameter in model.named_parameters():
        values = parameter.detach()
        values = values.abs().double() if values.is_complex() else values.double()
        facts.append(
            {
                "name": path,
                "shape": list(parameter.shape),
                "count": parameter.numel(),
                "mean": float(values.mean()) if parameter.numel() else 0.0,
                "std": float(values.std(unbiased=False)) if parameter.numel() else 0.0,
                "rms": float(values.square().mean().sqrt()) if parameter.numel() else 0.0,
                "grad_rms": gradients.get(path),
                "trainable": parameter.requires_grad,
            }
        )
    return facts


def _accumulate(subject: Subject, model: nn.Module, seed: int, train: bool = True, steps: int = _STEPS) -> dict[str, float]:
    """Largest gradient rms of each parameter over a few batches; a parameter without a gradient is absent."""
    found: dict[str, float] = {}
    with mode(model, train), seeded(seed):
        for step in range(steps):
            model.zero_grad(set_to_none=True)
            try:
                subject.backward(subject.batch(seed=seed + step), model)
            except NoGradientError:
                return {}
            for path, parameter in model.named_parameters():
                if (gradient := gradient_of(parameter)) is not None:
                    rms = float(gradient.abs().double().square().mean().sqrt())
                    found[path] = max(found.get(path, 0.0), rms if rms == rms else float("inf"))
    model.zero_grad(set_to_none=True)
    return {path: value for path, value in found.items() if value == value}


def _nudged(model: nn.Module) -> nn.Module:
    """The model, with weights moved by a hundredth of their size."""
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point() and not is_packed(parameter):
                scale = _NUDGE * max(float(parameter.abs().mean()), 1.0)
                parameter.add_(scale * torch.randn(parameter.shape, generator=rng).to(parameter))
    return model


def _cut(subject: Subject, model: nn.Module, path: str, gradients: dict[str, float]) -> tuple[str, str]:
    """Why a parameter receives no gradient, and the module in which its path to the loss is cut."""
    owner, _, _ = path.rpartition(".")
    with mode(model, train=True), seeded(0), torch.enable_grad(), recording_graph(model) as calls:
        batch = subject.batch()
        loss = subject.adapter.loss(subject.logits_with_grad(batch, model), batch)
    if path in gradients:
        with mode(model, train=True), seeded(0):
            killer = first_bad_gradient(model, lambda: subject.backward(subject.batch(), model), is_alive)
        model.zero_grad(set_to_none=True)
        if killer in ("", path_of("")):
            return "its gradient is exactly zero", owner or path
        return f"its gradient is exactly zero, as that of the inputs of `{killer}` is", killer
    if owner and all(call.module != owner for call in calls):
        return f"forward never calls `{owner}`", owner
    graph = graph_of(loss)
    cutter = next((call.module for call in calls if call.cuts(graph)), "")
    if cutter and cutter != path_of(""):
        return f"`{cutter}` cuts the graph", cutter
    for container in _enclosing(owner):
        if not container or any(call.reaches(graph) for call in calls if call.module == container):
            where = f"`{container}`" if container else "the model's own forward"
            fate = "it is not used" if container == owner else f"the output of `{owner}` is cut off or dropped"
            return f"inside {where} {fate}", path_of(container)
    return "it is cut off", owner


def _enclosing(path: str) -> Iterator[str]:
    """A module's path and those of the modules around it, innermost first, ending with the root's empty path."""
    while path:
        yield path
        path = path.rpartition(".")[0]
    yield ""
