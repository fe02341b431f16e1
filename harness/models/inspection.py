"""Guessing what a model is for, by looking at its layers and calling it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from harness.adapters import CallPlan, find_logits, plan_call
from harness.batches import Batch, Sizes, make_batch, other_tokens, typical_sizes
from harness.errors import FactoryError, UserError
from harness.tasks import FACTS, TaskSpec, TaskType
from harness.threads import threads_for
from harness.user_code import raised

_LONGEST = 4096
_SHOWN = 4
_UNLIMITED = 128
"""Sequence length of a model that none is known for."""

_USUAL_SIDES = (32, 28, 224, 64, 96, 128, 256, 8, 16, 48, 84, 100, 112, 160, 192, 227, 240, 299, 384, 512)
_SIDES = tuple(dict.fromkeys((*_USUAL_SIDES, *range(4, 129))))
"""Image sides in pixels, in the order in which they are tried."""

_IMAGES = ("pixel_values", "pixels", "image", "images", "img", "imgs")
_FEATURE_COUNTS = ("num_features", "n_features", "in_features", "input_dim", "input_size", "in_dim", "n_inputs")
_TARGETS = ("decoder_input_ids", "tgt", "trg", "target", "targets", "labels", "y", "dst", "decoder_input", "decoder_inputs")
_CAUSAL_NAMES = re.compile(r"GPT|[Ll]lama|[Cc]ausal|[Dd]ecoder|LanguageModel|(?<!Masked)LM$")
_MASKS = ("mask", "attn", "padding", "attention")


@dataclass(frozen=True)
class Guess:
    """A task that a model was called for and answered as it should.

    Attributes:
        task: The task with its sizes.
        reasons: What each size was read from.
        plan: How ``forward`` is to be called, where that is not what its signature says.
        called: How it was called, for people.
    """

    task: TaskSpec
    reasons: dict[str, str] = field(default_factory=dict)
    plan: CallPlan | None = None
    called: str = ""


def guess_task(build: Callable[[], nn.Module]) -> Guess:
    """The first task whose inputs the model takes and whose logits it returns.

    Args:
        build: Returns a fresh model in eval mode; each attempt has one of its own, as a failed call may leave a model changed.

    Raises:
        FactoryError: No task fits; the message lists what was tried.
    """
    model = build()
    failures: dict[str, list[str]] = {}
    with threads_for(model):
        for attempt in _attempts(model):
            outcome = _try(build(), attempt)
            if isinstance(outcome, Guess):
                return outcome
            failures.setdefault(attempt.task.task_type.value, []).append(outcome)
    raise FactoryError(f"{signature_of(model)} fits no task; {_summary(failures) or 'its layers say nothing about its inputs'}")


def signature_of(model: nn.Module) -> str:
    """``Net.forward(x, mask=None)``."""
    names = [p.name + ("" if p.default is p.empty else f"={p.default!r}") for p in _parameters(model)]
    shown = names if len(names) <= _SHOWN else [*names[: _SHOWN - 1], "…"]
    return f"{type(model).__name__}.forward({', '.join(shown)})"


def _summary(failures: dict[str, list[str]]) -> str:
    """What went wrong by task: the first time, which was the likeliest attempt."""
    tasks: dict[str, list[str]] = {}
    for task, outcomes in failures.items():
        more = f" (and {len(outcomes) - 1} attempts with other sizes)" if len(outcomes) > 1 else ""
        tasks.setdefault(outcomes[0] + more, []).append(task)
    return "; ".join(f"as {' or '.join(names)}: {why}" for why, names in tasks.items())


def _attempts(model: nn.Module) -> Iterator[Guess]:
    names = {p.name for p in _parameters(model)}
    text, image, tabular = (list(kind(model)) for kind in (_text_attempts, _image_attempts, _tabular_attempts))
    if names & set(_IMAGES):
        text, tabular = [], []
    elif "input_ids" in names:
        image, tabular = [], []
    elif "features" in names and not text:
        image = []
    yield from (*text, *image, *tabular)


def _text_attempts(model: nn.Module) -> Iterator[Guess]:
    settings = getattr(model, "config", None)
    embeddings = {name: m for name, m in model.named_modules() if isinstance(m, (nn.Embedding, nn.EmbeddingBag))}
    tables = {name: m for name, m in embeddings.items() if "pos" not in name.lower() and not name.lower().endswith("wpe")}
    vocabularies = {m.num_embeddings: f"rows of {name}" for name, m in reversed(tables.items())}
    declared = getattr(settings, "vocab_size", None)
    if isinstance(declared, int):
        vocabularies = {declared: "the model's config"}
    length, why = _length(settings, {name: m for name, m in embeddings.items() if name not in tables})
    pads = [getattr(settings, "pad_token_id", None), *(getattr(m, "padding_idx", None) for m in tables.values())]
    for vocab in sorted(vocabularies, reverse=True):
        reasons = {"vocab_size": vocabularies[vocab], "max_seq_len": why}
        pad = next((pad for pad in pads if isinstance(pad, int) and 0 <= pad < vocab), None)
        if pad is not None:
            reasons["pad_token_id"] = "the model's config, or the embedding's padding_idx"
        task = TaskSpec(TaskType.CAUSAL_LM, vocab_size=vocab, max_seq_len=length, pad_token_id=pad)
        for kind, plan in _text_calls(model):
            yield Guess(replace(task, task_type=kind), reasons, plan)


def _text_calls(model: nn.Module) -> Iterator[tuple[TaskType, CallPlan | None]]:
    """The tasks that ``forward`` may be for, by the names of its parameters, and how it is called where they do not say so."""
    parameters = _parameters(model)
    required = [p.name for p in parameters if p.default is p.empty]
    if "decoder_input_ids" in (p.name for p in parameters):
        yield TaskType.SEQ2SEQ_LM, None
        return
    if any(_is_target(name) for name in required[1:]):
        yield TaskType.SEQ2SEQ_LM, CallPlan(positional=tuple(_field(name) for name in ["source", *required[1:]]))
        if len(required) == 2:
            yield TaskType.CAUSAL_LM, CallPlan(positional=("input_ids", "input_ids"))
        return
    for kind in (TaskType.CAUSAL_LM, TaskType.SEQUENCE_CLASSIFICATION, TaskType.TOKEN_CLASSIFICATION):
        yield kind, None
        if kind is TaskType.CAUSAL_LM and len(required) == 1 and len(parameters) > 1 and _is_target(parameters[1].name):
            # Without targets some models give the logits of the last position alone.
            yield kind, CallPlan(positional=("input_ids", "input_ids"))


def _is_target(name: str) -> bool:
    return name.lower() in _TARGETS or name.lower().startswith(("tgt", "trg", "target_ids", "decoder_"))


def _field(name: str) -> str:
    """The field of a seq2seq batch that a required parameter takes."""
    if any(word in name.lower() for word in _MASKS):
        return "attention_mask"
    return "decoder_input_ids" if _is_target(name) else "input_ids"


def _length(settings: Any, positions: dict[str, Any]) -> tuple[int, str]:
    """The longest sequence that a model says it takes, and where it says so."""
    for name in ("max_position_embeddings", "n_positions", "max_seq_len", "block_size", "n_ctx", "max_len"):
        value = getattr(settings, name, None)
        if isinstance(value, int) and value > 0:
            return min(value, _LONGEST), "the model's config"
    if positions:
        name, table = min(positions.items(), key=lambda item: item[1].num_embeddings)
        return min(table.num_embeddings, _LONGEST), f"rows of {name}"
    return _UNLIMITED, "a guess: no position table limits the length"


def _image_attempts(model: nn.Module) -> Iterator[Guess]:
    convolution = next(((name, m) for name, m in model.named_modules() if isinstance(m, nn.Conv2d)), None)
    flat = any(isinstance(m, (nn.Flatten, nn.Unfold)) for m in model.modules())
    if convolution is None and not flat and not {p.name for p in _parameters(model)} & set(_IMAGES):
        return
    channels = (3, 1) if convolution is None else (convolution[1].in_channels,)
    declared, why = _declared_side(model)
    where = f"channels of {convolution[0]}, and " if convolution else ""
    for side in dict.fromkeys((*declared, *_SIDES)):
        reason = why if side in declared else f"{where}a side that works; yours may be another"
        for count in channels:
            yield Guess(TaskSpec(TaskType.IMAGE_CLASSIFICATION, image_size=(count, side, side)), {"image_size": reason})


def _declared_side(model: nn.Module) -> tuple[tuple[int, ...], str]:
    """The image side that a model's config, or a default of its class, speaks of, and where."""
    for name in ("image_size", "img_size"):
        for holder, why in ((getattr(model, "config", None), "the model's config"), (model, f"the model's {name}")):
            if isinstance(getattr(holder, name, None), int):
                return (getattr(holder, name),), why
    declared = _defaults(model, ("image_size", "img_size"))
    return tuple(declared), next(iter(declared.values()), "")


