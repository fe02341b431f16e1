"""What an optimizer step is: the loss, the optimizer with its schedule, clipping.

The loss is the mean over all of a step's labels, however its rows are dealt out to batches and processes. Optimizer and schedule are those of
a training config, for models that bring none; what a LightningModule configures is checked before Lightning reads it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from harness.adapters import Adapter, SignatureAdapter
from harness.batches import Batch
from harness.compat import scale_in_place
from harness.config import TrainingConfig
from harness.errors import TrainingError
from harness.properties.subject import Subject
from harness.runtime import seeded
from harness.tasks import TaskSpec
from harness.tasks.teaching import without_labels


@dataclass(frozen=True)
class Total:
    """What went into an optimizer step.

    Attributes:
        loss: Mean over its labels, a scalar.
        examples: Its rows.
    """

    loss: Tensor
    examples: int


class Objective:
    """Makes accumulated and distributed steps equal to the one large batch.

    The mean of the batches' means is not the mean over all labels where batches hold unequal numbers of them, as padded texts do: a short
    text's tokens would count for more. So each batch's loss is weighted with its labels, and the gradients are divided by their sum before
    the step.

    Args:
        adapter: How the model is called, and its loss.
        task: What it is for.
        accumulate: Batches an optimizer step.
        world_size: Processes that train together.
        all_reduce: Sums a tensor over them, in place.
    """

    def __init__(
        self,
        adapter: Adapter,
        task: TaskSpec,
        accumulate: int = 1,
        world_size: int = 1,
        all_reduce: Callable[[Tensor], object] | None = None,
    ) -> None:
        self._adapter = adapter
        self._signature = task.signature
        self._is_whole = accumulate * world_size == 1
        self._shares = accumulate * world_size
        self._unit = float(task.max_seq_len or 1)  # keeps the weighted losses near the mean, whatever its value
        self._all_reduce = all_reduce if world_size > 1 else None
        self._reset()

    def _reset(self) -> None:
        self._loss: Tensor | float = 0.0
        self._weight: Tensor | float = 0.0
        self._rows = 0

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """What ``backward`` is called on."""
        mean = self._adapter.loss_of_call(model, batch)
        self._rows += self._signature.row_count(batch)
        if self._is_whole:
            self._loss, self._weight = mean.detach(), 1.0
            return mean
        weight = self._adapter.weight(batch).to(mean.device, mean.dtype)
        # A batch without a label has the mean 0/0 and no gradient; its share of the loss is nothing, rather than NaN.
        self._loss = self._loss + torch.where(weight > 0, mean.detach() * weight, 0)
        self._weight = self._weight + weight
        return mean * (weight / self._unit)

    def finish(self, parameters: Iterable[nn.Parameter]) -> Total:
        """Ends an optimizer step: puts the gradients to the right scale.

        Args:
            parameters: Whose gradients the losses were sent back to, divided by the batches a step and averaged over the processes.
        """
        rows = self._rows
        if self._is_whole:
            loss = self._loss
            self._reset()
            assert isinstance(loss, Tensor)
            return Total(loss, rows)
        assert isinstance(self._loss, Tensor)
        assert isinstance(self._weight, Tensor)
        exact = torch.promote_types(self._loss.dtype, torch.float32)
        sums = torch.stack([part.to(exact) for part in (self._loss, self._weight, self._loss.new_tensor(rows, dtype=exact))])
        if self._all_reduce is not None:
            self._all_reduce(sums)
            rows = int(sums[2])
        self._reset()
        gradients = [p.grad for p in parameters if p.grad is not None]
        if gradients:
            scale_in_place(gradients, (self._shares * self._unit / sums[1]).to(gradients[0].dtype))
        return Total(sums[0] / sums[1], rows)


def with_read_labels(subject: Subject) -> Subject:
    """The subject without the labels that nobody declared, and that the function of its loss does not read, or forward is not given.

    An autoencoder's loss compares an output with an input, and that of a contrastive pair rows with each other. Labels that would follow from
    the kinds of such outputs are made, and mean nothing.
    """
    signature, adapter = subject.task.signature, subject.adapter
    if not isinstance(adapter, SignatureAdapter) or not signature.whole_loss or signature.declared_labels:
        return subject
    names = {output.name: signature.label_name(output) for output in signature.taught}
    if not adapter.is_loss_of_forward:
        one, two = (subject.batch(seed=seed) for seed in (0, 1))
        loss = _loss_of(subject, one)
        unread = [name for name, label in names.items() if _loss_of(subject, {**one, label: two[label]}) == loss]
    elif hasattr(subject.model, "training_step"):  # it takes the whole batch
        return subject
    else:
        unread = [name for name, label in names.items() if not adapter.takes_label(subject.model, label)]
    return with_labels(subject, names.keys() - unread) if unread else subject


def with_labels(subject: Subject, names: Collection[str]) -> Subject:
    """The subject with the labels of some outputs only.

    Args:
        subject: Of a declared task.
        names: The labels' names, or those of their outputs.
    """
    signature, adapter = subject.task.signature, subject.adapter
    assert isinstance(adapter, SignatureAdapter)
    unread = [each.name for each in signature.taught if not {each.name, signature.label_name(each)} & set(names)]
    task = replace(subject.task, declared=without_labels(signature, unread))
    return replace(subject, task=task, adapter=adapter.for_task(task))


def _loss_of(subject: Subject, batch: Batch) -> float:
    with seeded(0), torch.no_grad():
        return float(subject.adapter.loss_of_call(subject.fresh(), batch))


_LIMITS = {"clip_grad_norm_": "max_norm", "clip_grad_value_": "clip_value"}
"""PyTorch's functions, which Lightning's ``clip_gradients`` calls too, and the argument that is the limit."""


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The trainable parameters, each once: matrices with weight decay, biases and the scales of norms without."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def make_optimizer(model: nn.Module, config: TrainingConfig) -> Optimizer:
    """AdamW over the trainable parameters (Loshchilov and Hutter 2019, arXiv:1711.05101)."""
    return AdamW(parameter_groups(model, config.weight_decay), lr=config.learning_rate)


def rate_of(group: Mapping[str, Any], unknown: float = 0.0) -> float:
    """The learning rate of an optimizer's group.

    Args:
        group: One of ``param_groups``.
        unknown: Of an optimizer that finds its own, as Adafactor does.
    """
    rate = group.get("lr")
    return unknown if rate is None else float(rate)


def make_schedule(optimizer: Optimizer, config: TrainingConfig, steps: int) -> LambdaLR:
    """A linear warm-up to the learning rate, then half a cosine down to a tenth of it.

    Args:
        optimizer: Whose rate it sets.
        config: Has ``warmup_ratio``, the warm-up's share of the run.
        steps: Optimizer steps of the whole run.
    """
    warmup = math.ceil(config.warmup_ratio * steps)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        done = min(1.0, (step - warmup) / max(1, steps - warmup))
        return 0.1 + 0.45 * (1 + math.cos(math.pi * done))

    return LambdaLR(optimizer, factor)


def follow_config(optimizer: Optimizer, schedule: LambdaLR, model: nn.Module, config: TrainingConfig) -> None:
    """Has the optimizer and schedule of a checkpoint continue with the config's rate and decay, where they had others.

    Args:
        optimizer: As ``make_optimizer`` makes it, with the state that was loaded.
        schedule: As ``make_schedule`` makes it.
        model: Whose parameters they are.
        config: What they should follow.
    """
    for index, (group, fresh) in enumerate(
        zip(optimizer.param_groups, parameter_groups(model, config.weight_decay), strict=True)
    ):
        group["weight_decay"] = fresh["weight_decay"]
        if group["initial_lr"] != config.learning_rate:
            group["initial_lr"] = schedule.base_lrs[index] = config.learning_rate
            group["lr"] = config.learning_rate * schedule.lr_lambdas[index](schedule.last_epoch)


def clip_gradients(model: nn.Module, max_norm: float) -> Tensor:
    """Scales the gradients down to a norm, 0 for as they are; returns the norm they had (a scalar)."""
    parameters = [p for p in model.parameters() if p.grad is not None]
    if max_norm:
        return torch.nn.utils.clip_grad_norm_(parameters, max_norm)
    return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


@contextmanager
def without_clipping(model: nn.Module) -> Iterator[None]:
    """A block in which clipping leaves every gradient as it is, and still returns the norm.

    Clipped gradients cannot be added up: the sum of two clipped halves is not the clipped whole.

    Args:
        model: Its modules' files may have imported the functions by name.
    """
    with replaced_clipping(model, _unlimited):
        yield


Clip = Callable[..., Any]
"""One of PyTorch's functions that clip gradients."""


