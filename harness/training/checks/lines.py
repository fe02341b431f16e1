"""The line of the user's training code to look at: where a loss is made or ceases to be finite, an optimizer is made, a schedule is stepped."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from types import FrameType
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.overrides import TorchFunctionMode

from harness.batches import Batch
from harness.compat import tree_leaves
from harness.evidence import Blame, Evidence, Status
from harness.properties.places import method_of, shown_place
from harness.properties.watched_lines import LinesOfParameters, Settings, Writes, last_operator_line, switching_line
from harness.training.checks.followed_lines import LinesOfValue, first_outside_of_torch, following, line_that_tells_apart
from harness.training.checks.lines_of_processes import line_of_own_backward, line_of_rank
from harness.training.trial import Trial, TrialOptions
from harness.user_code import is_ours, is_written_here

_OF_LOSS = ("initial_loss", "training_loss", "accumulation", "overfits_one_batch")
_OF_OPTIMIZERS = ("parameter_groups", "optimizer_coverage")
_OF_WRITES = (
    "average_without_buffers",
    "average_in_part",
    "average_follows_at_once",
    "average_moves_away",
    "frozen_parameter_changes",
    "buffer_changes",
    "weights_differ",
)
"""Codes of findings on what is written into a part of the model."""

_OF_GROUPS = ("decay_misses_its_kind", "blocks_differ", "empty_group", "norms_decayed", "block_rates_out_of_order")
"""Codes of findings on the group that a parameter is put in."""

_OF_SCHEDULES = ("learning_rate_schedule",)
_OF_RATES = ("rate_is_zero", "rates_overwritten", "only_with_other_rate")
"""Codes of findings on the learning rate, which a schedule sets, or else the optimizer."""

_OF_CLEARING = ("gradient_not_cleared", "gradient_of_another_loss")
"""Codes of findings on gradients that are left from another step."""

_NAMED = re.compile(r"`(\w+)`")
_PATHS = re.compile(r"`([\w.]+)`")
_ENGINES = ("lightning", "lightning_fabric", "lightning_utilities", "pytorch_lightning", "torchmetrics")


def with_line(evidence: Evidence, trial: Trial, diverged: bool = False) -> Evidence:
    """A finding with the line of the user's code to look at, as far as there is one.

    Args:
        evidence: The finding.
        trial: What was judged.
        diverged: Whether it is that a training ceased to be finite.
    """
    if evidence.status not in (Status.FAIL, Status.WARN) or evidence.place or "owner" in evidence.details:
        return evidence
    if place := _line_by_code(trial, evidence):
        return evidence.at(place)
    if evidence.name in _OF_SCHEDULES:
        return evidence.at(_schedule_line(trial, evidence.message))
    if evidence.code in _OF_GROUPS and (place := _grouping_line(trial, evidence.message)):
        return evidence.at(place)
    if evidence.name in _OF_OPTIMIZERS and trial.is_own:
        return evidence.at(next(iter(_calling_lines(trial, Optimizer, "__init__").values()), ""))
    if evidence.code in _OF_WRITES:
        return evidence.at(_writing_line(trial, evidence.module))
    if evidence.name == "validation_pass":
        return evidence.at(_line_of_validation(trial, evidence))
    if evidence.code == "cannot_overfit" and evidence.module:
        return evidence.at(LinesOfParameters(trial.new_model).written_apart(evidence.module))
    if evidence.code == "frozen_statistics_change":
        return evidence.at(method_of(trial.subject.model, "train") or _freezing_line(trial, evidence.module))
    if evidence.module or not (diverged or evidence.name in _OF_LOSS):
        return evidence
    earlier = evidence.investigate

    def look() -> str:
        found = earlier() if earlier is not None else ""
        return found or Blame("", loss_line(trial))

    return replace(evidence, investigate=look)


def _line_by_code(trial: Trial, evidence: Evidence) -> str:
    """The line of the training code that a finding of some kind is about; empty for other kinds, and for models that have no such code."""
    if evidence.code == "flag_freezes_nothing":
        return _flag_line(trial.new_model, (_NAMED.findall(evidence.message) or [""])[-1])
    if evidence.code == "unfrozen":
        return _thawing_line(trial, evidence.module)
    if evidence.code == "no_gradient_to_head":
        return _cutting_line(trial, evidence.module)
    if evidence.code == "returns_probabilities":
        model, batch = trial.new_model().eval(), trial.subject.batch()
        return last_operator_line(lambda: trial.subject.logits(batch, model), ("softmax", "sigmoid"))
    if evidence.code == "depends_on_rank":
        return line_of_rank(trial)
    if evidence.code == "gradient_scales_with_processes":
        return loss_line(trial)
    if not trial.is_own:
        return ""
    if evidence.code == "gradients_not_averaged":
        return line_of_own_backward(trial)
    if evidence.code == "head_does_not_change":
        return next(iter(_calling_lines(trial, Optimizer, "__init__").values()), "")
    if evidence.code == "no_step":
        return method_of(trial.subject.model, "training_step")
    if evidence.code in _OF_RATES:
        made = [*_calling_lines(trial, LRScheduler, "__init__").values(), *_calling_lines(trial, Optimizer, "__init__").values()]
        return next(iter(made), "")
    if evidence.code == "no_gradient_at_step":
        return _line_without_gradient(trial)
    if evidence.code in _OF_CLEARING:
        cleared = _calling_lines(trial, Optimizer, "zero_grad", 2 * max(1, trial.batches_per_step))
        return next(iter(cleared.values()), "") or _step_line(trial)
    return ""


def _flag_line(run: Callable[[], object], flag: str) -> str:
    """The user's line that last gives a module an attribute."""
    found = [""]
    original = nn.Module.__setattr__

    def note(module: nn.Module, name: str, value: Any) -> None:
        if name == flag and (line := users_line(sys._getframe(1))):
            found.append(line)
        original(module, name, value)

    with suppress(Exception), patch.object(nn.Module, "__setattr__", note):
        run()
    return found[-1]


