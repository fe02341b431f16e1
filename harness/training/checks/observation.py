"""One training step of a model, seen from inside: what its loss was, of which outputs, and what flowed back to them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from harness.adapters import Adapter, CallPlan, SignatureAdapter, find_logits
from harness.batches import Batch
from harness.errors import OutputError
from harness.properties.large_tensors import largest_absolute
from harness.properties.tracing import path_of
from harness.tasks.axes import fits_shape
from harness.tasks.calls import find_output, laid_out
from harness.tasks.signature import MODEL, Output, Signature
from harness.training.checks.gradient_noise import disable_stochastic_layers
from harness.training.engines import gradients_of
from harness.training.trial import UNVARIED, Trial, TrialOptions, Variation

_SAME = 1e-4
"""Relative difference up to which two tensors are the same output; other tensors of their shape differ by more than a per mille."""

_PROBABILITIES = {"SoftmaxBackward0": "a softmax", "SigmoidBackward0": "a sigmoid"}
"""Operations of autograd's graph that make numbers between 0 and 1 of scores."""

_OF_SCORES = {
    **_PROBABILITIES,
    "LogSoftmaxBackward0": "a log-softmax",
    "LogSigmoidBackward0": "a log-sigmoid",
    "BinaryCrossEntropyWithLogitsBackward0": "the sigmoid of binary_cross_entropy_with_logits",
}
"""Operations that take scores."""

_KEEPS_VALUES = re.compile(
    r"(Unsafe)?View|ReshapeAlias|Permute|Transpose|T|Clone|ToCopy|(Un)?[Ss]queeze|Select|Slice|Index|Alias|Expand"
)
"""Operations that move numbers and change none, without the end of their names."""

_UNNAMED = ""
"""In place of an output's name: a tensor that may be any of those with its shape."""


@dataclass
class Observation:
    """What was seen of an optimizer step.

    Attributes:
        loss: What was sent back, in all, at the scale of the step; ``None`` where the model's own code kept it to itself.
        values: The outputs that labels teach, the rows first, as the step computed them; without those that cannot be told from other tensors.
        slopes: Gradients of the loss with respect to them, at the scale of the step.
        gradients: Gradients of the trainable parameters; zeros where there is none.
        took_step: Whether an optimizer took a step.
        rows: How many rows the step was over.
        repeats: How often a single batch was given, because it takes several to make a step.
        optimizers: How many optimizers there are.
        looks: How often they had gradients to look at within the step; more often than there are optimizers where one of them calls the
            training step again, as LBFGS does.
        twice: Two activations that the loss takes an output through, one straight after the other, as a phrase; empty where there are none.
    """

    loss: Tensor | None
    values: dict[str, Tensor]
    slopes: dict[str, Tensor]
    gradients: dict[str, Tensor]
    took_step: bool
    rows: int
    repeats: int
    optimizers: int
    looks: int
    twice: str = ""

    def of_one_batch(self) -> Observation:
        """The same with the loss and the slopes of one of the batches of the step, where a single one was repeated."""
        loss = None if self.loss is None else self.loss / self.repeats
        return replace(self, loss=loss, slopes={name: slope / self.repeats for name, slope in self.slopes.items()})


