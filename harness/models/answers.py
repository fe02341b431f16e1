"""What a model's output tells of its task, and whether it reads ``[length, batch]``, the default of ``nn.RNN`` and ``nn.Transformer``."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from harness.adapters import Adapter, CallPlan, find_logits
from harness.batches import Batch, Sizes, make_batch, other_tokens, typical_sizes
from harness.errors import UserError
from harness.models.attempts import Guess, Patience
from harness.models.copies import Copies
from harness.runtime import seeded
from harness.tasks import TaskSpec, TaskType
from harness.user_code import is_written_here

_NUMBERS = re.compile(r"Regress|Actor|Critic|QNet|DQN|ValueNet|Encoder|Embed|Denois|Forecast|Generator")
"""What a class is called that returns numbers, which are no scores of classes."""

_CAUSAL_NAMES = re.compile(r"GPT|[Ll]lama|[Cc]ausal|[Dd]ecoder")
"""What a class is called that reads from left to right; that it is a language model does not say so."""

_CAUSAL_MASKS = re.compile(r"\btri[ul]_?\(|\bis_causal\s*=\s*True|subsequent_mask|causal_mask")
"""How code makes a mask of what is later."""

_WHAT_THEN = ". No task has outputs of this kind, and labels are not invented: write an adapter that returns the scores to judge"


@dataclass(frozen=True)
class Answer:
    """What a model returned for inputs of an attempt.

    Attributes:
        model: The model.
        plan: How it was called.
        sizes: Sizes of the inputs.
        shape: Shape of the logits, batch first.
        asked: The task that the user named.
        call: Calls the model with another batch.
    """

    model: nn.Module
    plan: CallPlan
    sizes: Sizes
    shape: tuple[int, ...]
    asked: TaskType | None
    call: Callable[[Batch], Tensor]


def fitted(attempt: Guess, answer: Answer) -> Guess | str:
    """The attempt with the task that the answer's shape speaks of, or why it speaks of none."""
    task = attempt.task
    found = _text(attempt, answer) if task.is_text else _table(attempt, answer) if task.num_features else _image(attempt, answer)
    if isinstance(found, Guess) and answer.asked not in (None, found.task.task_type):
        return f"logits of shape {answer.shape} are those of {found.task.task_type.value}"
    return found


def _text(attempt: Guess, answer: Answer) -> Guess | str:
    task, sizes, shape = attempt.task, answer.sizes, answer.shape
    logits = f"logits {list(shape)}"
    if task.is_seq2seq:
        fits = shape == (sizes.batch, sizes.target_seq, task.vocab_size)
        return attempt.because(task, task_type=logits) if fits else _unfit(shape)
    per_position = shape[:2] == (sizes.batch, sizes.seq) and len(shape) == 3
    may_be_language = answer.asked in (None, TaskType.CAUSAL_LM, TaskType.MASKED_LM)
    if per_position and shape[-1] == task.vocab_size and may_be_language:
        kind, why = _direction(answer, task)
        if answer.asked:
            kind = answer.asked
        return attempt.because(replace(task, task_type=kind), task_type=f"{logits}; {why}")
    per_row = len(shape) == 2 and shape[0] == sizes.batch
    if not (per_position or per_row) or shape[-1] < 2:  # of one class no loss has a gradient
        return _unfit(shape)
    kind = TaskType.TOKEN_CLASSIFICATION if per_position else TaskType.SEQUENCE_CLASSIFICATION
    if kind is TaskType.SEQUENCE_CLASSIFICATION and shape[-1] == sizes.seq and _grows(answer, task):
        return f"logits of shape {shape}, one for each position rather than for each class"
    widths = {
        m.embedding_dim for m in answer.model.modules() if isinstance(m, nn.Embedding) and m.num_embeddings == task.vocab_size
    }
    if answer.asked is None and shape[-1] in widths:
        return _no_labels(f"returns hidden states, {list(shape)}, as wide as its token embeddings", kind, shape)
    return attempt.because(replace(task, task_type=kind, num_classes=shape[-1]), task_type=logits, num_classes=logits)


def _table(attempt: Guess, answer: Answer) -> Guess | str:
    task, rows, shape = attempt.task, answer.sizes.batch, answer.shape
    logits = f"logits {list(shape)}"
    kind = TaskType.TABULAR_CLASSIFICATION
    if shape in ((rows,), (rows, 1)):
        return attempt.because(replace(task, task_type=TaskType.TABULAR_REGRESSION), task_type=logits)
    if len(shape) != 2 or shape[0] != rows:
        return _unfit(shape)
    if answer.asked is None and _NUMBERS.search(type(answer.model).__name__):
        return _no_labels(f"is called {type(answer.model).__name__}, and returns {list(shape)}", kind, shape)
    if answer.asked is None and shape[-1] == task.num_features:
        return _no_labels(f"returns values of its input's shape, {list(shape)}", kind, shape)
    why = logits if answer.asked else f"{logits}, taken for scores of classes"
    return attempt.because(replace(task, task_type=kind, num_classes=shape[-1]), task_type=why, num_classes=logits)


