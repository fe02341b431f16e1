"""Whether a model's own method that answers, such as ``predict``, leaves the mode alone, and gives each row its own answer in either mode."""

from __future__ import annotations

import dis
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from types import CodeType
from typing import Any

import torch
from torch import Tensor, nn

from harness.batches import Batch
from harness.compat import tree_leaves, tree_map
from harness.evidence import Evidence, Status
from harness.properties.gradient_reach import TRAINING_METHODS
from harness.properties.large_tensors import keeping_state
from harness.properties.noise import difference
from harness.properties.places import method_of, raising_line
from harness.properties.subject import Subject
from harness.properties.tracing import path_of
from harness.runtime import seeded
from harness.user_code import is_written_here, raised

_NAME = "train_mode"

_ANSWERS = re.compile(
    r"predict(_proba|_classes|_labels|_batch|_on_batch)?|infer|inference|classify|transcribe|translate|recogni[sz]e|caption|recommend|"
    r"(max|best|greedy)_action"
)
"""Names of methods that are there to answer only: `encode`, `sample` and others may be a part of training."""

_DRAWS = 6
"""Answers in train mode that are compared, where they are labels or text: dropout does not change each of them."""


def own_answers(subject: Subject, seed: int = 0) -> Evidence:
    """A method that answers leaves the mode as it was, and answers in train mode, and for one row alone, as in eval mode for all rows."""
    names = [name for name in dir(type(subject.model)) if _ANSWERS.fullmatch(name) and _is_the_users(subject.model, name)]
    if not names:
        return Evidence.skipped(_NAME, "the model's code has no method that answers, such as `predict`")
    told = Evidence.skipped(_NAME, f"`{names[0]}` takes other inputs than forward, or answers without numbers")
    for name in names:
        found = _judged(subject, name, seed)
        if found is not None and found.status is not Status.OK:
            return found
        told = found or told
    return told


def _judged(subject: Subject, name: str, seed: int) -> Evidence | None:
    """The verdict on one method; ``None`` where it does not answer what forward takes."""
    model = subject.fresh()
    batch = subject.batch(seed=seed)
    counterexample = f"{subject.typical.describe(subject.task)}, seed={seed}"
    try:
        call = _Call.like_forward(subject, model, batch, name)
    except AttributeError as error:
        return _lacks(model, name, error, counterexample)
    if call is None:
        return None
    answers, again = call.of(1), call.of(2)
    if not answers:
        return None
    place = method_of(model, name)
    if changed := _in_another_mode(model, expected=False):
        return _leaves(name, changed, "train", counterexample, place)
    is_random = _apart(answers, again) > subject.floor.repeat_bound or _labels(answers) != _labels(again)
    if not is_random and (fault := _alone(subject, call, answers)):
        return Evidence.failed(
            _NAME,
            f"`{name}` {fault}",
            counterexample=counterexample,
            cause="`squeeze()` without an axis, or a normalisation over the rows of the batch",
            place=place,
            code="answers_by_batch",
        )
    with keeping_state(model):
        model.train()
        frozen = {module for module in model.modules() if not module.training}
        try:
            trained = call.of(1)
            draws = {str(_labels(trained)), *(str(_labels(call.of(draw))) for draw in range(2, _DRAWS) if _labels(trained))}
        except Exception as error:  # such as an assertion that the model is in eval mode
            message = f"`{name}` answers in eval mode only; in train mode it raises {raised(error)}"
            return Evidence.ok(_NAME, message, counterexample=counterexample)
        if changed := _in_another_mode(model, expected=True, ignoring=frozen):
            return _leaves(name, changed, "eval", counterexample, place)
    is_alike = _apart(answers, trained) <= subject.bound(_NAME) and len(draws) == 1
    if is_random or _is_called_in_training(model, name) or is_alike:
        return Evidence.ok(_NAME, f"`{name}` leaves the mode as it was, and answers alike in both", counterexample=counterexample)
    return Evidence.warned(
        _NAME,
        f"`{name}` answers otherwise in train mode than in eval mode",
        counterexample=counterexample,
        cause="it answers in the mode that training left, with dropout or statistics of the batch: call `eval()` in it and restore the mode",
        place=place,
        code="answers_by_mode",
    )


