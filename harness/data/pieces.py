"""Texts of a language model, cut to sequences so that nothing is lost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from harness.data.columns import column, text
from harness.data.record import Record, Source
from harness.data.text_files import PlainText
from harness.data.token_ids import token_ids
from harness.data.tokens import Tokenizer
from harness.tasks import TaskSpec, TaskType


@dataclass(frozen=True)
class Pieces:
    """The rows of a source as sequences of at most ``max_seq_len`` tokens.

    A longer row becomes several. Lines of plain text run on into each other, as the file's line ends are mostly the editor's. Rows that
    are too short to learn from (one token for a causal LM, none for a masked one) are left out, and so are blank ones.

    Attributes:
        source: Rows with a text, or with ``input_ids``.
        task: A language model's.
        tokenizer: Reads the texts.
    """

    source: Source
    task: TaskSpec
    tokenizer: Tokenizer | None

    @property
    def name(self) -> str:
        """The file or dataset."""
        return self.source.name

    def __iter__(self) -> Iterator[Record]:
        """Records with ``input_ids`` and nothing else."""
        shortest = 2 if self.task.task_type is TaskType.CAUSAL_LM else 1
        for record in self._joined() if isinstance(self.source, PlainText) else self._cut():
            if len(record.fields["input_ids"]) >= shortest:
                yield record

    def _cut(self) -> Iterator[Record]:
        longest = self.task.max_seq_len or 1
        for record in self.source:
            if "labels" in record.fields and "input_ids" in record.fields:
                yield record  # labels of its own, so it is left whole; the encoder truncates it
                continue
            ids = self._ids(record)
            for start in range(0, len(ids), longest):
                yield Record(record.where, {"input_ids": ids[start : start + longest]})

    def _ids(self, record: Record) -> torch.Tensor:
        name = column(record, ("input_ids", "text"), self.task.task_type.value)
        if name == "input_ids":
            return token_ids(record, name, self.task)
        value = record.fields[name]
        if isinstance(value, str) and not value.strip():
            return torch.empty(0, dtype=torch.long)
        assert self.tokenizer is not None
        return torch.tensor(self.tokenizer.encode(text(record, name)), dtype=torch.long)

    def _joined(self) -> Iterator[Record]:
        longest, rest = self.task.max_seq_len or 1, list[int]()
        where = ""
        assert self.tokenizer is not None
        for record in self.source:
            where = where if rest else record.where
            rest += self.tokenizer.encode(record.fields["text"])
            while len(rest) >= longest:
                yield Record(where, {"input_ids": torch.tensor(rest[:longest])})
                rest, where = rest[longest:], record.where
        yield Record(where, {"input_ids": torch.tensor(rest, dtype=torch.long)})
