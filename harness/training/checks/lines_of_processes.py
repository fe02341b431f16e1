"""The line of the user's code because of which a training in several processes is another one than in a single process."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from harness.batches import Batch
from harness.evidence import Blame
from harness.properties.places import shown_place
from harness.properties.tracing import (
    Call,
    View,
    diverging_line,
    first_divergence,
    numbered,
    recording,
    recording_steps,
    row_view,
)
from harness.runtime import seeded
from harness.training.checks.followed_lines import Line, LinesRun, first_outside_of_torch, following, parting_line
from harness.training.checks.gradient_noise import ModuleMode, disable_stochastic_layers
from harness.training.trial import Trial, TrialOptions
from harness.user_code import is_written_here

_STEP = "training_step"


def line_of_rank(trial: Trial) -> str:
    """The user's line at which a training step of the second process parts from that of the first, with the same rows and random numbers.

    The ranks are told as a launcher tells them, by environment variables, and as PyTorch and Lightning do.
    """

    def lines(rank: int) -> list[Line]:
        run = LinesRun()
        with suppress(Exception), _as_rank(rank), following(run.see):
            _take_step(trial, trial.subject.batch(), disable_stochastic_layers)
        return run.lines

    with suppress(Exception):  # what is found out at a first step is no part of either run
        _take_step(trial, trial.subject.batch(), disable_stochastic_layers)
    return parting_line(lines(0), lines(1))


@contextmanager
def _as_rank(rank: int) -> Iterator[None]:
    told = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    with ExitStack() as stack:
        stack.enter_context(patch.dict(os.environ, told))
        stack.enter_context(patch.object(torch.distributed, "get_rank", lambda group=None: rank))
        for name in ("lightning", "pytorch_lightning"):
            if (module := getattr(sys.modules.get(name), "LightningModule", None)) is not None:
                stack.enter_context(patch.object(module, "global_rank", rank))
                stack.enter_context(patch.object(module, "local_rank", rank))
        yield


def line_of_own_backward(trial: Trial) -> str:
    """The user's line that sends a loss back itself, past Lightning, which would average the gradients over the processes."""
    found = list[str]()

    def noting(original: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **more: Any) -> Any:
            frame = first_outside_of_torch(sys._getframe(1))
            if frame is not None and is_written_here(frame.f_code.co_filename):
                found.append(shown_place(frame.f_code.co_filename, frame.f_lineno))
            return original(*args, **more)

        return called

    with ExitStack() as stack, suppress(Exception):
        for name in ("backward", "grad"):
            stack.enter_context(patch.object(torch.autograd, name, noting(getattr(torch.autograd, name))))
        _take_step(trial, trial.subject.batch(), disable_stochastic_layers)
    return next(iter(found), "")


def _take_step(trial: Trial, batch: Batch, prepare: ModuleMode) -> None:
    batches = [batch] * max(1, trial.batches_per_step)
    trial.train(batches, TrialOptions(limit=1, clip=False), prepare=prepare)


Draws = Callable[[bool], AbstractContextManager[None]]
"""Makes a block in which random numbers are drawn; told whether those of the whole batch are, or those that its first half has of them."""


def as_seeded(_is_whole: bool) -> AbstractContextManager[None]:
    """Lets both draw as their seeds say."""
    return nullcontext()


def where_rows_meet(trial: Trial, stance: ModuleMode, whole: Batch, part: Batch, draws: Draws = as_seeded) -> str:
    """The module or the training step in which a row first depends on the other rows of its batch, with the line.

    Args:
        trial: The training.
        stance: Puts the model into the state in which this was seen.
        whole: A batch.
        part: Its first rows.
        draws: Makes them draw alike.
    """
    view_whole, view_part = (_row_of(trial, batch) for batch in (whole, part))

    def forward(batch: Batch) -> list[Call]:
        model = trial.subject.fresh().train()
        stance(model)
        with recording(model, lines=True) as calls, seeded(0), draws(batch is whole):
            trial.subject.raw_logits(batch, model)
        return calls

    found = first_divergence(forward(whole), forward(part), view_whole, view_part)
    if found or not trial.is_own:
        return found

    def step(batch: Batch) -> Call:
        with recording_steps(_STEP) as call, draws(batch is whole), suppress(Exception):
            _take_step(trial, batch, stance)
        return call

    one, two = step(whole), step(part)
    if place := _growing_line(one, two, view_whole, view_part):
        return Blame(_STEP, place)
    return diverging_line(one, two, view_whole, view_part)


def _row_of(trial: Trial, batch: Batch) -> View:
    return row_view(replace(trial.subject.typical, batch=trial.subject.task.signature.row_count(batch)), 0)


def _growing_line(whole: Call, part: Call, view_whole: View, view_part: View) -> str:
    """The first line that makes more of a row the more rows there are beside it, as a table of all pairs does."""
    others = dict(numbered(part.steps, "place", "name"))

    def grow(left: list[Tensor], right: list[Tensor]) -> bool:
        seen = ((view_whole(a), view_part(b)) for a, b in zip(left, right, strict=False))
        return any(a is not None and b is not None and a.numel() > b.numel() for a, b in seen)

    for key, step in numbered(whole.steps, "place", "name"):
        other = others.get(key)
        if other is not None and grow(step.outputs, other.outputs) and not grow(step.inputs, other.inputs):
            return step.place
    return ""