def _grouping_line(trial: Trial, message: str) -> str:
    """The user's line that chooses the group of a parameter, the first that a message names, and not that of the next one that it names.

    Without such a line, the one that lists the parameters.
    """
    seen, listed = list[LinesOfValue](), list[str]()
    original = nn.Module.named_parameters

    def note(module: nn.Module, *args: Any, **options: Any) -> Any:
        listed.append(users_line(sys._getframe(1)))
        return original(module, *args, **options)

    def listen(model: Any) -> None:
        parameters = dict(model.named_parameters())
        seen[:] = [LinesOfValue(name, parameters[name]) for name in _PATHS.findall(message) if name in parameters][:2]
        configure = model.configure_optimizers

        def configure_optimizers() -> Any:
            with patch.object(nn.Module, "named_parameters", note), following(*(each.see for each in seen)):
                return configure()

        model.configure_optimizers = configure_optimizers

    with suppress(Exception):
        trial.train([trial.subject.batch()], TrialOptions(limit=1), prepare=listen)
    ways = [each.lines for each in seen]
    return line_that_tells_apart(ways[0], ways[-1]) if ways and ways[0] else next(filter(None, reversed(listed)), "")


def _line_of_validation(trial: Trial, evidence: Evidence) -> str:
    """The user's line of a validation pass that changes what training continues with."""
    model = trial.new_model()

    def run() -> None:
        _short_training(trial, model, validates=True)

    if evidence.code in ("validation_leaves_mode", "validation_changes_statistics"):
        return switching_line(run, model, evidence.module) or method_of(model, "on_validation_model_train")
    if evidence.code == "validation_freezes":
        return _thawing_line(trial, (_PATHS.findall(evidence.message) or [""])[0], validates=True)
    flag = (_PATHS.findall(evidence.message) or [""])[0].rpartition(".")[2]
    return _flag_line(run, flag) if evidence.code == "validation_changes_training" else ""


