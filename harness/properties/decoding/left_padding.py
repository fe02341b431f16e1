"""Rows that are padded on the left, as prompts of several lengths are before a text is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from harness.batches import Batch, Sizes
from harness.errors import OutputError
from harness.evidence import Evidence, Status
from harness.properties.calling import ModelRaisedError
from harness.properties.decoding import Text, some_scores, whole_text
from harness.properties.decoding.caches import NoDecoder, PassedCache
from harness.properties.decoding.finding import find_decoder, positions_of
from harness.properties.noise import judge_equal, remembered
from harness.properties.padding import padded, placed
from harness.properties.subject import Subject
from harness.properties.tracing import View, calls_of, first_divergence

_NAME = "decoding"
_SINGLES = 6
"""Most calls of one token each."""

_CAUSE = "positions that count the padding, a mask that is not applied or not continued with a cache, or a state that moves on over padding"


def left_padding_ignored(subject: Subject, sizes: Sizes, seed: int = 0) -> Evidence:
    """Each row gives the same alone as padded on the left, in one call and token by token with a cache.

    Mask and, where forward takes them, positions say where each row begins. Where it takes no positions, a difference is a warning.
    """
    text = whole_text(subject)
    if text is None or text.ids is None or text.mask is None or not subject.adapter.takes_more(subject.model):
        return Evidence.skipped(_NAME, "there are no token ids with a mask that could be padded on the left")
    if not subject.adapter.takes(subject.model, text.mask.name):
        return Evidence.skipped(_NAME, f"forward takes no `{text.mask.name}` that would tell padding on the left")
    decoder = find_decoder(subject)
    if isinstance(decoder, NoDecoder) and not callable(getattr(subject.model, "generate", None)):
        return Evidence.skipped(_NAME, f"{decoder.reason}; padding is judged on the side that is declared")
    rows = _LeftPadded(subject, text, sizes, seed)
    if not rows.most:
        return Evidence.skipped(_NAME, "a text of one token cannot be padded")
    at_once = rows.judged(rows.in_one_call, "")
    if at_once.status is Status.FAIL and not rows.positions:
        told = f"{at_once.message}, and forward takes no positions that would tell where a row begins"
        return replace(at_once, status=Status.WARN, message=told)
    if at_once.status is Status.FAIL or not isinstance(decoder, PassedCache) or rows.prompt >= rows.length:
        return at_once
    # A mask tells of all that was read, as in attention, or of the new tokens, as in recurrent models: either may be right.
    found: list[Evidence] = []
    for of_all in (True, False):
        try:
            found.append(rows.judged(partial(rows.token_by_token, decoder, of_all), f" when it is read on with {decoder.title}"))
        except (ModelRaisedError, OutputError):
            continue
        if found[-1].status is not Status.FAIL:
            return at_once
    return found[0] if found else at_once


class _LeftPadded:
    """Rows of different lengths in a batch, padded on the left.

    Attributes:
        length: Of the batch.
        pads: How much padding each row has.
        most: The most of them.
        positions: The parameter of forward that takes positions; empty for none.
        prompt: How many tokens are read in one call before single ones.
    """

    def __init__(self, subject: Subject, text: Text, sizes: Sizes, seed: int) -> None:
        assert text.mask is not None
        self._subject, self._text, self._mask = subject, text, text.mask.name
        self._base = subject.batch(sizes, seed)
        self.length, count = text.length_of(self._base), text.rows_of(self._base)
        half = self.length // 2
        self.pads = [half - row % (half + 1) for row in range(count)]
        self.most = max(self.pads)
        self.prompt = max(self.most + 1, self.length - _SINGLES)
        real = placed("left", [self.length - pad for pad in self.pads], self.length).to(subject.device)
        self._padded = padded(text.signature, self._base, text.axis, real)
        self.positions = positions_of(subject)
        self._places = (real.long().cumsum(1) - 1).clamp(min=0)
        self._counterexample = f"{sizes.describe(subject.task)}, padding on the left={self.pads}, seed={seed}"
        self._alone = remembered(subject, self._each_alone)

    def judged(self, run: Callable[[nn.Module], Tensor], when: str) -> Evidence:
        """Whether a way to read the padded rows gives what each gives alone."""

        def compare(model: nn.Module) -> tuple[Tensor, Tensor]:
            return self._alone(model), run(model)

        told = f"logits change with padding on the left of a row{when}"
        return judge_equal(
            self._subject,
            _NAME,
            compare,
            told,
            self._counterexample,
            _CAUSE,
            None if when else self._culprit,
            code="reads_left_padding",
        )

    def in_one_call(self, model: nn.Module) -> Tensor:
        """The logits of real tokens of all rows."""
        return self._real(self._with_padding(model))

    def token_by_token(self, decoder: PassedCache, of_all: bool, model: nn.Module) -> Tensor:
        """The same, of a prompt and then single tokens with a cache, and a mask of all that was read or of what is new."""
        session = decoder.begin(self._subject, model, len(self.pads), self.length)
        parts = []
        for start, size in [(0, self.prompt), *((place, 1) for place in range(self.prompt, self.length))]:
            piece = self._text.piece(self._padded, start, size)
            piece[self._mask] = self._padded[self._mask][:, 0 if of_all else start : start + size]
            session.further = self._further(start, size)
            parts.append(some_scores(self._subject, session.read(piece, start)))
        if parts[0].shape[self._text.along] == 1 < self.prompt:  # of a prompt, the last token is answered
            whole = self._with_padding(model)
            parts[0] = torch.cat([whole[:, : self.prompt - 1], parts[0]], self._text.along)
        return self._real(torch.cat(parts, self._text.along))

    def _with_padding(self, model: nn.Module) -> Tensor:
        return some_scores(self._subject, self._subject.call(self._padded, self._further(0, self.length), model)[0])

    def _further(self, start: int, size: int) -> dict[str, Tensor]:
        return {self.positions: self._places[:, start : start + size]} if self.positions else {}

    def _real(self, logits: Tensor) -> Tensor:
        return torch.cat([logits[row, pad:].flatten() for row, pad in enumerate(self.pads)])

    def _each_alone(self, model: nn.Module) -> Tensor:
        subject = self._subject
        return torch.cat([some_scores(subject, subject.logits(self._row(row), model)).flatten() for row in range(len(self.pads))])

    def _row(self, row: int) -> Batch:
        """A row by itself, without padding."""
        text, pad = self._text, self.pads[row]
        alone = text.signature.rows(self._base, [row])
        for each in (*text.inputs, *([text.mask] if text.mask else [])):
            if each.name in alone:
                alone[each.name] = alone[each.name].narrow(text.place_in(each), pad, self.length - pad)
        return alone

    def _culprit(self, model: nn.Module) -> str:
        row = self.pads.index(self.most)
        alone = calls_of(model, partial(self._subject.logits, self._row(row)))
        among = calls_of(model, self._with_padding)
        return first_divergence(
            alone, among, _row_view(1, 0, self.length - self.most, 0), _row_view(len(self.pads), row, self.length, self.most)
        )


def _row_view(rows: int, row: int, length: int, begin: int) -> View:
    """What a tensor says of one row from a place on."""

    def view(tensor: Tensor) -> Tensor | None:
        axis = next((axis for axis in range(1, tensor.ndim) if tensor.shape[axis] == length), None)
        if axis is None or len(tensor) != rows:
            return None
        return tensor.narrow(axis, begin, length - begin)[row]

    return view