def observe(
    trial: Trial,
    batches: Sequence[Batch],
    *,
    accumulate: int = 1,
    train: bool = False,
    vary: Variation = UNVARIED,
) -> Observation:
    """Lets a fresh copy of the model learn from batches up to its first optimizer step, and looks at that.

    Between the last backward pass and the step a training step may scale all gradients alike: divide a sum by the labels of all its batches,
    or take the factor of a ``GradScaler`` out. The loss and its slope are given with that scale, as they would be had the step not needed it.

    Args:
        trial: The model.
        batches: What it learns from. A single one is given as often as it takes to make a step, and its outputs are looked for.
        accumulate: Batches a step.
        train: Whether the model is in train mode; otherwise it is still, so that two steps can be compared.
        vary: How the training is varied.
    """
    signature = trial.subject.task.signature
    seen = _Seen(signature, is_declared=trial.subject.task.declared is not None)

    def set_up(model: nn.Module) -> None:
        vary.apply(model)
        if not train:
            disable_stochastic_layers(model)
        if trial.is_own:
            seen.listen_to_outputs(model)
            seen.listen_to_losses(model)

    is_single = len(batches) == 1
    repeats = max(1, trial.batches_per_step) if is_single else 1
    watched = trial
    if not trial.is_own:
        watched = replace(trial, subject=replace(trial.subject, adapter=_Listener(trial.subject.adapter, seen)))
    training = watched.train(
        [*batches] * repeats,
        TrialOptions(limit=1, seed=vary.seed, accumulate=accumulate, clip=False),
        prepare=set_up,
        on_gradients=seen.note_gradients,
    )
    found = _found_outputs(trial, seen, batches[0], vary, train) if is_single else {}
    outputs, rows = {output.name: output for output in signature.outputs}, signature.row_count(batches[0])
    losses = seen.losses or [torch.tensor(step.loss) for step in training.steps[:1] if step.loss == step.loss]
    return Observation(
        loss=torch.stack(losses).sum() * seen.scale if losses else None,
        values={name: laid_out(tensors[0].detach(), outputs[name], rows) for name, tensors in found.items()},
        slopes={name: laid_out(_slope(tensors) * seen.scale, outputs[name], rows) for name, tensors in found.items()},
        gradients=seen.gradients or gradients_of(training.model),
        took_step=bool(seen.gradients),
        rows=training.steps[0].examples if training.steps else 0,
        repeats=repeats,
        optimizers=len(training.optimizers),
        looks=seen.looks,
        twice=seen.twice,
    )


def loss_name(trial: Trial) -> str:
    """Whose loss the model is trained by, as messages call it."""
    if trial.is_own:
        return f"`{type(trial.subject.model).__name__}.training_step`"
    whole = trial.subject.task.signature.whole_loss
    if trial.subject.task.declared is not None:
        return {"": "the loss", MODEL: "forward's `loss`"}.get(whole, f"`{whole}`")
    return f"`{type(trial.subject.adapter).__name__}.loss`"


@dataclass(frozen=True)
class _Noted:
    """A tensor that may be an output.

    Attributes:
        path: Of the module that returned it.
        name: Of the output; empty where it may be any of those with its shape.
        tensor: The tensor.
    """

    path: str
    name: str
    tensor: Tensor