def _thawing_line(trial: Trial, path: str, validates: bool = False) -> str:
    """The user's line that last says, in a training that begins with a frozen parameter, whether it is trained."""
    model, lines = trial.new_model(), dict[int, str]()
    with suppress(Exception):  # a path of no parameter
        parameter = model.get_parameter(path).requires_grad_(validates)
        with Settings({}, lines):
            _short_training(trial, model, validates)
        return lines.get(id(parameter), "")
    return ""


def _step_line(trial: Trial) -> str:
    """The user's line that last has an optimizer take a step."""
    found = [""]

    def note(*_call: Any) -> None:
        if line := users_line(sys._getframe(1)):
            found.append(line)

    with register_optimizer_step_pre_hook(note):
        _short_training(trial, trial.new_model())
    return found[-1]


def _writing_line(trial: Trial, path: str) -> str:
    """The user's line that last writes into a weight or buffer in a short training, or else into others of the modules around it."""
    model = trial.new_model()
    with Writes() as writes:
        _short_training(trial, model)
    places = {name: writes.line_of(tensor) for name, tensor in (*model.named_parameters(), *model.named_buffers())}
    while path:
        if place := next((at for name, at in places.items() if at and f"{name}.".startswith(f"{path}.")), ""):
            return place
        path = path.rpartition(".")[0]
    return ""


def _freezing_line(trial: Trial, path: str) -> str:
    """The user's line that froze a module."""
    lines = LinesOfParameters(trial.new_model)
    places = (lines.frozen(name) for name, _ in trial.subject.model.named_parameters() if name.startswith(f"{path}."))
    return next(filter(None, places), "")


def _short_training(trial: Trial, model: nn.Module, validates: bool = False) -> None:
    batches = [trial.subject.batch(seed=seed) for seed in range(2 * max(1, trial.batches_per_step))]
    with suppress(Exception):  # it was measured already; what is wanted is a line on the way
        trial.train(batches, TrialOptions(epochs=2), model=model, held_out=[trial.held_out] if validates else None)


class _Lines(TorchFunctionMode):
    """Notes lines of the user's code up to the backward pass.

    Attributes:
        loss: Where the last scalar with a gradient was made.
        broken: Where a number first was undefined (NaN), of defined ones.
        infinite: Where a number first was infinite, of finite ones: what is infinite on purpose, as in a mask, makes no undefined loss.
        is_defined: Whether that scalar was a number, wherever it was made.
    """

    def __init__(self) -> None:
        super().__init__()
        self.loss = self.broken = self.infinite = ""
        self.is_defined = True
        self._ended = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") == "backward":
            self._ended = True
        result = func(*args, **(kwargs or {}))
        if not self._ended:
            self._note(result, (args, kwargs))
        return result

    def _note(self, result: Any, given: Any) -> None:
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
        scalar = next((leaf for leaf in made if leaf.ndim == 0 and leaf.requires_grad), None)
        is_logged = _is_of_an_engine(first_outside_of_torch(sys._getframe(2)))  # `self.log` copies the loss
        if scalar is not None and not is_logged:
            self.loss = users_line(sys._getframe(2), overriding=True) or self.loss
            self.is_defined = not bool(scalar.isnan())
        if not self.broken and _holds(torch.isnan, made) and not _holds(torch.isnan, tree_leaves(given)):
            self.broken = users_line(sys._getframe(2))
        if not self.infinite and _holds(torch.isinf, made) and not _holds(torch.isinf, tree_leaves(given)):
            self.infinite = users_line(sys._getframe(2))


class ScalarLines(TorchFunctionMode):
    """Tells of every scalar that is made, and of the user's line that makes it.

    Args:
        note: Is told.
    """

    def __init__(self, note: Callable[[Tensor, str], None]) -> None:
        super().__init__()
        self._note = note

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.ndim == 0 and result.is_floating_point():
            self._note(result, users_line(sys._getframe(1)))
        return result


def _holds(kind: Callable[[Tensor], Tensor], leaves: Sequence[Any]) -> bool:
    return any(isinstance(leaf, Tensor) and leaf.is_floating_point() and bool(kind(leaf.detach()).any()) for leaf in leaves)


