"""Which ids of a task's vocabulary mean what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from harness.errors import DataError
from harness.tasks import TaskSpec, TaskType


@dataclass(frozen=True)
class IdSpace:
    """The special ids of a task, and the ids that are left for the symbols of a tokenizer.

    Attributes:
        pad: Fills padded positions; the task's ``pad_token_id``.
        mask: Hides a token, for masked LMs: the highest id that is not the padding, whatever made the ids.
        start: Begins a target, for seq2seq.
        end: Ends a target, for seq2seq.
        free: The ids of symbols, ascending.
    """

    pad: int | None
    mask: int | None
    start: int | None
    end: int | None
    free: Sequence[int]

    @staticmethod
    def of(task: TaskSpec) -> IdSpace:
        """The ids of a task.

        Raises:
            DataError: The vocabulary has no id left for a symbol.
        """
        assert task.vocab_size is not None
        # One tokenizer makes the ids of source and target: they must lie in both vocabularies.
        space = _space(min(task.vocab_size, task.target_vocab_size or task.vocab_size), task.pad_token_id, task.task_type)
        if len(space.free) < 2:
            raise DataError(f"`vocab_size` {task.vocab_size} leaves no ids for text beside the special tokens of the task")
        return space


def filler(task: TaskSpec) -> int:
    """What stands at padded positions: the padding token, or 0 where the task has none; masks and labels leave it out."""
    return task.pad_token_id or 0


@lru_cache(maxsize=8)
def _space(vocab_size: int, pad: int | None, task_type: TaskType) -> IdSpace:
    ids = [id for id in range(vocab_size) if id != pad]
    mask = ids.pop() if task_type is TaskType.MASKED_LM and ids else None
    start, end = (ids.pop(0) if task_type is TaskType.SEQ2SEQ_LM and ids else None for _ in range(2))
    return IdSpace(pad, mask, start, end, tuple(ids))