def _image(attempt: Guess, answer: Answer) -> Guess | str:
    task, shape = attempt.task, answer.shape
    assert task.image_size is not None
    if shape == (answer.sizes.batch, *task.image_size):
        return f"it returns values of its input's shape, {list(shape)}{_WHAT_THEN}"
    if len(shape) == 4:
        return f"it returns a map, {list(shape)}, for images {list(task.image_size)}{_WHAT_THEN}"
    if len(shape) != 2 or shape[0] != answer.sizes.batch or shape[-1] < 2:
        return _unfit(shape)
    if answer.asked is None and _NUMBERS.search(name := type(answer.model).__name__):
        return _no_labels(f"is called {name}, and returns {list(shape)}", TaskType.IMAGE_CLASSIFICATION, shape)
    logits = f"logits {list(shape)}"
    return attempt.because(replace(task, num_classes=shape[-1]), task_type=logits, num_classes=logits)


def _no_labels(what: str, kind: TaskType, shape: tuple[int, ...]) -> str:
    return f"it {what}{_WHAT_THEN}. If they are scores of {shape[-1]} classes, say so: --task {kind.value}"


def _unfit(shape: tuple[int, ...]) -> str:
    """Why logits of a shape fit no task."""
    one = (
        "; a single score is not a choice of classes: for a binary classifier, write an adapter that returns [0, score]"
        if shape[-1:] == (1,)
        else ""
    )
    return f"logits of shape {shape}{one}"


def _grows(answer: Answer, task: TaskSpec) -> bool:
    """Whether the logits of longer rows are more."""
    longer = Sizes(answer.sizes.batch, answer.sizes.seq + 1, answer.sizes.target_seq)
    try:
        return answer.call(make_batch(task, longer)).shape[-1] != answer.shape[-1]
    except (Exception, SystemExit):
        return False


def _direction(answer: Answer, task: TaskSpec) -> tuple[TaskType, str]:
    """Whether a model of logits over the vocabulary predicts the next token, or fills in masked ones; and why one may think so.

    A model that looks back further than ahead, that calls itself a GPT, that writes tokens (`generate`), or whose code masks what is later
    is a causal one with a leak, which the suite then shows.
    """
    batch = make_batch(task, answer.sizes)
    others = other_tokens(task, batch["input_ids"])

    def moved(place: int) -> Tensor:
        """Which positions depend on the token at one."""
        changed = {**batch, "input_ids": batch["input_ids"].clone()}
        changed["input_ids"][:, place] = others[:, place]
        left, right = (answer.call(each) for each in (batch, changed))
        return ((left - right).abs() > 1e-6 * float(left.abs().max())).any(dim=-1).any(dim=0)

    ahead = moved(-1)[:-1]
    seeing, before = int(ahead.sum()), ahead.numel()
    if not seeing:
        return TaskType.CAUSAL_LM, "no position depends on a later token"
    looks_back_further = seeing < before and seeing < int(moved(0)[1:].sum())
    if looks_back_further or _writes_in_order(answer.model) or _masks_what_is_later(answer.model):
        return (
            TaskType.CAUSAL_LM,
            f"but {seeing} of the {before} positions before the last one depend on it, which a mask should prevent",
        )
    whole = "every position depends" if seeing == before else f"{seeing} positions before it depend"
    return (
        TaskType.MASKED_LM,
        f'{whole} on the last one; if the model predicts next tokens, this is a leak: write "causal_lm"',
    )


def _writes_in_order(model: nn.Module) -> bool:
    """Whether a class says of itself that it reads and writes from left to right."""
    name = type(model).__name__
    return bool(_CAUSAL_NAMES.search(name)) or (callable(getattr(model, "generate", None)) and "Masked" not in name)


def _masks_what_is_later(model: nn.Module) -> bool:
    """Whether a class of the user's own makes a causal mask; those of packages can do so for other models too."""
    for cls in dict.fromkeys(type(module) for module in model.modules()):
        try:
            if is_written_here(inspect.getfile(cls)) and _CAUSAL_MASKS.search(inspect.getsource(cls)):
                return True
        except (OSError, TypeError):  # no file, as of a class that was made by code
            continue
    return False