def _defaults(model: nn.Module, names: Iterable[str]) -> dict[int, str]:
    """Numbers that the model's class has as defaults of some parameters, and where."""
    parameters = inspect.signature(type(model).__init__).parameters
    given = {name: parameters[name].default for name in names if name in parameters}
    return {value: f"the default of {name}" for name, value in given.items() if isinstance(value, int) and value > 0}


def _tabular_attempts(model: nn.Module) -> Iterator[Guess]:
    widths: dict[int, str] = {}
    for name, module in model.named_modules():
        width = getattr(module, "in_features", None) or getattr(module, "num_features", None)
        if isinstance(width, int):
            widths.setdefault(width, f"inputs of {name or 'the layer'}")
    for width, why in {**widths, **_defaults(model, _FEATURE_COUNTS)}.items():
        yield Guess(TaskSpec(TaskType.TABULAR_CLASSIFICATION, num_features=width), {"num_features": why})


def _try(model: nn.Module, attempt: Guess) -> Guess | str:
    """The attempt with the rest filled in from the model's output, or why it does not fit."""
    probe = replace(attempt.task, num_classes=attempt.task.num_classes or 2)
    sizes = typical_sizes(probe)
    try:
        plan = attempt.plan or plan_call(model, FACTS[probe.task_type].inputs)
        logits = _call(model, plan, make_batch(probe, sizes))
        if not logits.is_floating_point():
            return f"logits of dtype {logits.dtype}"
        called = replace(attempt, called=_called(model, plan))
        return _fitted(model, plan, called, sizes, tuple(logits.shape)) or _unfit(tuple(logits.shape))
    except UserError as error:
        return str(error)
    except (Exception, SystemExit) as error:
        return f"forward raises {raised(error)}"


