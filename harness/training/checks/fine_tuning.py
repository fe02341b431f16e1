"""Whether the last layer of a model can be trained while the rest is frozen."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from harness.batches import Batch
from harness.errors import UserError
from harness.evidence import Evidence, Status
from harness.owners import owned_by
from harness.properties.large_tensors import largest_absolute
from harness.properties.noise import FACTOR, difference
from harness.training.checks.averaged_weights import is_mean_of
from harness.training.checks.gradient_noise import batch_norms
from harness.training.checks.model_head import Head, find_head
from harness.training.checks.training_trace import is_between, same_bits
from harness.training.engines import weights_of
from harness.training.optimisation import RateScale
from harness.training.trial import MOST_BATCHES, Trial, TrialOptions, too_long
from harness.user_code import is_raised_by_code, is_written_here, raised
from harness.wording import and_others

_NAME = "fine_tuning"
_ROWS = 4
_STEPS = 8
_BY_CHANCE = 8
_FACTORS = (1.0, 10.0, 100.0)
"""Rates are tried from the configured one upwards: that a rate is low is said elsewhere."""

_NO_GRAPH = ("does not require grad", "empty parameter list")


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
        return Evidence.skipped(_NAME, f"no gradient reaches `{head.name}` at the first step, whether or not the rest is frozen")
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
        paths: Values at each step of the parameters that are trained.
    """

    frozen: frozenset[str]
    thawed: list[str] = field(default_factory=list)
    reached: set[str] = field(default_factory=set)
    held: set[str] = field(default_factory=set)
    is_moving: bool = False
    paths: list[dict[str, Tensor]] = field(default_factory=list)

    def __call__(self, model: nn.Module, optimizers: Sequence[Optimizer]) -> None:
        """A step is about to be taken."""
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        held = {id(parameter) for group in groups for parameter in group["params"]}
        self.is_moving |= any(bool(group.get("lr", 1.0)) for group in groups)
        self.paths.append({name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad})
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

    def is_written(self, name: str) -> bool:
        """Whether a tensor, of too many numbers for chance, is a copy or an average of another one.

        It moved straight towards another one, and not to zero, or to a mean of where one that is trained was.
        """
        before, after = self.before[name], self.after[name]
        alike = [
            other for other, value in self.after.items() if other != name and value.shape == after.shape and bool(value.any())
        ]
        ways = [
            [*(step[other] for step in self.watch.paths), self.after[other]] for other in alike if other in self.watch.paths[0]
        ]
        return before.numel() > _BY_CHANCE and (
            any(is_between(before, after, self.after[other]) for other in alike)
            or any(is_mean_of(before, after, way) for way in ways)
        )


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
        what = f"a newly initialised `{self.head.name}`" if renewed else f"`{self.head.name}`"
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
            f"`{self.head.name}` can be trained with the rest frozen, as it is and newly initialised, and nothing else changes"
        )
        return Evidence.ok(_NAME, message, (0, 0, ""), counterexample=self._at)

    @property
    def _at(self) -> str:
        sizes = replace(self.trial.subject.typical, batch=_ROWS)
        return f"{_STEPS} steps on one batch, {sizes.describe(self.trial.subject.task)}; all frozen but {self.head.name}"

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
        # Under the seed and in the state of the first step, so that both have the same dropout, and the same running values in their losses.
        # Manual optimisation may keep its loss to itself.
        is_known = first == first or training.losses[0] == training.losses[0]
        fell = (
            not is_known
            or self._loss(model) < first
            or self._first_loss(model) < training.losses[0]
            or self._first_loss(self._with_head_of(model)) < training.losses[0]
        )
        return _Tuned(before, after, noise, watch, fell)

    def _loss(self, model: nn.Module) -> float:
        """The loss in eval mode."""
        return self.trial.loss_outside_training(self.batch, model.eval())

    def _first_loss(self, model: nn.Module) -> float:
        """The loss of the first step of a training that begins with a model as it is."""
        return self.trial.train([self.batch] * self.trial.batches_per_step, TrialOptions(limit=1), model=model).losses[0]

    @torch.no_grad()
    def _with_head_of(self, trained: nn.Module) -> nn.Module:
        """The model as it was before the training, but for the head."""
        model = self.trial.new_model()
        self.head.freeze_rest(model)
        for name in self.head.parameters:
            model.get_parameter(name).copy_(trained.get_parameter(name))
        return model

    def _raised(self, error: Exception) -> Evidence:
        if self.optimizers > 1:
            reason = (
                f"the training step uses {self.optimizers} optimizers, and some have no parameter left to train: {raised(error)}"
            )
            return Evidence.skipped(_NAME, reason)
        if is_raised_by_code(error) and is_written_here(traceback.extract_tb(error.__traceback__)[-1].filename):
            cause = (
                "an average or another list of parameters that is made while all of them are trained: freeze before it is made"
            )
            refusal = f"it refuses to be trained with the rest frozen once it is made: {raised(error)}"
            return replace(self._evidence(refusal, cause, "raises_when_frozen"), status=Status.WARN)
        has_no_graph = any(words in str(error) for words in _NO_GRAPH)
        return self._evidence(
            "with the rest frozen, no gradient reaches the last layer"
            if has_no_graph
            else f"with the rest frozen, training raises an error, and otherwise none: {raised(error)}",
            "a forward under no_grad, or an optimizer over other parameters, where the backbone is frozen",
            "no_gradient_to_head" if has_no_graph else "raises_when_frozen",
            self.head.name if has_no_graph else "",
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
        moved = [name for name in tuned.watch.frozen if tuned.has_moved(name)]
        names = [name for name in moved if not tuned.is_written(name)]  # as a target network or an average of weights is
        written = set(moved) - {*names}
        names = [name for name in names if tuned.before[name].numel() > _BY_CHANCE or not _is_beside(name, written)]
        if not names:
            return None
        name = next(name for name in tuned.before if name in names)
        return self._evidence(
            f"`{name}` is frozen and changes all the same{and_others(len(names) - 1, 'parameter')}",
            "weights changed by hand (decay, an average, a clamp) without checking requires_grad, or momentum left over in the optimizer",
            "frozen_parameter_changes",
            name,
            largest_absolute(tuned.after[name] - tuned.before[name]),
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
                        largest_absolute(tuned.after[moved[0]] - tuned.before[moved[0]]),
                    ),
                    status=Status.OK,  # as PyTorch does by default, and many want it so: worth saying, and no fault of the model
                )
        return None

    def _evidence(self, message: str, cause: str, code: str, module: str = "", measured: float | None = None) -> Evidence:
        seen = (measured, None if measured is None else 0.0, "change of a value")
        return Evidence.failed(_NAME, message, seen, counterexample=self._at, module=module, cause=cause, code=code)


def _is_beside(name: str, others: Iterable[str]) -> bool:
    """Whether a parameter is in one part with some of other names."""
    part = name.rpartition(".")[0]
    return any(f"{other}.".startswith(f"{part}." if part else "") for other in others)


def _rounding_of_modes(model: nn.Module) -> dict[str, float]:
    """How far weights may move by rounding when a model folds others into them in eval mode and takes them out in train mode."""
    folded = weights_of(model.eval())
    before = weights_of(model.train())
    changing = [name for name, value in before.items() if not same_bits(value, folded[name]) and value.is_floating_point()]
    if not changing:
        return {}
    sizes = {name: max(largest_absolute(folded[name]), largest_absolute(before[name])) for name in changing}
    return {name: FACTOR * torch.finfo(before[name].dtype).eps * size for name, size in sizes.items()}