@contextmanager
def replaced_clipping(model: nn.Module, replace: Callable[[Clip, str], Clip]) -> Iterator[None]:
    """A block in which PyTorch's functions that clip gradients are others.

    Args:
        model: Its modules' files may have imported the functions by name.
        replace: From one of the functions, and the name of the argument that is its limit, to what is called in its place.
    """
    originals = {name: getattr(clip_grad, name) for name in _LIMITS}
    others = {id(original): replace(original, _LIMITS[name]) for name, original in originals.items()}
    files = {type(module).__module__ for module in model.modules()} | {cls.__module__ for cls in type(model).__mro__}
    owners = [torch.nn.utils, clip_grad, *(sys.modules[name] for name in files if name in sys.modules)]
    held = [(owner, name, value) for owner in owners for name, value in list(vars(owner).items()) if id(value) in others]
    for owner, name, value in held:
        setattr(owner, name, others[id(value)])
    try:
        yield
    finally:
        for owner, name, value in reversed(held):
            setattr(owner, name, value)


def _unlimited(clip: Clip, limit: str) -> Clip:
    @wraps(clip)
    def measure(parameters: Any, *limits: Any, **more: Any) -> Any:
        rest = limits[1:] if limits else ()
        more.pop(limit, None)
        return clip(parameters, float("inf"), *rest, **more)

    return measure