def _call(model: nn.Module, plan: CallPlan, batch: Batch) -> Tensor:
    with torch.no_grad():
        return find_logits(plan.call(model, batch))


def _called(model: nn.Module, plan: CallPlan) -> str:
    """``x=input_ids, mask=attention_mask``."""
    if plan.whole:
        return "the batch as a dict"
    by_position = zip((p.name for p in _parameters(model)), plan.positional, strict=False)
    return ", ".join(f"{name}={field}" for name, field in [*by_position, *((name, name) for name in plan.named)])


def _fitted(model: nn.Module, plan: CallPlan, attempt: Guess, sizes: Sizes, shape: tuple[int, ...]) -> Guess | None:
    guess = _fitted_task(model, plan, attempt, sizes, shape)
    return guess and (_with_length(model, plan, guess) if guess.task.is_text else guess)


def _fitted_task(model: nn.Module, plan: CallPlan, attempt: Guess, sizes: Sizes, shape: tuple[int, ...]) -> Guess | None:
    task = attempt.task
    logits = f"logits {list(shape)}"
    per_position = (sizes.batch, sizes.target_seq if task.is_seq2seq else sizes.seq)
    if task.is_causal:
        if shape != (*per_position, task.vocab_size):
            return None
        if task.is_seq2seq:
            return _because(attempt, task, task_type=logits)
        kind, why = _direction(model, plan, task)
        return _because(attempt, replace(task, task_type=kind), task_type=f"{logits}; {why}")
    if task.task_type is TaskType.TABULAR_CLASSIFICATION and shape in ((sizes.batch,), (sizes.batch, 1)):
        return _because(attempt, replace(task, task_type=TaskType.TABULAR_REGRESSION), task_type=logits)
    if task.task_type is TaskType.TOKEN_CLASSIFICATION:
        fits = len(shape) == 3 and shape[:-1] == per_position
    else:
        fits = len(shape) == 2 and shape[0] == sizes.batch
    if not fits or shape[-1] < 2:  # of one class no loss has a gradient
        return None
    return _because(attempt, replace(task, num_classes=shape[-1]), task_type=logits, num_classes=logits)