@dataclass
class _Seen:
    """What hooks and listeners have noted, up to where the first optimizer takes its step.

    Attributes:
        signature: Which outputs are looked for.
        is_declared: Whether they are found by their declared names; otherwise the logits are looked for.
        outputs: Tensors that may be outputs.
        losses: What was sent back.
        sent: The gradients after the last backward pass.
        gradients: Those of the step.
        scale: The factor from ``sent`` to ``gradients``; 1 where the one is no multiple of the other.
        optimizers: Ids of the optimizers that took a step.
        looks: How often optimizers had gradients to look at.
        is_over: Whether gradients were cleared before the step, as between the two passes of sharpness-aware minimisation: the loss and the
            logits are those of the first pass.
        twice: As of ``Observation``.
    """

    signature: Signature
    is_declared: bool = False
    outputs: list[_Noted] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)
    sent: dict[str, Tensor] = field(default_factory=dict)
    scale: float = 1.0
    gradients: dict[str, Tensor] = field(default_factory=dict)
    optimizers: set[int] = field(default_factory=set)
    looks: int = 0
    is_over: bool = False
    twice: str = ""

    def note_output(self, path: str, name: str, tensor: Any) -> None:
        """An output, or what may be one."""
        if not isinstance(tensor, Tensor) or self.looks or self.is_over:
            return
        if tensor.requires_grad:
            tensor.retain_grad()
        if tensor.requires_grad or (self.is_declared and name):
            self.outputs.append(_Noted(path, name, tensor))

    def note_loss(self, loss: Tensor) -> None:
        """What is sent back."""
        if not self.looks and not self.is_over:
            self.losses.append(loss.detach().clone())
            self.twice = self.twice or _activated_twice(loss, [each.tensor for each in self.outputs if each.path == path_of("")])

    def note_gradients(self, model: nn.Module, optimizers: Sequence[Optimizer]) -> None:
        """The gradients at a step; where several optimizers take one, those that each of them has at its own."""
        self.looks += 1
        new = [optimizer for optimizer in optimizers if id(optimizer) not in self.optimizers]
        self.optimizers |= {id(optimizer) for optimizer in new}
        if not new:
            return
        fresh = gradients_of(model)
        if self.looks == 1:
            self.scale = _scale(self.sent, fresh)
        if self.gradients:
            own = {id(p) for optimizer in new for group in optimizer.param_groups for p in group["params"]}
            names = {name for name, parameter in model.named_parameters() if id(parameter) in own}
            fresh = {name: gradient for name, gradient in fresh.items() if name in names}
        self.gradients.update(fresh)

    def listen_to_outputs(self, model: nn.Module) -> None:
        """Notes what each module returns: a training step need not call ``forward`` of the whole."""
        for name, module in model.named_modules():
            module.register_forward_hook(partial(self._note, path_of(name)))

    def listen_to_losses(self, model: Any) -> None:
        """Notes what the training step sends back, under automatic and manual optimisation alike."""
        send_back = model.backward

        def backward(loss: Tensor, *args: Any, **kwargs: Any) -> None:
            if self.losses and not any(bool(gradient.any()) for gradient in gradients_of(model).values()):
                self.is_over = True
                self.outputs = [noted for noted in self.outputs if noted.tensor.grad is not None]
            self.note_loss(loss)
            send_back(loss, *args, **kwargs)
            if not self.looks:
                self.sent = gradients_of(model)

        model.backward = backward

    def _note(self, path: str, _module: nn.Module, _arguments: Any, returned: Any) -> None:
        if not self.is_declared:
            with suppress(OutputError):
                self.note_output(path, self.signature.main.name, find_logits(returned))
            return
        if isinstance(returned, Tensor):
            self.note_output(path, _UNNAMED, returned)
            return
        for output in self.signature.taught:
            with suppress(OutputError):
                self.note_output(path, output.name, find_output(returned, output, self.signature.outputs))


class _Listener(Adapter):
    """An adapter that does as another one, and notes the logits and the loss."""

    def __init__(self, adapter: Adapter, seen: _Seen) -> None:
        self._adapter = adapter
        self._seen = seen
        self.task = adapter.task

    def plan(self, model: nn.Module) -> CallPlan:
        """As the adapter does."""
        return self._adapter.plan(model)

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """As the adapter does."""
        logits = self._adapter.logits(model, batch)
        self._seen.note_output(path_of(""), self.task.signature.main.name, logits)
        return logits

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """As the adapter does."""
        loss = self._adapter.loss(logits, batch)
        self._seen.note_loss(loss)
        return loss

    def loss_of_call(self, model: nn.Module, batch: Batch) -> Tensor:
        """As the adapter does."""
        if not isinstance(self._adapter, SignatureAdapter):
            return super().loss_of_call(model, batch)
        loss = self._adapter.loss_of_call(model, batch, partial(self._seen.note_output, path_of("")))
        self._seen.note_loss(loss)
        return loss

    def weight(self, batch: Batch) -> Tensor:
        """As the adapter does."""
        return self._adapter.weight(batch)


def _found_outputs(trial: Trial, seen: _Seen, batch: Batch, vary: Variation, train: bool) -> dict[str, list[Tensor]]:
    """The tensors that are an output, by the output's name; several where it was computed more than once."""
    task = trial.subject.task
    reference: dict[str, Any] = {}
    found: dict[str, list[Tensor]] = {}
    for output in task.signature.taught:
        path, candidates = _outermost(
            [noted for noted in seen.outputs if noted.name in (output.name, _UNNAMED)], trial, output, batch
        )
        if candidates and path != path_of("") and not train:
            reference = reference or _reference(trial, batch, vary)
            candidates = _equal_to(reference[output.name], candidates, output)
        if candidates:
            found[output.name] = candidates
    return found


