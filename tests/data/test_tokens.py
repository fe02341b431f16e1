"""Text becomes ids within the vocabulary, and text again; the vocabulary's size alone says how."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_data import task_of

from harness.data.tokens import BytePairTokenizer, IdSpace, Tokenizer, train_tokenizer
from harness.errors import DataError

TEXTS = ["the cat sees the bird", "the bird sings – ça va", "cats and birds, birds and cats"] * 5


def trained(vocab: int, pad: int | None = 0, kind: str = "causal_lm") -> Tokenizer:
    return train_tokenizer(IdSpace.of(task_of(kind, vocab_size=vocab, pad_token_id=pad)), TEXTS)


@pytest.mark.parametrize(
    ("vocab", "kind"),
    [(20, "characters"), (256, "characters"), (257, "bytes"), (512, "bytes"), (513, "byte pairs"), (50_000, "byte pairs")],
)
def test_the_size_of_the_vocabulary_says_which(vocab: int, kind: str) -> None:
    assert trained(vocab).kind == kind


def test_a_vocabulary_of_256_without_padding_holds_every_byte() -> None:
    assert trained(256, pad=None).kind == "bytes"
    assert trained(256, pad=None).encode("é") == [0xC3, 0xA9]


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=40), st.sampled_from([257, 300, 600]), st.data())
def test_bytes_and_byte_pairs_lose_nothing_and_never_give_a_special_token(text: str, vocab: int, data: st.DataObject) -> None:
    pad = data.draw(st.none() | st.integers(0, vocab - 1))
    kind = data.draw(st.sampled_from(["causal_lm", *(["masked_lm", "seq2seq_lm"] if vocab > 259 else [])]))
    tokenizer = trained(vocab, pad, kind)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(0 <= id < vocab for id in ids)
    assert not {tokenizer.ids.pad, tokenizer.ids.mask, tokenizer.ids.start, tokenizer.ids.end} & set(ids)


@given(st.text(max_size=40), st.integers(4, 200))
def test_characters_keep_what_they_know(text: str, vocab: int) -> None:
    tokenizer = trained(vocab)
    known = set(getattr(tokenizer, "symbols", ()))
    ids = tokenizer.encode(text)
    assert len(ids) == len(text)
    assert tokenizer.decode(ids) == "".join(letter if letter in known else "?" for letter in text)


def test_the_most_frequent_characters_are_kept() -> None:
    assert set(getattr(trained(6), "symbols", ())) == set(
        sorted(set("".join(TEXTS)), key=lambda c: (-"".join(TEXTS).count(c), c))[:4]
    )


def test_byte_pairs_shorten_text_like_the_training_text() -> None:
    assert len(trained(400).encode(TEXTS[0])) == len(TEXTS[0])
    assert len(trained(600).encode(TEXTS[0])) < len(TEXTS[0]) / 2


def test_another_process_trains_the_same_byte_pairs() -> None:
    code = (
        "from harness.data.tokens import IdSpace; from harness.data.tokens import train_tokenizer; from harness.tasks import *;"
        "ids = IdSpace.of(TaskSpec(TaskType('causal_lm'), vocab_size=600, pad_token_id=0));"
        f"print(train_tokenizer(ids, {TEXTS!r}).fingerprint)"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True, text=True)
    assert run.stdout.strip() == trained(600).fingerprint


def test_tokenizers_travel_to_workers() -> None:
    for vocab in (50, 300, 600):
        tokenizer = trained(vocab)
        tokenizer.encode("the cat")
        copy = pickle.loads(pickle.dumps(tokenizer))
        assert copy.encode("the cat") == tokenizer.encode("the cat")
        assert copy.fingerprint == tokenizer.fingerprint


def test_another_vocabulary_has_another_fingerprint() -> None:
    assert len({trained(vocab, pad).fingerprint for vocab in (50, 51, 300, 600) for pad in (0, 1)}) == 8


def test_training_leaves_the_environment_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    BytePairTokenizer.trained(IdSpace.of(task_of("causal_lm", vocab_size=600)), TEXTS)
    assert os.environ["TOKENIZERS_PARALLELISM"] == "true"


def test_special_tokens_are_the_task_s_and_never_the_padding() -> None:
    masked = IdSpace.of(task_of("masked_lm", vocab_size=10, pad_token_id=9))
    assert (masked.pad, masked.mask, masked.start) == (9, 8, None)
    pair = IdSpace.of(task_of("seq2seq_lm", vocab_size=10, pad_token_id=0))
    assert (pair.start, pair.end, tuple(pair.free)) == (1, 2, tuple(range(3, 10)))
    with pytest.raises(DataError, match="`vocab_size` 4 leaves no ids for text"):
        IdSpace.of(task_of("seq2seq_lm", vocab_size=4))
