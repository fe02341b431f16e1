"""A small byte-level BPE tokenizer, trained on the data by Hugging Face ``tokenizers``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from harness.data.id_space import IdSpace
from harness.data.packages import optional_package
from harness.data.tokens import fingerprint_of


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
