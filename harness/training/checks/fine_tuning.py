"""Whether the last layer of a model can be trained while the rest is frozen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from harness.batches import Batch
from harness.errors import UserError
from harness.evidence import Evidence, Status
from harness.owners import owned_by
from harness.properties.gradient_tracing import GraphCall, recording_graph
from harness.properties.noise import FACTOR, difference
from harness.properties.tracing import path_of
from harness.runtime import seeded
from harness.training.checks.gradient_noise import batch_norms
from harness.training.checks.training_trace import is_between, same_bits
from harness.training.engines import weights_of
from harness.training.optimisation import RateScale
from harness.training.trial import MOST_BATCHES, Trial, TrialOptions, too_long
from harness.user_code import raised
from harness.wording import and_others

_NAME = "fine_tuning"
_ROWS = 4
_STEPS = 8
_BY_CHANCE = 8
_FACTORS = (1.0, 10.0, 100.0)
"""Rates are tried from the configured one upwards: that a rate is low is said elsewhere."""

_NO_GRAPH = ("does not require grad", "empty parameter list")

_ROOT = path_of("")


def fine_tuning(trial: Trial) -> Evidence:
    """With all but the last layer frozen, and again with a new one in its place, a few steps lower the loss and change only that layer."""
    every = trial.batches_per_step
    if not every:
        return Evidence.skipped(_NAME, f"no optimizer step of its training step is seen in {MOST_BATCHES} batches")
    reason = too_long(trial, 3 * _STEPS * every)
    if reason:
        return Evidence.skipped(_NAME, reason)
    head = find_head(trial)
    if head is None:
        return Evidence.skipped(_NAME, "the model has no layer before its last one that could be frozen")
    batch = trial.subject.batch(replace(trial.subject.typical, batch=_ROWS))
    free = _Watch(frozenset())
    optimizers = trial.train([batch] * every, TrialOptions(limit=1), on_gradients=free).optimizers
    if not free.reached & head.parameters:
        return Evidence.skipped(
            _NAME, f"no gradient reaches `{_named(head)}` at the first step, whether or not the rest is frozen"
        )
    tuning = _Tuning(trial, head, batch, free, len(optimizers))
    return tuning.judge(renewed=False) or tuning.judge(renewed=True) or tuning.sound()


@dataclass
class _Watch:
    """What is seen at each update.

    Attributes:
        frozen: Names of the parameters that should be frozen.
        thawed: Those that asked for a gradient nevertheless.
        reached: Names of those that had one that is not zero.
        held: Names of those that an optimizer holds.
        is_moving: Whether some rate was not zero.
    """

    frozen: frozenset[str]
    thawed: list[str] = field(default_factory=list)
    reached: set[str] = field(default_factory=set)
    held: set[str] = field(default_factory=set)
    is_moving: bool = False

    def __call__(self, model: nn.Module, optimizers: Sequence[Optimizer]) -> None:
        """A step is about to be taken."""
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        held = {id(parameter) for group in groups for parameter in group["params"]}
        self.is_moving |= any(bool(group.get("lr", 1.0)) for group in groups)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and name in self.frozen and name not in self.thawed:
                self.thawed.append(name)
            if parameter.grad is not None and bool(parameter.grad.any()):
                self.reached.add(name)
            if id(parameter) in held:
                self.held.add(name)


@dataclass
class _Tuned:
    """A training of the head.

    Attributes:
        before: Parameters and buffers before it, in train mode.
        after: The same after it.
        noise: How far each moves by itself when the mode changes; names of those that do.
        watch: What was seen of its updates.
        fell: Whether it lowered the loss, as far as that is known.
    """

    before: dict[str, Tensor]
    after: dict[str, Tensor]
    noise: dict[str, float]
    watch: _Watch
    fell: bool

    def has_moved(self, name: str) -> bool:
        """Whether a tensor is another one than before, by more than a change of mode leaves behind."""
        before, after = self.before[name], self.after[name]
        if same_bits(before, after):
            return False
        return name not in self.noise or difference(before, after) > self.noise[name]

    def is_copied(self, name: str) -> bool:
        """Whether a tensor, of too many numbers for chance, moved straight towards another one, and not to zero."""
        before, after = self.before[name], self.after[name]
        others = (
            value for other, value in self.after.items() if other != name and value.shape == after.shape and bool(value.any())
        )
        return before.numel() > _BY_CHANCE and any(is_between(before, after, other) for other in others)


@dataclass(frozen=True)
class _Tuning:
    """Trainings of the head with the rest frozen.

    Attributes:
        trial: The model.
        head: What is trained.
        batch: What it memorises.
        free: What is seen of a step when nothing is frozen.
        optimizers: How many the training step uses.
    """

    trial: Trial
    head: Head
    batch: Batch
    free: _Watch
    optimizers: int

    def judge(self, renewed: bool) -> Evidence | None:
        """A finding, with the head as it is or with a new one; ``None`` where there is nothing to find."""
        try:
            tuned = self._tune(renewed, 1.0)
        except UserError:
            raise
        except Exception as error:
            return self._raised(error)
        found = self._thawed(tuned) or self._moved(tuned) or self._unmoved(tuned) or self._drifted(tuned)
        if found is not None or tuned.fell or not tuned.watch.is_moving:
            return found
        if any(self._tune(renewed, factor).fell for factor in _FACTORS[1:]):
            return None
        what = f"a newly initialised `{_named(self.head)}`" if renewed else f"`{_named(self.head)}`"
        return self._evidence(
            f"with the rest frozen, {what} learns nothing: {_STEPS} steps do not lower the loss at any of {len(_FACTORS)} learning rates",
            "weights that forward reads from a copy (merged, transposed or cached at the start), or a loss that does not depend on the last "
            "layer",
            "head_learns_nothing",
            self.head.modules[0] if self.head.modules else "",
        )

    def sound(self) -> Evidence:
        """Nothing was found."""
        message = (
            f"`{_named(self.head)}` can be trained with the rest frozen, as it is and newly initialised, and nothing else changes"
        )
        return Evidence.ok(_NAME, message, (0, 0, ""), counterexample=self._at)

    @property
    def _at(self) -> str:
        sizes = replace(self.trial.subject.typical, batch=_ROWS)
        return f"{_STEPS} steps on one batch, {sizes.describe(self.trial.subject.task)}; all frozen but {_named(self.head)}"

    def _tune(self, renewed: bool, factor: float) -> _Tuned:
        model = self.trial.new_model()
        frozen = frozenset(name for name, p in model.named_parameters() if p.requires_grad and name not in self.head.parameters)
        watch, scale, every = _Watch(frozen), RateScale(factor), self.trial.batches_per_step
        self.head.freeze_rest(model)
        if renewed:
            self.head.renew(model)
        first, noise = self._loss(model), _rounding_of_modes(model)
        before = weights_of(model.train())

        def look(trained: nn.Module, optimizers: Sequence[Optimizer]) -> None:
            watch(trained, optimizers)
            scale(trained, optimizers)

        training = self.trial.train([self.batch] * (_STEPS * every), model=model, on_gradients=look)
        after = weights_of(model.train())
        # Under the seed of the first step, so that both have the same dropout. Manual optimisation may keep its loss to itself.
        is_known = first == first or training.losses[0] == training.losses[0]
        fell = (
            not is_known
            or self._loss(model) < first
            or self.trial.train([self.batch] * every, TrialOptions(limit=1), model=model).losses[0] < training.losses[0]
        )
        return _Tuned(before, after, noise, watch, fell)

    def _loss(self, model: nn.Module) -> float:
        """The loss in eval mode."""
        return self.trial.loss_outside_training(self.batch, model.eval())

    def _raised(self, error: Exception) -> Evidence:
        if self.optimizers > 1:
            reason = (
                f"the training step uses {self.optimizers} optimizers, and some have no parameter left to train: {raised(error)}"
            )
            return Evidence.skipped(_NAME, reason)
        has_no_graph = any(words in str(error) for words in _NO_GRAPH)
        return self._evidence(
            "with the rest frozen, no gradient reaches the last layer"
            if has_no_graph
            else f"with the rest frozen, training raises an error, and otherwise none: {raised(error)}",
            "a forward under no_grad, or an optimizer over other parameters, where the backbone is frozen",
            "no_gradient_to_head" if has_no_graph else "raises_when_frozen",
            _named(self.head) if has_no_graph else "",
        )

    def _thawed(self, tuned: _Tuned) -> Evidence | None:
        names = tuned.watch.thawed
        if not names:
            return None
        model = self.trial.new_model()
        self.head.freeze_rest(model)
        model.train()
        by_train = dict(model.named_parameters())[names[0]].requires_grad
        how = "train() unfreezes it" if by_train else "the training step unfreezes it"
        return self._evidence(
            f"`{names[0]}` does not stay frozen{and_others(len(names) - 1, 'parameter')}: {how}",
            "requires_grad set in an overridden train(), in forward, or in a hook; set it once, where the model is made",
            "unfrozen",
            names[0],
        )

    def _moved(self, tuned: _Tuned) -> Evidence | None:
        names = [name for name in tuned.watch.frozen if tuned.has_moved(name)]
        copied = {
            name.partition(".")[0] for name in names if tuned.is_copied(name)
        }  # a target network is set to what another one is
        names = [name for name in names if name.partition(".")[0] not in copied]
        if not names:
            return None
        name = next(name for name in tuned.before if name in names)
        return self._evidence(
            f"`{name}` is frozen and changes all the same{and_others(len(names) - 1, 'parameter')}",
            "weights changed by hand (decay, an average, a clamp) without checking requires_grad, or momentum left over in the optimizer",
            "frozen_parameter_changes",
            name,
            float((tuned.after[name] - tuned.before[name]).abs().max()),
        )

    def _unmoved(self, tuned: _Tuned) -> Evidence | None:
        """A part of the head that has a gradient when nothing is frozen, and stays where it is now."""
        names = [name for name in tuned.before if name in self.head.parameters & self.free.reached and not tuned.has_moved(name)]
        if not names or not tuned.watch.is_moving:
            return None
        watch = tuned.watch
        why = (
            "no optimizer holds it"
            if names[0] not in watch.held
            else ("it receives no gradient" if names[0] not in watch.reached else "its steps are too small to change it")
        )
        evidence = self._evidence(
            f"with the rest frozen, `{names[0]}` does not change{and_others(len(names) - 1, 'parameter')}: {why}",
            "an optimizer over a fixed list of parameters, or a forward that differs where the backbone is frozen",
            "head_does_not_change",
            names[0],
        )
        if names[0] not in self.free.held:
            return replace(evidence, details=owned_by("optimizer_coverage"))
        return replace(evidence, status=Status.WARN) if "too small" in why else evidence

    def _drifted(self, tuned: _Tuned) -> Evidence | None:
        """Statistics of a frozen batch norm that move: what was learnt for the old ones is lost, where anything was."""
        if self.trial.subject.fresh_weights:
            return None
        for path, norm in batch_norms(self.trial.subject.model).items():
            prefix = f"{path}." if path else ""
            names = {f"{prefix}{name}" for name, _ in norm.named_parameters()}
            moved = [f"{prefix}{name}" for name, _ in norm.named_buffers() if name in ("running_mean", "running_var")]
            moved = [name for name in moved if not same_bits(tuned.before[name], tuned.after[name])]
            if moved and not names & self.head.parameters:
                return replace(
                    self._evidence(
                        f"`{path}` is frozen, and its running statistics change: so do the loaded features, though no weight changes",
                        "batch norm in train mode; keep frozen ones in eval mode, in train() too",
                        "running_statistics_change",
                        path,
                        float((tuned.after[moved[0]] - tuned.before[moved[0]]).abs().max()),
                    ),
                    status=Status.OK,  # as PyTorch does by default, and many want it so: worth saying, and no fault of the model
                )
        return None

    def _evidence(self, message: str, cause: str, code: str, module: str = "", measured: float | None = None) -> Evidence:
        seen = (measured, None if measured is None else 0.0, "change of a value")
        return Evidence.failed(_NAME, message, seen, counterexample=self._at, module=module, cause=cause, code=code)


def _rounding_of_modes(model: nn.Module) -> dict[str, float]:
    """How far weights may move by rounding when a model folds others into them in eval mode and takes them out in train mode."""
    folded = weights_of(model.eval())
    before = weights_of(model.train())
    changing = [name for name, value in before.items() if not same_bits(value, folded[name]) and value.is_floating_point()]
    if not changing:
        return {}
    sizes = {name: max(float(folded[name].abs().max()), float(before[name].abs().max())) for name in changing}
    return {name: FACTOR * torch.finfo(before[name].dtype).eps * size for name, size in sizes.items()}


def _named(head: Head) -> str:
    """The head, as messages call it."""
    return head.modules[0] if head.modules else min(head.parameters)


@dataclass(frozen=True)
class Head:
    """What turns the features into logits.

    Attributes:
        modules: Paths of its modules.
        parameters: Names of its trainable parameters, tied ones by their first name.
    """

    modules: tuple[str, ...]
    parameters: frozenset[str]

    def freeze_rest(self, model: nn.Module) -> None:
        """Freezes everything but the head."""
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in self.parameters)

    def renew(self, model: nn.Module) -> None:
        """Puts fresh weights into it, as for another task."""
        with seeded(0):
            for path in self.modules:
                for module in model.get_submodule("" if path == _ROOT else path).modules():
                    reset: Any = getattr(module, "reset_parameters", None)
                    if callable(reset):
                        reset()


def find_head(trial: Trial) -> Head | None:
    """The head of a model; ``None`` where the logits carry no graph, or nothing trainable would be left outside of it."""
    subject = trial.subject
    model = subject.fresh()
    with torch.enable_grad(), seeded(0), recording_graph(model) as calls:
        logits = subject.logits_with_grad(subject.batch(), model)
    modules, direct = _nearest(logits, _leaves(model, calls))
    paths = tuple(dict.fromkeys(modules))
    within = {id(p) for path in paths for p in model.get_submodule("" if path == _ROOT else path).parameters()}
    within |= {id(parameter) for parameter in direct}
    trainable = {name: id(parameter) for name, parameter in model.named_parameters() if parameter.requires_grad}
    names = frozenset(name for name, key in trainable.items() if key in within)
    return Head(paths, names) if names and len(names) < len(trainable) else None


def _leaves(model: nn.Module, calls: list[GraphCall]) -> dict[Any, str]:
    """The innermost parametrised modules by the graph nodes of what they returned."""
    parametrised = {path_of(name) for name, m in model.named_modules() if any(p.requires_grad for p in m.parameters())}
    called = {call.module for call in calls} & parametrised
    inner = {path for path in called if not any(_is_inside(other, path) for other in called)}
    found: dict[Any, str] = {}
    for call in calls:
        if call.module in inner:
            for tensor in call.outputs:
                if tensor.grad_fn is not None:
                    found.setdefault(tensor.grad_fn, call.module)
    return found


def _is_inside(path: str, other: str) -> bool:
    return path != other and (other == _ROOT or path.startswith(f"{other}."))


def _nearest(logits: Tensor, leaves: dict[Any, str]) -> tuple[list[str], list[Tensor]]:
    """The modules met first on every way back from the logits, and the parameters that no module holds on to."""
    modules: list[str] = []
    direct: list[Tensor] = []
    seen: set[Any] = set()
    pending = [logits.grad_fn]
    while pending:
        node: Any = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node in leaves:
            modules.append(leaves[node])
        elif hasattr(node, "variable"):
            direct.append(node.variable)
        else:
            pending.extend(parent for parent, _ in node.next_functions)
    return modules, direct