def _unfit(shape: tuple[int, ...]) -> str:
    """Why logits of a shape fit no task."""
    one = (
        "; one score is no choice of classes: for a binary one, an adapter that returns [0, score]" if shape[-1:] == (1,) else ""
    )
    return f"logits of shape {shape}{one}"


def _because(attempt: Guess, task: TaskSpec, **reasons: str) -> Guess:
    return replace(attempt, task=task, reasons={**attempt.reasons, **reasons})


def _direction(model: nn.Module, plan: CallPlan, task: TaskSpec) -> tuple[TaskType, str]:
    """Whether a model of logits over the vocabulary predicts the next token, or fills in masked ones; and why one may think so.

    A model that looks ahead from some positions alone, or calls itself a GPT, is a causal one with a leak, which the suite then shows.
    """
    batch = make_batch(task, typical_sizes(task))
    changed = {**batch, "input_ids": batch["input_ids"].clone()}
    changed["input_ids"][:, -1] = other_tokens(task, batch["input_ids"])[:, -1]
    left, right = (_call(model, plan, b)[:, :-1] for b in (batch, changed))
    moved = ((left - right).abs() > 1e-6 * float(left.abs().max())).any(dim=-1).any(dim=0)
    seeing, before = int(moved.sum()), moved.numel()
    if not seeing:
        return TaskType.CAUSAL_LM, "no position sees a later token"
    if seeing < before or _CAUSAL_NAMES.search(type(model).__name__):
        return (
            TaskType.CAUSAL_LM,
            f"but {seeing} of the {before} positions before the last one see it, which a mask should prevent",
        )
    return (
        TaskType.MASKED_LM,
        'every position sees the last one; if it is to predict next tokens, this is a leak: write "causal_lm"',
    )


def _with_length(model: nn.Module, plan: CallPlan, guess: Guess) -> Guess:
    """The guess with a length that works: a table of positions may hold fewer than the model says, or lie in a buffer."""
    task = guess.task
    assert task.max_seq_len is not None

    def works(length: int) -> bool:
        try:
            _call(model, plan, make_batch(replace(task, max_seq_len=length), Sizes(1, length, length)))
        except (Exception, SystemExit):
            return False
        return True

    if works(task.max_seq_len):
        return guess
    works_at, fails_at = typical_sizes(task).seq, task.max_seq_len
    while fails_at - works_at > 1:
        middle = (works_at + fails_at) // 2
        works_at, fails_at = (middle, fails_at) if works(middle) else (works_at, middle)
    reason = f"the longest that worked; {task.max_seq_len} ({guess.reasons['max_seq_len']}) did not"
    return _because(guess, replace(task, max_seq_len=works_at), max_seq_len=reason)


def _parameters(model: nn.Module) -> list[inspect.Parameter]:
    """The parameters of ``forward``; none where it cannot be read."""
    try:
        return list(inspect.signature(model.forward).parameters.values())
    except (TypeError, ValueError):
        return []