def _shapes(trial: Trial, output: Output, batch: Batch) -> set[tuple[int, ...]]:
    """Shapes that an output of a batch may have, as forward returns it."""
    task = trial.subject.task
    sizes = task.signature.sizes_of(batch)
    shape = tuple(size if isinstance(size, int) else sizes[size] for size in output.returned_axes)
    return {shape, (*shape, 1)} if task.declared is None and output.classes is None else {shape}


def _outermost(noted: Sequence[_Noted], trial: Trial, output: Output, batch: Batch) -> tuple[str, list[Tensor]]:
    """Of the tensors of an output's shape, those of the outermost module that was called last, and its path; of those with a gradient first."""
    shapes = _shapes(trial, output, batch)
    shaped = [each for each in noted if any(fits_shape(each.tensor.shape, shape) for shape in shapes)]
    fitting = [each for each in shaped if each.tensor.grad is not None]
    if not fitting and trial.subject.task.declared is not None:
        # It is known by its name, and nothing was sent back to it.
        fitting = [each for each in shaped if each.name]
    if not fitting:
        return "", []
    depth = min(_depth(each.path) for each in fitting)
    chosen = [each.path for each in fitting if _depth(each.path) == depth][-1]
    return chosen, [each.tensor for each in fitting if each.path == chosen]


def _depth(path: str) -> int:
    return 0 if path == path_of("") else path.count(".") + 1


def _reference(trial: Trial, batch: Batch, vary: Variation) -> dict[str, Any]:
    """The model's outputs outside training."""
    model = trial.subject.fresh()
    vary.apply(model)
    disable_stochastic_layers(model)
    return trial.subject.outputs(batch, model)


def _equal_to(reference: Tensor, candidates: list[Tensor], output: Output) -> list[Tensor]:
    bound = _SAME * max(largest_absolute(reference), torch.finfo(reference.dtype).tiny)
    return [
        tensor
        for tensor in candidates
        if tensor.numel() == reference.numel()
        and float((laid_out(tensor.detach(), output, len(reference)).reshape(reference.shape) - reference).abs().max()) <= bound
    ]


def _scale(sent: dict[str, Tensor], taken: dict[str, Tensor]) -> float:
    """The factor by which all gradients were multiplied between the backward pass and the step; 1 where it is not the same for all."""
    if not sent or sent.keys() != taken.keys():
        return 1.0
    before, after = (torch.cat([tensor.flatten().double() for tensor in each.values()]) for each in (sent, taken))
    size = float(before.square().sum())
    scale = float((before * after).sum()) / size if size else 1.0
    is_multiple = scale > 0 and float((after - scale * before).norm()) <= _SAME * float(after.norm())
    return scale if is_multiple else 1.0


def _slope(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack([torch.zeros_like(each) if each.grad is None else each.grad.detach() for each in tensors]).sum(0)


def _activated_twice(loss: Tensor, outputs: Sequence[Tensor]) -> str:
    """Two activations that make no sense one straight after the other, between the model's outputs and a loss, as a phrase."""
    ends, seen, waiting = {tensor.grad_fn for tensor in outputs}, set(), [loss.grad_fn]
    if not ends - {None}:
        return ""
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        before = [each for each, _ in node.next_functions] if node not in ends else []
        for inner in before if node.name() in _OF_SCORES else ():
            while inner is not None and inner not in ends and _KEEPS_VALUES.fullmatch(inner.name().removesuffix("Backward0")):
                inner = inner.next_functions[0][0]
            if inner is not None and inner.name() in _PROBABILITIES:
                return f"{_OF_SCORES[node.name()]} of {_PROBABILITIES[inner.name()]}"
        waiting += before
    return ""