class RateScale:
    """Multiplies the rate of every step; give it to ``Trial.train`` as ``on_gradients``.

    The rate is put back after the step, so that the schedule, which may multiply the rate it finds, does not notice.

    Args:
        factor: 0 for steps that go nowhere.

    Attributes:
        steps: How many were scaled.
    """

    def __init__(self, factor: float) -> None:
        self.steps = 0
        self._factor = factor
        self._before: WeakKeyDictionary[Optimizer, list[Any]] = WeakKeyDictionary()
        self._watched: WeakKeyDictionary[Optimizer, bool] = WeakKeyDictionary()

    def __call__(self, model: nn.Module, optimizers: Sequence[Optimizer]) -> None:
        """A step is about to be taken.

        Raises:
            TrainingError: An optimizer has no rate to multiply, as it finds its own.
        """
        self.steps += 1
        for optimizer in optimizers:
            if optimizer in self._before:  # a step that evaluates its closure several times
                continue
            if any(group.get("lr") is None for group in optimizer.param_groups):
                raise TrainingError(f"{type(optimizer).__name__} has no learning rate to multiply: it finds its own")
            if optimizer not in self._watched:
                optimizer.register_step_post_hook(self._put_back)
                self._watched[optimizer] = True
            self._before[optimizer] = [group["lr"] for group in optimizer.param_groups]
            for group in optimizer.param_groups:
                group["lr"] = group["lr"] * self._factor

    def _put_back(self, optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        for group, rate in zip(optimizer.param_groups, self._before.pop(optimizer, []), strict=False):
            group["lr"] = rate


_RETURNS = "`configure_optimizers` returns"


@contextmanager
def checking_configuration(module: Any) -> Iterator[None]:
    """A block in which a mistake in what a module configures is told in one line, where Lightning would raise from inside."""
    configure, before = module.configure_optimizers, vars(module).get("configure_optimizers")

    def configure_optimizers() -> Any:
        returned = configure()
        check_configuration(returned, module.automatic_optimization)
        return returned

    module.configure_optimizers = configure_optimizers
    try:
        yield
    finally:
        del module.configure_optimizers
        if before is not None:
            module.configure_optimizers = before


def check_configuration(returned: Any, is_automatic: bool) -> None:
    """Checks that there is an optimizer, and that every schedule has one of those that are there.

    Args:
        returned: What ``configure_optimizers`` returned.
        is_automatic: Whether Lightning takes the steps; manual optimisation needs no optimizer here.

    Raises:
        TrainingError: There is none, or a schedule cannot be used.
    """
    if returned is None:
        if is_automatic:
            raise TrainingError(f"{_RETURNS} None, so nothing is trained: return an optimizer")
        return
    optimizers, schedules = list[Any](), list[Any]()
    parts = list(returned) if isinstance(returned, (list, tuple)) else [returned]
    for part in (inner for each in parts for inner in (each if isinstance(each, (list, tuple)) else [each])):
        if isinstance(part, Mapping) and "scheduler" in part:
            schedules.append(part["scheduler"])
        elif isinstance(part, Mapping):
            if "optimizer" not in part:
                raise TrainingError(f'{_RETURNS} a dict with {sorted(map(str, part))} and without "optimizer": add the optimizer')
            optimizers.append(part["optimizer"])
            given = part.get("lr_scheduler")
            schedules += (
                [] if given is None else [given["scheduler"] if isinstance(given, Mapping) and "scheduler" in given else given]
            )
        elif isinstance(part, Optimizer):
            optimizers.append(part)
        elif part is not None and not isinstance(part, int):
            schedules.append(part)
    for schedule in schedules:
        _check_schedule(schedule, optimizers)


def _check_schedule(schedule: Any, optimizers: list[Any]) -> None:
    name = type(schedule).__name__
    if not optimizers:
        raise TrainingError(f"{_RETURNS} {name} and no optimizer: return the optimizer beside its schedule")
    if not callable(getattr(schedule, "step", None)):
        raise TrainingError(
            f"{_RETURNS} {name} as a learning rate schedule, which has no step(): return one of torch.optim.lr_scheduler"
        )
    own = getattr(schedule, "optimizer", None)
    if isinstance(schedule, (LRScheduler, ReduceLROnPlateau)) and not any(own is each for each in optimizers):
        raise TrainingError(
            f"{_RETURNS} {name} of another optimizer than those it returns: make it from the optimizer that is returned"
        )
