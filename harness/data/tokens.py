"""Text to token ids: by words, characters, bytes, or byte pairs trained on the data; and which ids of a vocabulary mean what.

The kind depends on ``vocab_size`` only, so that a config means the same on every machine: with fewer than 256 ids for symbols, the most
frequent characters; with fewer than 512, bytes; with more, byte pairs. The built-in sets have few words, and are read word by word.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Protocol

from harness.errors import DataError, optional_package
from harness.files import text_hash
from harness.tasks import TaskSpec


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
        size = min(task.vocab_size, task.target_vocab_size or task.vocab_size)
        space = _space(size, task.pad_token_id, task.has_random_labels, task.is_seq2seq)
        if len(space.free) < 2:
            raise DataError(f"`vocab_size` {task.vocab_size} leaves no ids for text beside the special tokens of the task")
        return space


def filler(task: TaskSpec) -> int:
    """What stands at padded positions: the padding token, or 0 where the task has none; masks and labels leave it out."""
    return task.pad_token_id or 0


@lru_cache(maxsize=8)
def _space(vocab_size: int, pad: int | None, hides_tokens: bool, has_target: bool) -> IdSpace:
    ids = [id for id in range(vocab_size) if id != pad]
    mask = ids.pop() if hides_tokens and ids else None
    start, end = (ids.pop(0) if has_target and ids else None for _ in range(2))
    return IdSpace(pad, mask, start, end, tuple(ids))


_BYTES = 256
_BYTE_PAIRS_FROM = 512

SAMPLE_CHARACTERS = 4_000_000
"""A tokenizer is trained on this much of a file, from its beginning; a second's work."""


class Tokenizer(Protocol):
    """Text to ids and back."""

    @property
    def kind(self) -> str:
        """``words``, ``characters``, ``bytes`` or ``byte pairs``."""
        ...

    @property
    def ids(self) -> IdSpace:
        """The ids it may give."""
        ...

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without special tokens."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; special tokens are left out."""
        ...

    @property
    def fingerprint(self) -> str:
        """A hash that differs where any text could get other ids."""
        ...


@dataclass(frozen=True)
class SymbolTokenizer:
    """A table of words or characters; what is not in it gets the first of the free ids.

    Attributes:
        kind: ``words`` (parted by spaces) or ``characters``.
        ids: The ids it may give.
        symbols: The table; the first symbol has the second of the free ids.
    """

    kind: str
    ids: IdSpace
    symbols: tuple[str, ...]

    @staticmethod
    def trained(kind: str, ids: IdSpace, texts: Iterable[str]) -> SymbolTokenizer:
        """A table of the most frequent symbols, as many as there are ids."""
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(text.split() if kind == "words" else text)
        frequent = sorted(counts, key=lambda symbol: (-counts[symbol], symbol))
        return SymbolTokenizer(kind, ids, tuple(frequent[: len(ids.free) - 1]))

    @cached_property
    def _table(self) -> dict[str, int]:
        return dict(zip(self.symbols, self.ids.free[1:], strict=False))

    @cached_property
    def _names(self) -> dict[int, str]:
        return {self.ids.free[0]: "?", **{id: symbol for symbol, id in self._table.items()}}

    def encode(self, text: str) -> list[int]:
        """The ids of a text; unknown symbols share one."""
        unknown = self.ids.free[0]
        return [self._table.get(symbol, unknown) for symbol in (text.split() if self.kind == "words" else text)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, with ``?`` for what was not known."""
        return (" " if self.kind == "words" else "").join(self._names[id] for id in ids if id in self._names)

    @property
    def fingerprint(self) -> str:
        """A hash of the table and the ids."""
        return fingerprint_of(self.kind, self.ids, "\0".join(self.symbols))


@dataclass(frozen=True)
class ByteTokenizer:
    """UTF-8, one id a byte; needs no training and knows every text."""

    ids: IdSpace
    kind: str = "bytes"

    def encode(self, text: str) -> list[int]:
        """An id for every byte."""
        return [self.ids.free[byte] for byte in text.encode("utf-8", errors="replace")]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; bytes that are no UTF-8 become the replacement character."""
        return bytes(self._bytes[id] for id in ids if id in self._bytes).decode("utf-8", errors="replace")

    @cached_property
    def _bytes(self) -> dict[int, int]:
        return {id: byte for byte, id in enumerate(self.ids.free[:_BYTES])}

    @property
    def fingerprint(self) -> str:
        """A hash of the ids."""
        return fingerprint_of(self.kind, self.ids, "")


def train_tokenizer(ids: IdSpace, texts: Iterable[str]) -> Tokenizer:
    """The tokenizer for a vocabulary, trained on texts; the same texts give the same one.

    Args:
        ids: The ids it may give; how many they are decides the kind.
        texts: Texts of the training split; only the first few million characters are read.

    Raises:
        MissingPackageError: A vocabulary this large takes byte pairs, and ``tokenizers`` is not installed.
    """
    if len(ids.free) < _BYTES:
        return SymbolTokenizer.trained("characters", ids, sample(texts))
    if len(ids.free) < _BYTE_PAIRS_FROM:
        return ByteTokenizer(ids)
    return BytePairTokenizer.trained(ids, sample(texts))


def sample(texts: Iterable[str]) -> Iterable[str]:
    """The first few million characters of texts."""
    left = SAMPLE_CHARACTERS
    for text in texts:
        yield text[:left]
        left -= len(text)
        if left <= 0:
            return


def fingerprint_of(kind: str, ids: IdSpace, model: str) -> str:
    """A short hash of all that decides a tokenizer's ids."""
    special = [ids.pad, ids.mask, ids.start, ids.end, len(ids.free)]
    return text_hash(f"{kind}\0{special}\0{model}")[:16]


@dataclass(frozen=True)
class BytePairTokenizer:
    """Byte pairs (Sennrich et al. 2016, arXiv:1508.07909) over bytes, so that no text is unknown.

    Attributes:
        ids: The ids it may give.
        model: The trained tokenizer in the JSON of ``tokenizers``.
    """

    ids: IdSpace
    model: str
    kind: str = "byte pairs"

    @staticmethod
    def trained(ids: IdSpace, texts: Iterable[str]) -> BytePairTokenizer:
        """Trains on texts; as many pairs as the vocabulary has ids for, fewer where the texts are short."""
        tokenizers = optional_package("tokenizers", f"text for a vocabulary of {len(ids.free)} symbols")
        tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = tokenizers.decoders.ByteLevel()
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=len(ids.free),
            min_frequency=2,
            show_progress=False,
            initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        )
        with _one_thread():
            tokenizer.train_from_iterator(texts, trainer=trainer)
        return BytePairTokenizer(ids, tokenizer.to_str())

    @cached_property
    def _tokenizer(self) -> Any:
        return optional_package("tokenizers", "this tokenizer").Tokenizer.from_str(self.model)

    def encode(self, text: str) -> list[int]:
        """The ids of a text."""
        free = self.ids.free
        return [free[token] for token in self._tokenizer.encode(text).ids]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; special tokens are left out."""
        return str(self._tokenizer.decode([self._tokens[id] for id in ids if id in self._tokens]))

    @cached_property
    def _tokens(self) -> dict[int, int]:
        return {id: token for token, id in enumerate(self.ids.free)}

    @property
    def fingerprint(self) -> str:
        """A hash of the trained model and the ids."""
        return fingerprint_of(self.kind, self.ids, self.model)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Trains on one thread: having used several, older ``tokenizers`` (0.20) warn in every DataLoader worker forked afterwards."""
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ[name] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