def with_length(guess: Guess, answer: Answer, patience: Patience) -> Guess:
    """The guess with a length that works: a table of positions may hold fewer than the model says, or lie in a buffer."""
    task = guess.task
    assert task.max_seq_len is not None
    patience.say(f"calling it at a length of {task.max_seq_len} tokens")

    def works(length: int) -> bool:
        try:
            answer.call(make_batch(replace(task, max_seq_len=length), Sizes(1, length, length)))
        except (Exception, SystemExit):
            return False
        return True

    if patience.is_over or works(task.max_seq_len):
        return guess
    works_at, fails_at = typical_sizes(task).seq, task.max_seq_len
    while fails_at - works_at > 1 and not patience.is_over:
        middle = (works_at + fails_at) // 2
        works_at, fails_at = (middle, fails_at) if works(middle) else (works_at, middle)
    reason = f"the longest that worked; {task.max_seq_len} ({guess.reasons['max_seq_len']}) did not"
    return guess.because(replace(task, max_seq_len=works_at), max_seq_len=reason)


_RESOLUTION = 1e-5
"""Relative change of the logits that may be rounding."""


def reads_length_first(model: nn.Module, plan: CallPlan, task: TaskSpec) -> bool:
    """Whether a model fits its task when token ids are passed as ``[length, batch]``, and does not as ``[batch, length]``.

    The shape decides where it can: the logits have the promised shape for transposed ids only. Where both calls have the promised
    shape, dependence decides: the second axis is the batch if its entries never mix, while those of the first axis do. A model in
    which ``batch_first=True`` was forgotten in every layer computes the same function, so a caller must say what was concluded.

    Args:
        model: The model, in eval mode; copies of it are called.
        plan: How it is called with ``[batch, length]``.
        task: A text task; of any other the answer is no.
    """
    if not task.is_text or plan.whole:
        return False
    sizes = typical_sizes(task)
    batch, expected = make_batch(task, sizes), sizes.logits_shape(task)
    turned = _shape(_called(model, replace(plan, length_first=True), batch), task)
    if turned != expected:
        return False
    logits = _called(model, replace(plan, length_first=False), batch)
    if logits is None or tuple(logits.shape) != expected:
        return True
    return task.is_per_position and not task.is_seq2seq and sizes.seq > 1 and _mixes_rows_only(model, plan, task, batch, logits)


def reading_length_first(adapter: Adapter, model: nn.Module) -> bool:
    """Whether an adapter passes ``[batch, length]`` to a model that reads ``[length, batch]``."""
    try:
        plan = adapter.plan(model)
    except (AttributeError, UserError):  # an adapter that calls the model in another way
        return False
    # An adapter with its own call may arrange the axes as it likes.
    usual = type(adapter).logits is Adapter.logits
    return usual and not plan.length_first and reads_length_first(model, plan, adapter.task)


def _mixes_rows_only(model: nn.Module, plan: CallPlan, task: TaskSpec, batch: Batch, logits: Tensor) -> bool:
    """Whether a change of tokens reaches other entries of the first axis, and none of the second."""
    ids, others = batch["input_ids"], other_tokens(task, batch["input_ids"])
    middle = ids.shape[1] // 2
    along_second, along_first = ids.clone(), ids.clone()
    along_second[:, middle] = others[:, middle]
    along_first[0] = others[0]
    moved = []
    for changed in (along_second, along_first):
        other = _called(model, plan, {**batch, "input_ids": changed})
        if other is None or other.shape != logits.shape:
            return False
        moved.append((other - logits).abs().amax(-1) > _RESOLUTION * float(logits.abs().max()))
    elsewhere = [position for position in range(ids.shape[1]) if position != middle]
    return not bool(moved[0][:, elsewhere].any()) and bool(moved[1][1:].any())


@torch.no_grad()
def _called(model: nn.Module, plan: CallPlan, batch: Batch) -> Tensor | None:
    """The logits of a copy of the model as it returns them; ``None`` where it raises."""
    try:
        with seeded(0):
            return find_logits(plan.call(Copies(model).fresh().eval(), batch)).double()
    except Exception:  # what a model makes of a call that is not meant for it
        return None


def _shape(logits: Tensor | None, task: TaskSpec) -> tuple[int, ...]:
    """The shape of what a call with ``[length, batch]`` returned, with the batch first."""
    if logits is None:
        return ()
    shape = tuple(logits.shape)
    return (shape[1], shape[0], *shape[2:]) if task.is_per_position and logits.ndim >= 2 else shape
