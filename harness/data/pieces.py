"""Texts of a language model, cut to sequences so that nothing is lost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from harness.data.columns import column
from harness.data.record import Record, Source
from harness.data.text_files import PlainText
from harness.data.token_ids import read_text, token_ids
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
        """Records with ``input_ids``; and with ``labels`` where a row had some of its own."""
        return self._joined() if isinstance(self.source, PlainText) else self._cut()

    def _cut(self) -> Iterator[Record]:
        for record in self.source:
            if record.fields.get("labels") is not None and record.fields.get("input_ids") is not None:
                yield record  # the encoder truncates it, as the labels of a later piece might all be ignored
            else:
                yield from self._pieces(record.where, self._ids(record))

    def _pieces(self, where: str, ids: list[int]) -> Iterator[Record]:
        """Records of arrays, which are small where they wait to be shuffled, and travel to workers as plain bytes."""
        shortest = 2 if self.task.task_type is TaskType.CAUSAL_LM else 1
        longest = self.task.max_seq_len or 1
        for start in range(0, len(ids), longest):
            piece = ids[start : start + longest]
            if len(piece) >= shortest:
                yield Record(where, {"input_ids": np.array(piece, dtype=np.int32)})

    def _ids(self, record: Record) -> list[int]:
        name = column(record, ("input_ids", "text"), self.task.task_type.value)
        if name == "input_ids":
            return token_ids(record, name, self.task).tolist()
        value = record.fields[name]
        if isinstance(value, str) and not value.strip():
            return []
        return read_text(record, name, self.tokenizer)

    def _joined(self) -> Iterator[Record]:
        longest, rest = self.task.max_seq_len or 1, list[int]()
        where = ""
        for record in self.source:
            where = where if rest else record.where
            rest += read_text(record, "text", self.tokenizer, record.fields["text"])
            if len(rest) >= longest:
                whole = len(rest) // longest * longest
                yield from self._pieces(where, rest[:whole])
                rest, where = rest[whole:], record.where
        yield from self._pieces(where, rest)
