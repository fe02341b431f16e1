"""Guessing what a model is for, by calling it with inputs of the tasks that its layers suggest."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from harness.adapters import CallPlan, find_logits, plan_call
from harness.batches import Batch, Sizes, make_batch, typical_sizes
from harness.errors import FactoryError, UserError
from harness.models.answers import Answer, fitted, with_length
from harness.models.attempts import (
    IMAGES,
    Flattened,
    Guess,
    Patience,
    SideSearch,
    declared_side,
    length_first,
    parameters_of,
    signature_of,
    tabular_attempts,
    text_attempts,
    unfit_arguments,
)
from harness.models.copies import Reuse
from harness.models.first_call.watching import refusing_unbatched
from harness.runtime import threads_for
from harness.tasks import FACTS, TaskSpec, TaskType
from harness.tasks.finding.outputs import has_unit_vectors
from harness.user_code import raised

__all__ = ["Guess", "guess_task", "signature_of"]

_IMAGE_AXES = 4
"""Axes of a batch of images."""

_TEXT_AXES = 2
"""Axes of a batch of token ids, and of rows of a table."""

_FEW = 3
"""Attempts that are made of the slowest model."""

_LUCKY_LENGTHS = range(2, 17)
"""Where a wrong view may work, such as at as many tokens as there are heads."""

_TABULAR = (TaskType.TABULAR_CLASSIFICATION, TaskType.TABULAR_REGRESSION)


@dataclass(frozen=True)
class Refusal:
    """Why an attempt does not fit.

    Attributes:
        why: The reason.
        task: What was tried.
        answered: The model took the inputs; other sizes would get the same answer.
        called: ``forward`` was called at all, rather than refused for what it takes or returns.
        flattened: Widths that did not meet at a linear layer.
        shape: Shape of the answer, where there was one.
    """

    why: str
    task: TaskType
    answered: bool = False
    called: bool = True
    flattened: Flattened | None = None
    shape: tuple[int, ...] = ()


def guess_task(
    build: Callable[[], nn.Module],
    *,
    only: TaskType | None = None,
    shapes: Collection[tuple[int, ...]] = (),
    axes: int | None = None,
    patience: Patience | None = None,
) -> Guess:
    """The first task whose inputs the model takes and whose logits it returns.

    Labels are never invented: a model that answers with values of its input's shape, or with hidden states, is no classifier unless
    ``only`` says so.

    Args:
        build: Returns a fresh model in eval mode. It is called once, and again after a call that changed the model and failed.
        only: The task, where the user knows it.
        shapes: Shapes of inputs that are likelier than others.
        axes: How many axes the first input has, where the file says so; tasks of other inputs are not tried.
        patience: The time there is.

    Raises:
        FactoryError: No task fits; the message lists what was tried.
    """
    subject = _Subject(build, patience or Patience(), only)
    refusals: list[Refusal] = []
    subject.patience.stage(f"trying token ids, images and rows of a table (at most {subject.patience.seconds:g} s)")
    with threads_for(subject.model):
        families = {_text: _TEXT_AXES, _image: _IMAGE_AXES, _tabular: _TEXT_AXES}
        for family in [each for each, count in families.items() if axes in (None, count) or only is not None]:
            for outcome in family(subject, shapes):
                if isinstance(outcome, Guess):
                    return outcome
                refusals.append(outcome)
                if subject.patience.is_over and len(refusals) >= _FEW:
                    raise FactoryError(_why_not(subject, refusals) + f"; stopped after {subject.patience.seconds:g} s")
            if any(refusal.answered for refusal in refusals):
                break
    raise FactoryError(_why_not(subject, refusals))


class _Subject:
    """A model that is called again and again, and built again only where a failed call changed it."""

    def __init__(self, build: Callable[[], nn.Module], patience: Patience, only: TaskType | None) -> None:
        self._build = Reuse(build)
        self.patience = patience
        self.only = only
        self.names = {p.name for p in parameters_of(self.model)}

    @property
    def model(self) -> nn.Module:
        """The model."""
        return self._build()

    def is_wanted(self, *tasks: TaskType) -> bool:
        """Whether one of these tasks may be tried."""
        return self.only is None or self.only in tasks

    def attempt(self, attempt: Guess, length: int | None = None) -> Guess | Refusal:
        """The attempt with the rest filled in from the model's answer; or why it does not fit.

        Args:
            attempt: The task.
            length: Tokens of a text, where those of the task fail; how long one may be is then taken from the task.
        """
        kind, model = attempt.task.task_type, self.model
        probe = replace(attempt.task, num_classes=attempt.task.num_classes or 2)
        sizes = typical_sizes(probe) if length is None else Sizes(typical_sizes(probe).batch, length, length)
        try:
            plan = attempt.plan or plan_call(model, FACTS[kind].inputs)
        except UserError as error:
            return Refusal(str(error), kind, called=False)
        linear = Flattened.watching(model)
        try:
            with linear, refusing_unbatched(model):
                returned = returned_by(model, plan, make_batch(probe, sizes))
                logits = _batch_first(find_logits(returned), plan)
        except UserError as error:
            return Refusal(str(error), kind, answered=True, called=False)
        except (Exception, SystemExit) as error:
            return Refusal(f"forward raises {raised(error)}", kind, flattened=linear.mismatch)
        if not logits.is_floating_point():
            return Refusal(f"logits of dtype {logits.dtype}", kind, answered=True)
        others = _other_outputs(returned, logits) if self.only is None and not attempt.task.is_text else []
        if others:
            return Refusal(f"it returns more than logits: {others}", kind, answered=True)
        if self.only is None and has_unit_vectors(logits.float()):
            return Refusal("it returns vectors of length 1, an embedding", kind, answered=True)
        called = replace(attempt, called=_called(model, plan))
        answer = Answer(model, plan, sizes, tuple(logits.shape), self.only, lambda batch: call(model, plan, batch))
        found = fitted(called, answer)
        if isinstance(found, str):
            return Refusal(found, kind, answered=True, shape=answer.shape)
        return with_length(found, answer, self.patience) if found.task.is_text and length is None else found


def call(model: nn.Module, plan: CallPlan, batch: Batch) -> Tensor:
    """The logits of a batch, always with the batch first."""
    return _batch_first(find_logits(returned_by(model, plan, batch)), plan)


def returned_by(model: nn.Module, plan: CallPlan, batch: Batch) -> Any:
    """What forward returns for a batch."""
    with torch.no_grad():
        return plan.call(model, batch)


def _batch_first(logits: Tensor, plan: CallPlan) -> Tensor:
    return logits.transpose(0, 1) if plan.length_first and logits.ndim >= 3 else logits


def _other_outputs(returned: Any, logits: Tensor) -> list[list[int]]:
    """Shapes of numbers for every row that a model returns beside its logits, such as the value beside the scores of a policy."""
    items = returned.values() if isinstance(returned, Mapping) else returned if isinstance(returned, (tuple, list)) else ()
    tensors = [item for item in items if isinstance(item, Tensor) and item.is_floating_point() and item.ndim]
    return [list(item.shape) for item in tensors if item is not logits and item.shape[:1] == logits.shape[:1]]


def _text(subject: _Subject, _shapes: Collection[tuple[int, ...]]) -> Iterator[Guess | Refusal]:
    kinds = tuple(task for task in FACTS if FACTS[task].modality == "text")
    if not subject.is_wanted(*kinds) or subject.names & set(IMAGES):
        return
    if subject.only is None and unfit_arguments(subject.model):
        return
    for attempt in text_attempts(subject.model):
        subject.patience.say("calling it with token ids")
        outcome = subject.attempt(attempt)
        turned = length_first(subject.model, attempt)
        if isinstance(outcome, Guess) and turned and _mixes_rows_alone(subject, outcome):
            outcome = Refusal("read as [batch, length], it mixes the rows of a batch", attempt.task.task_type, answered=True)
        if isinstance(outcome, Refusal) and turned and _may_be_turned(outcome, attempt):
            other = subject.attempt(turned)
            outcome = other if isinstance(other, Guess) else outcome
        if isinstance(outcome, Refusal) and "view size is not compatible" in outcome.why:
            outcome = next(filter(_fits, (subject.attempt(attempt, length) for length in _LUCKY_LENGTHS)), outcome)
        yield outcome


def _fits(outcome: Guess | Refusal) -> bool:
    return isinstance(outcome, Guess)


def _may_be_turned(refusal: Refusal, attempt: Guess) -> bool:
    """Whether the axes may be the other way round: the model took nothing, or answered with as many rows as there were positions."""
    return not refusal.shape or refusal.shape[0] == typical_sizes(attempt.task).seq


def _mixes_rows_alone(subject: _Subject, guess: Guess) -> bool:
    """Whether a row's logits depend on other rows but not on the row's own other tokens: then the axes are the other way round."""
    task, sizes = guess.task, typical_sizes(guess.task)
    if len(task.logits_shape(sizes.batch, sizes.seq, sizes.target_seq)) < 3 or task.is_seq2seq:
        return False
    plan = guess.plan or plan_call(subject.model, task.facts.inputs)
    batch = make_batch(task, sizes)
    changed = {**batch, "input_ids": batch["input_ids"].clone()}
    changed["input_ids"][1, 4] = (changed["input_ids"][1, 4] + 1) % (task.vocab_size or 2)
    before, after = (call(subject.model, plan, each) for each in (batch, changed))
    moved = (before != after).any(dim=-1)
    rows, columns = moved.clone(), moved.clone()
    rows[1] = False
    columns[:, 4] = False
    return bool(rows.any()) and not bool(columns.any())


def _image(subject: _Subject, shapes: Collection[tuple[int, ...]]) -> Iterator[Guess | Refusal]:
    model = subject.model
    convolution = next(((name, m) for name, m in model.named_modules() if isinstance(m, nn.Conv2d)), None)
    flat = any(isinstance(m, (nn.Flatten, nn.Unfold)) or _takes_four_axes(m) for m in model.modules())
    tried = [shape[1:] for shape in shapes if len(shape) == 4 and shape[2] == shape[3]]
    speaks_of_images = convolution is not None or flat or bool(tried) or bool(subject.names & set(IMAGES))
    if not subject.is_wanted(TaskType.IMAGE_CLASSIFICATION) or not (speaks_of_images or subject.only):
        return
    if subject.only is None and "features" in subject.names and convolution is None:
        return
    declared, why = declared_side(model)
    known = tuple(dict.fromkeys((*(shape[0] for shape in tried), 3, 1)))
    if convolution is not None:  # the first one need not be the one that reads images
        known = (convolution[1].in_channels, *(known if subject.names & set(IMAGES) else ()))
    for channels in dict.fromkeys(known):
        own = [shape[1] for shape in tried if shape[0] == channels]
        search = SideSearch([*declared, *own])
        while (side := search.next_side()) is not None:
            subject.patience.say(f"calling it with images of {side} pixels")
            where = f"channels of {convolution[0]}, and " if convolution and channels == convolution[1].in_channels else ""
            reason = why if side in declared else f"{where}a side that works; yours may be another"
            reason = "an input that the file makes" if side in own and side not in declared else reason
            task = TaskSpec(TaskType.IMAGE_CLASSIFICATION, image_size=(channels, side, side))
            outcome = subject.attempt(Guess(task, {"image_size": reason}))
            yield outcome
            if isinstance(outcome, Guess) or outcome.answered or not outcome.called:
                return
            search.learn(side, outcome.flattened)


def _takes_four_axes(module: nn.Module) -> bool:
    """Whether a module is a layer of einops that takes images apart, such as ``Rearrange("b c (h p) (w q) -> b (h w) (p q c)")``."""
    left, arrow, _ = str(getattr(module, "pattern", "")).partition("->")
    return bool(arrow) and len(re.sub(r"\([^)]*\)", "group", left).split()) == _IMAGE_AXES


def _tabular(subject: _Subject, shapes: Collection[tuple[int, ...]]) -> Iterator[Guess | Refusal]:
    if not subject.is_wanted(*_TABULAR) or (subject.only is None and subject.names & {"input_ids", *IMAGES}):
        return
    widths = {shape[1]: "an input that the file makes" for shape in shapes if len(shape) == 2}
    for attempt in tabular_attempts(subject.model, widths):
        subject.patience.say(f"calling it with {attempt.task.num_features} features")
        outcome = subject.attempt(attempt)
        yield outcome
        if isinstance(outcome, Guess) or outcome.answered or not outcome.called:
            return


def _called(model: nn.Module, plan: CallPlan) -> str:
    """``x=input_ids, mask=attention_mask``."""
    if plan.whole:
        return "the batch as a dict"
    by_position = zip((p.name for p in parameters_of(model)), plan.positional, strict=False)
    turned = " as [length, batch]" if plan.length_first else ""
    return ", ".join(f"{name}={field}" for name, field in [*by_position, *((name, name) for name in plan.named)]) + turned


def _why_not(subject: _Subject, refusals: list[Refusal]) -> str:
    """What went wrong by task: an answer that fits no task if there is one, or else each task's first failure."""
    signature = signature_of(subject.model)
    answers = [refusal for refusal in refusals if refusal.answered]
    if answers:
        return f"{signature} fits no task: {answers[-1].why}"
    by_task: dict[str, list[str]] = {}
    for refusal in refusals:
        by_task.setdefault(FACTS[refusal.task].modality, []).append(refusal.why)
    tasks: dict[str, list[str]] = {}
    for task, outcomes in by_task.items():
        more = f" (and {len(outcomes) - 1} attempts with other sizes)" if len(outcomes) > 1 else ""
        tasks.setdefault(outcomes[0] + more, []).append(task)
    said = "; ".join(f"as {' or '.join(names)}: {why}" for why, names in tasks.items())
    return f"{signature} fits no task; {said or 'its layers say nothing about its inputs'}"