def loss_line(trial: Trial, batch: Batch | None = None) -> str:
    """The line that makes the loss of a training step, or, of a loss that is undefined, the line that was so first.

    Args:
        trial: The training.
        batch: What it learns; by default a usual batch.
    """
    lines = _Lines()
    with suppress(Exception), lines:
        batches = [trial.subject.batch() if batch is None else batch] * max(1, trial.batches_per_step)
        trial.train(batches, TrialOptions(limit=1))
    return lines.loss if lines.is_defined else lines.broken or lines.infinite or lines.loss


def _line_without_gradient(trial: Trial) -> str:
    """The user's line that clears the gradients of a loss that has some, or else that makes a loss that has none."""
    if loss := loss_line(trial):
        cleared = [
            *_calling_lines(trial, Optimizer, "zero_grad").values(),
            *_calling_lines(trial, nn.Module, "zero_grad").values(),
        ]
        return next(iter(cleared), loss)
    made = [""]
    with suppress(Exception), ScalarLines(lambda _scalar, line: made.append(line or made[-1])):
        trial.train([trial.subject.batch()], TrialOptions(limit=1))
    return made[-1]


def _cutting_line(trial: Trial, head: str) -> str:
    """The user's line that first switches gradients off in a training step in which all but a head is frozen."""
    model, found = trial.new_model(), list[str]()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(f"{head}.") or name == head)
    original: Callable[..., Any] = torch.set_grad_enabled.__init__

    def note(self: Any, mode: bool) -> None:
        if not mode:
            found.append(users_line(sys._getframe(1)))
        original(self, mode)

    with patch.object(torch.set_grad_enabled, "__init__", note):
        _short_training(trial, model)
    return next(filter(None, found), "")


def _calling_lines(trial: Trial, kind: type, method: str, batches: int = 1) -> dict[str, str]:
    """The last of the user's lines that called a method in a short training, by the class of the object."""
    seen: dict[str, str] = {}
    original: Callable[..., Any] = getattr(kind, method)

    def note(self: Any, *args: Any, **more: Any) -> Any:
        if line := users_line(sys._getframe(1)):
            seen[type(self).__name__] = line
        return original(self, *args, **more)

    with suppress(Exception), patch.object(kind, method, note):
        trial.train([trial.subject.batch()] * batches, TrialOptions(epochs=2))
    return seen


def _schedule_line(trial: Trial, message: str) -> str:
    """Where a schedule is stepped by the model's own code, or else where it is made."""
    named = _NAMED.findall(message)
    made = _calling_lines(trial, LRScheduler, "__init__")
    stepped = {}
    if not getattr(trial.subject.model, "automatic_optimization", True):
        stepped = _calling_lines(trial, LRScheduler, "step", 2 * max(1, trial.batches_per_step))
    lines = [found[name] for found in (stepped, made) for name in named if name in found]
    return next(iter(lines), "")


def users_line(frame: FrameType | None, overriding: bool = False) -> str:
    """The innermost line that the user can change, up to this project's code; or else one of a package that is neither torch nor an engine.

    Args:
        frame: Where to begin.
        overriding: Whether of a method that another one of its name calls, as by ``super()``, the line that calls it is meant.
    """
    found = ""
    while frame is not None and not is_ours(frame.f_code.co_filename):
        if not _is_of_an_engine(frame) and (place := shown_place(frame.f_code.co_filename, frame.f_lineno)):
            outer = frame.f_back
            if not (overriding and outer is not None and _is_overridden_by(outer, frame)):
                found = found or place
                if is_written_here(frame.f_code.co_filename):
                    return place
        frame = frame.f_back
    return found


def _is_overridden_by(outer: FrameType, inner: FrameType) -> bool:
    is_of_its_name = outer.f_code.co_name == inner.f_code.co_name
    return is_of_its_name and outer.f_locals.get("self", outer) is inner.f_locals.get("self", inner)


def _is_of_an_engine(frame: FrameType | None) -> bool:
    return frame is not None and str(frame.f_globals.get("__name__", "")).partition(".")[0] in _ENGINES
