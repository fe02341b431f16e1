"""Text to token ids: by words, characters, bytes, or byte pairs trained on the data.

Which one is a matter of ``vocab_size`` alone, so that a config means the same on every machine: below 256 ids for symbols, the most
frequent characters; below 512, bytes; from there on, byte pairs. The built-in sets are short on words, and are read word by word.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Protocol

from harness.data.id_space import IdSpace

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
    from harness.data.byte_pairs import BytePairTokenizer

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
    return sha256(f"{kind}\0{special}\0{model}".encode()).hexdigest()[:16]
