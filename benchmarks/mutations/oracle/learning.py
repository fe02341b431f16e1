"""Gradients, what is registered, the first loss, symmetry and scale."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from .outputs import contents
from .promise import promise
from .side import Side

_BATCHES = 3


@promise("gradient_flow")
def unreached(side: Side) -> Iterator[str]:
    """Every trainable parameter has a gradient: on some batch, in some mode, with some weights near those it starts with.

    In float32, as a softmax that float64 still tells from a step may be one there.
    """
    reached: set[str] = set()
    for nudge in (0.0, 0.02):
        for mode in (True, False):
            model = _nudged(side.model(torch.float32), nudge).train(mode)
            for seed in range(_BATCHES):
                side.train(model, side.batch(3, seed=seed, dtype=torch.float32))
            reached |= {name for name, p in model.named_parameters() if p.grad is not None and bool((p.grad != 0).any())}
    yield from (name for name, p in side.model().named_parameters() if p.requires_grad and name not in reached)


@promise("gradient_flow")
def bad_gradients(side: Side) -> Iterator[str]:
    """Usual and extreme inputs give finite gradients."""
    for length in sorted({min(2, side.longest), side.longest}):
        for content, batch in contents(side, length):
            if len(batch["labels"]) < 2:
                continue
            model = side.model(torch.float32).train()
            try:
                loss = side.train(model, batch)
            except Exception:
                yield f"{content} raises, length {length}"
                continue
            bad = any(p.grad is not None and not bool(p.grad.isfinite().all()) for p in model.parameters())
            if bad or not bool(loss.isfinite()):
                yield f"{content}, length {length}"


@promise("registration")
def unregistered(side: Side) -> Iterator[str]:
    """Training reaches no tensor that the optimizer is not given."""
    # In float32, as a move to another dtype would leave a hidden part behind.
    model, batch = side.model(torch.float32).train(), side.batch(3, dtype=torch.float32)
    given = {id(p) for p in model.parameters()}
    logits = side.adapter.logits(model, batch)
    for leaf in _leaves(side.adapter.loss(logits, batch)):
        if id(leaf) not in given:
            yield f"a tensor of shape {tuple(leaf.shape)}"


@promise("initialisation")
def first_loss(side: Side) -> Iterator[str]:
    """The loss before training is within a nat of that of a uniform guess."""
    if side.task.is_regression:
        return
    losses, model = [], side.model().train()
    for seed in range(12):
        batch = side.batch(3, seed=seed)
        losses.append(float(side.adapter.loss(side.logits(model, batch), batch)))
    if not sum(losses) / len(losses) <= math.log(side.task.output_size or 1) + 1:
        yield "loss"


@promise("initialisation")
def equal_units(side: Side) -> Iterator[str]:
    """No two units that start equal stay equal in training."""
    start, trained = side.model(), side.model()
    for step in range(6):
        trained.zero_grad()
        side.train(trained, side.batch(3, seed=step))
        with torch.no_grad():
            for p in trained.parameters():
                if p.grad is not None:
                    p -= 0.1 * p.grad
    weights = dict(start.named_parameters())
    for name, p in trained.named_parameters():
        if p.ndim < 2 or torch.equal(p, weights[name]):
            continue
        if _pairs(weights[name].detach().flatten(1)) & _pairs(p.detach().flatten(1)):
            yield name


@promise("initialisation")
def scale(side: Side) -> Iterator[str]:
    """Weights are finite, different inputs give different float32 logits, and no signal is beyond half precision."""
    model = side.model(torch.float32)
    if not all(bool(t.isfinite().all()) for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()):
        yield "weights not finite"
        return
    largest = 0.0

    def look(_module: nn.Module, _args: object, output: object) -> None:
        nonlocal largest
        if isinstance(output, Tensor) and output.is_floating_point():
            largest = max(largest, float(output.abs().max()))

    for module in model.modules():
        module.register_forward_hook(look)
    logits = torch.stack([side.logits(model, side.batch(3, seed=seed, dtype=torch.float32)) for seed in range(6)])
    if float((logits - logits[0]).abs().max()) <= 4 * torch.finfo(torch.float32).eps * float(logits.abs().max()):
        yield "inputs all alike"
    if largest > 65504:
        yield "too loud"


def _nudged(model: nn.Module, nudge: float) -> nn.Module:
    rng = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in model.parameters():
            if p.is_floating_point():
                p += nudge * torch.randn(p.shape, generator=rng, dtype=p.dtype)
    return model


def _leaves(loss: Tensor) -> list[Tensor]:
    """The tensors that a backward pass would give a gradient."""
    seen, pending, found = set(), [loss.grad_fn], []
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.append(node.variable)
        pending.extend(parent for parent, _ in node.next_functions)
    return found


def _pairs(rows: Tensor) -> set[tuple[int, int]]:
    """Pairs of equal rows."""
    alike = torch.cdist(rows, rows) <= 1e-9 * rows.abs().max()
    return {(int(a), int(b)) for a, b in alike.triu(1).nonzero()}