@dataclass(frozen=True)
class _Call:
    """A call of a method with the arguments that forward takes.

    Attributes:
        method: The method.
        args: What it is given by position.
        kwargs: What it is given by name.
    """

    method: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @classmethod
    def like_forward(cls, subject: Subject, model: nn.Module, batch: Batch, name: str) -> _Call | None:
        """The call of a method with what forward is given; ``None`` where it takes something else, or raises.

        Raises:
            AttributeError: It reads what only another method of the model gives it.
        """
        seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        handle = model.register_forward_pre_hook(lambda _module, args, kwargs: seen.append((args, kwargs)), with_kwargs=True)
        try:
            subject.logits(batch, model)
        finally:
            handle.remove()
        method = getattr(model, name)
        given, named = seen[0] if seen else ((), {})
        for args, kwargs in ((given, named), ((*given, *named.values()), {})):
            try:
                inspect.signature(method).bind(*args, **kwargs)
                with torch.no_grad():
                    method(*_copied(args), **_copied(kwargs))
            except Exception as error:  # it takes other inputs, such as a table of pandas or a loader
                if isinstance(error, AttributeError) and error.obj is model and _giver(model, error.name):
                    raise
                continue
            return cls(method, args, kwargs)
        return None

    @torch.no_grad()
    def of(self, draw: int, rows: slice = slice(None), count: int = 0) -> list[Any]:
        """The tensors, numbers and texts of an answer under a seed, for some of the ``count`` rows."""

        def cut(each: Any) -> Any:
            is_by_row = isinstance(each, Tensor) and each.ndim > 0 and len(each) == count
            return each[rows].clone() if is_by_row else each.clone() if isinstance(each, Tensor) else each

        with seeded(draw):
            given, named = tree_map(cut, (self.args, self.kwargs))
            leaves = tree_leaves(self.method(*given, **named))
            return [
                each.detach() if isinstance(each, Tensor) else each for each in leaves if isinstance(each, (Tensor, int, str))
            ]


def _copied(values: Any) -> Any:
    return tree_map(lambda each: each.clone() if isinstance(each, Tensor) else each, values)


def _alone(subject: Subject, call: _Call, answers: list[Any]) -> str:
    """What is wrong with the answer for the first row alone; empty where it is that of all rows."""
    count = subject.typical.batch
    if not subject.task.has_rows or any(not isinstance(each, Tensor) or each.ndim == 0 or len(each) != count for each in answers):
        return ""
    try:
        alone = call.of(1, slice(1), count)
    except Exception as error:
        return f"raises for one row alone: {raised(error)}"
    for each, other in zip(answers, alone, strict=False):
        if other.shape != (1, *each.shape[1:]):
            return f"answers one row alone with shape {list(other.shape)}, and {count} rows with {list(each.shape)}"
        if each.is_floating_point() and difference(each[:1], other) > subject.bound("batch_independence"):
            return "answers one row alone otherwise than among others"
    return ""


def _apart(one: list[Any], other: list[Any]) -> float:
    """The largest difference between numbers of two answers; labels are not compared, for they jump where scores are nearly equal."""
    pairs = [(a, b) for a, b in zip(one, other, strict=False) if isinstance(a, Tensor) and isinstance(b, Tensor)]
    return max((difference(a, b) for a, b in pairs if a.shape == b.shape and a.is_floating_point()), default=0.0)


def _labels(answers: list[Any]) -> list[Any]:
    """What an answer consists of beside numbers: labels and texts, which are the same each time where nothing is random."""
    tensors = [each.tolist() for each in answers if isinstance(each, Tensor) and not each.is_floating_point()]
    return tensors + [each for each in answers if not isinstance(each, Tensor)]


def _giver(model: nn.Module, name: str | None) -> str:
    """The method of a model, other than its constructor, that gives it an attribute; empty where none does."""
    for method in dir(type(model)):
        code = _code(getattr(type(model), method, None))
        if method != "__init__" and code is not None and is_written_here(code.co_filename):
            stores = (each.argval for each in dis.get_instructions(code) if each.opname == "STORE_ATTR")
            if name in stores:
                return method
    return ""


def _lacks(model: nn.Module, name: str, error: AttributeError, counterexample: str) -> Evidence:
    """The warning on a method that a model with loaded weights cannot answer by."""
    return Evidence.warned(
        _NAME,
        f"`{name}` reads `{error.name}`, which only `{_giver(model, error.name)}` gives the model: one with loaded weights cannot answer",
        counterexample=counterexample,
        cause="an attribute that training makes and the constructor does not: make it in __init__, or where it is first read",
        place=raising_line(error) or method_of(model, name),
        code="answers_after_training_only",
    )


def _in_another_mode(model: nn.Module, expected: bool, ignoring: set[nn.Module] | None = None) -> str:
    modules = model.named_modules()
    return next((path_of(path) for path, each in modules if each.training is not expected and each not in (ignoring or ())), "")


def _leaves(name: str, module: str, mode: str, counterexample: str, place: str) -> Evidence:
    """The warning on a method after which modules are in another mode."""
    return Evidence.warned(
        _NAME,
        f"`{name}` leaves the model in {mode} mode",
        counterexample=counterexample,
        module=module,
        cause="a switch of the mode that is not undone: training goes on without dropout, and without statistics of its batches"
        if mode == "eval"
        else "a switch of the mode that is not undone: the next answers are those of train mode",
        place=place,
        code="leaves_another_mode",
    )


def _is_the_users(model: nn.Module, name: str) -> bool:
    code = _code(getattr(type(model), name, None))
    return code is not None and is_written_here(code.co_filename)


def _code(function: Any) -> CodeType | None:
    return getattr(inspect.unwrap(function), "__code__", None) if callable(function) else None


def _is_called_in_training(model: nn.Module, name: str) -> bool:
    """Whether what training calls refers to a method, which then has to answer in train mode as training needs it."""
    return any(
        name in code.co_names
        for each in ("forward", *TRAINING_METHODS)
        if (code := _code(getattr(type(model), each, None))) is not None
    )
