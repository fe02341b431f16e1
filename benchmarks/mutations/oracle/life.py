"""Randomness, memory of earlier calls, modes, inputs and copies."""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from harness.runtime import seeded

from .promise import promise
from .side import Side, differ


@promise("eval_deterministic")
def random_in_eval(side: Side) -> Iterator[str]:
    """The same input gives the same logits, whatever the global random state."""
    for rows, length in ((1, 1), (4, side.longest)):
        batch = side.batch(rows, length)
        expected = side.logits(side.model(), batch)
        for seed in range(1, 7):
            with seeded(seed), torch.no_grad():
                if differ(expected, side.adapter.logits(side.model(), batch)):
                    yield f"{rows} x {length}"


@promise("stateless")
def remembered(side: Side) -> Iterator[str]:
    """A call gives what it gives on a model that was never called."""
    others = [side.batch(1, 1, 9), side.batch(4, seed=9), side.batch(3, seed=8)]
    if side.task.is_text:
        others.append(side.padded([max(1, side.longest // 2)] * 3))
    for batch in (side.batch(3), side.batch(4, max(1, side.longest // 2), seed=2)):
        expected = side.logits(side.model(), batch)
        for number, other in enumerate(others):
            model = side.model()
            try:
                side.logits(model, other)
                side.logits(model, other)
                if differ(expected, side.logits(model, batch)):
                    yield f"after call {number}"
            except Exception:
                yield f"raises after call {number}"


@promise("stateless")
def second_step(side: Side) -> Iterator[str]:
    """Two training steps in a row work."""
    model = side.model().train()
    side.train(model, side.batch(3))
    try:
        side.train(model, side.batch(3, seed=1))
    except RuntimeError:
        yield "second step raises"


@promise("mode_round_trip")
def modes(side: Side) -> Iterator[str]:
    """train() and eval() reach every module, and forward leaves them as they are."""
    model = side.model()
    yield from (f"{path} trains in eval" for path, module in model.named_modules() if module.training)
    before = [module.training for module in model.modules()]
    side.logits(model, side.batch(3))
    if before != [module.training for module in model.modules()]:
        yield "forward in eval mode switches"
    model.train()
    before = [module.training for module in model.modules()]
    yield from (f"{path} evaluates in train" for path, module in model.named_modules() if not module.training)
    try:
        side.logits(model, side.batch(3))
    except Exception:
        yield "raises in train mode"
    if before != [module.training for module in model.modules()]:
        yield "forward in train mode switches"


@promise("rng_untouched")
def global_random_state(side: Side) -> Iterator[str]:
    """Forward draws nothing in eval mode and seeds nothing in train mode."""
    model, batch = side.model(), side.batch(3)
    with seeded(123), torch.no_grad():
        torch.rand(3)
        before = torch.get_rng_state()
        side.adapter.logits(model, batch)
        if not torch.equal(before, torch.get_rng_state()):
            yield "drawn from in eval mode"
        ends = []
        for seed in (4, 5):
            torch.manual_seed(seed)
            side.adapter.logits(model.train(), batch)
            ends.append(torch.get_rng_state())
    if torch.equal(*ends):
        yield "seeded in train mode"


@promise("inputs_unchanged")
def inputs(side: Side) -> Iterator[str]:
    """Inputs are as they were."""
    for mode in (False, True):
        batch = side.batch(3)
        kept = {name: tensor.clone() for name, tensor in batch.items()}
        with torch.no_grad():
            side.adapter.logits(side.model().train(mode), batch)
        yield from (f"{name} written" for name, tensor in batch.items() if not torch.equal(tensor, kept[name]))


@promise("serialisation")
def saved_and_loaded(side: Side) -> Iterator[str]:
    """A saved, loaded or copied model gives the same logits."""
    model, batch = side.model(), side.batch(3)
    expected = side.logits(model, batch)
    other = side.model(seed=77)
    try:
        other.load_state_dict(side.model().state_dict())
        if differ(expected, side.logits(other, batch)):
            yield "loaded differs"
    except RuntimeError:
        yield "does not load"
    for name, copied in (("pickled", _pickled), ("copied", copy.deepcopy)):
        try:
            if differ(expected, side.logits(copied(side.model()), batch)):
                yield f"{name} differs"
        except Exception:
            yield f"cannot be {name}"


@promise("memory_footprint")
def kept_alive(side: Side) -> Iterator[str]:
    """Calls leave no tensors behind."""
    for mode in (False, True):
        model = side.model().train(mode)
        alive = []
        for seed in range(6):
            loss = side.adapter.loss(side.adapter.logits(model, side.batch(3, seed=seed)), side.batch(3, seed=seed))
            del loss
            gc.collect()
            alive.append(sum(t.numel() for t in gc.get_objects() if isinstance(t, Tensor)))
        if alive[2] < alive[3] < alive[4] < alive[5]:
            yield f"grows, train={mode}"


@promise("inference_speed")
def work(side: Side) -> Iterator[str]:
    """Every call does the same work."""
    model, counts = side.model(), []
    for _ in range(5):
        with _Count() as counter:
            side.logits(model, side.batch(3))
        counts.append(counter.count)
    if counts[2] < counts[3] < counts[4]:
        yield "grows"


class _Count(TorchFunctionMode):
    count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def _pickled(model: nn.Module) -> nn.Module:
    copied: nn.Module = pickle.loads(pickle.dumps(model))
    return copied
