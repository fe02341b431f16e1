"""What may not be read: other rows, later tokens, padding."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from harness.batches import Batch, other_tokens

from .promise import promise
from .side import Side, differ

_SEEDS = range(2)
_SOURCE = ("input_ids", "attention_mask")


@promise("batch_independence")
def rows(side: Side) -> Iterator[str]:
    """A row gives the same logits whatever stands beside it, and alone."""
    for count in (2, 4):
        for length in sorted({1, max(1, side.longest // 2), side.longest}):
            for seed in _SEEDS:
                batch, other = side.batch(count, length, seed), side.batch(count, length, seed + 50)
                expected = side.logits(side.model(), batch)
                for row in (0, count - 1):
                    beside = {k: torch.cat((other[k][:row], v[row : row + 1], other[k][row + 1 :])) for k, v in batch.items()}
                    alone = {k: v[row : row + 1] for k, v in batch.items()}
                    if differ(expected[row], side.logits(side.model(), beside)[row]):
                        yield f"beside others, {count} x {length}"
                    if differ(expected[row : row + 1], side.logits(side.model(), alone)):
                        yield f"alone, {count} x {length}"


@promise("batch_independence")
def row_gradients(side: Side) -> Iterator[str]:
    """A row's logits have no gradient with respect to another row's inputs."""
    for seed in _SEEDS:
        model, batch = side.model(), side.batch(3, seed=seed)
        read, logits = _with_graph(side, model, batch)
        if not read or not logits.requires_grad:
            return
        weights = torch.randn(logits[0].shape, generator=torch.Generator().manual_seed(seed), dtype=logits.dtype)
        gradients = torch.autograd.grad((logits[0] * weights).sum(), read, allow_unused=True)
        own = max((float(g[:1].abs().max()) for g in gradients if g is not None), default=0.0)
        least = own * (1e-9 if side.dtype is torch.float64 else 1e-4)
        if any(g is not None and float(g[1:].abs().max()) > least for g in gradients):
            yield "gradient of another row"


@promise("causal")
def later_tokens(side: Side) -> Iterator[str]:
    """A position gives the same logits whatever comes after it."""
    if not any(side.task.signature.with_order("causal")):
        return
    for length in sorted({2, max(2, side.longest // 2), side.longest}):
        for seed in _SEEDS:
            batch = side.batch(1 + 3 * seed, length, seed)
            expected = side.logits(side.model(), batch)
            for position in range(1, length):
                changed = batch[side.tokens].clone()
                changed[:, position:] = other_tokens(side.task, changed, seed)[:, position:]
                if differ(expected[:, :position], side.logits(side.model(), {**batch, side.tokens: changed})[:, :position]):
                    yield f"length {length}"


@promise("padding_ignored")
def padding(side: Side) -> Iterator[str]:
    """Real tokens give the same logits with and without padding."""
    if not side.task.is_text:
        return
    for length in range(1, side.longest):
        # Rows of other lengths beside it, a short one first, as its mask may be taken for that of all.
        for lengths in ([length], [1, length, side.longest, length]):
            padded = side.padded(lengths, seed=length)
            together = side.logits(side.model(), padded)
            for row, real in enumerate(lengths):
                alone = {k: v[row : row + 1, :real] if k in _SOURCE else v[row : row + 1] for k, v in padded.items()}
                own = together[row : row + 1]
                own = own[:, :real] if side.task.is_per_position and not side.task.is_seq2seq else own
                if differ(side.logits(side.model(), alone), own):
                    yield f"{real} tokens, among {len(lengths)}"


def _with_graph(side: Side, model: nn.Module, batch: Batch) -> tuple[list[Tensor], Tensor]:
    """The floating inputs, or what embeddings make of the ids, as leaves; and the logits that follow from them."""
    leaves: list[Tensor] = []
    ids = [v for k, v in batch.items() if "ids" in k]

    def cut(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if not any(args[0].shape == t.shape and torch.equal(args[0], t) for t in ids):
            return None
        leaves.append(output.detach().requires_grad_())
        return leaves[-1] * 1

    handles = [m.register_forward_hook(cut) for m in model.modules() if isinstance(m, nn.Embedding)]
    fields = {k: v.clone().requires_grad_() if v.is_floating_point() and k != "labels" else v for k, v in batch.items()}
    try:
        logits = side.adapter.logits(model, fields)
    finally:
        for handle in handles:
            handle.remove()
    return leaves + [v for v in fields.values() if v.requires_grad], logits
