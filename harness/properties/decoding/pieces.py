"""A text that is read piece by piece with a cache gives what it gives as a whole."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from harness.batches import Batch, Sizes
from harness.evidence import Evidence, Status
from harness.owners import owned_by
from harness.properties.calling import ModelRaisedError
from harness.properties.causality import causality
from harness.properties.decoding import Text, some_scores, whole_text
from harness.properties.decoding.caches import Decoder, HeldCache, NoDecoder, PassedCache, Session, StepMethod
from harness.properties.decoding.finding import find_decoder, positions_of
from harness.properties.noise import first_failure, judge_equal, remembered
from harness.properties.places import raising_line
from harness.properties.subject import Subject
from harness.properties.tracing import View, calls_of, first_divergence, recording
from harness.user_code import is_users_file

Whole = Callable[[nn.Module], Tensor]
"""From a model to the logits of a text in one call."""

NAME = "decoding"
_SINGLES, _FEW_SINGLES = 32, 8
"""Most calls of one token each, and of a large model."""

_CAUSE = (
    "positions that restart at 0 with a cache, a causal mask that does not count what is in the cache, keys that are rotated again, "
    "or a cache that is cut or overwritten at the wrong place"
)


@dataclass(frozen=True)
class Cut:
    """A text cut into pieces.

    Attributes:
        sizes: Of the pieces.
        told: The pieces in words.
    """

    sizes: tuple[int, ...]
    told: str

    @property
    def starts(self) -> list[int]:
        """Where each piece begins."""
        return [sum(self.sizes[:number]) for number in range(len(self.sizes))]


class SeveralRefusedError(Exception):
    """A piece of several tokens after the first is not taken: forward raises, or answers for its last token only."""


def cache_equals_whole(subject: Subject, sizes: Sizes, seed: int = 0) -> Evidence:
    """A text that is read token by token, or in pieces, gives what it gives in one call without a cache.

    Pieces of several tokens after the first one are a warning, as a model may be written for single tokens.
    """
    decoder = find_decoder(subject)
    if isinstance(decoder, NoDecoder):
        return Evidence.skipped(NAME, decoder.reason)
    text = whole_text(subject)
    assert text is not None
    batch = subject.batch(sizes, seed)
    whole = remembered(subject, lambda model: some_scores(subject, subject.logits(batch, model)))
    found: list[Evidence] = []
    length, counterexample = text.length_of(batch), f"{sizes.describe(subject.task)}, seed={seed}"
    if length < 2:
        return Evidence.skipped(NAME, "a text of one token cannot be cut")
    refused: ModelRaisedError | None = None
    for cut in _single_cuts(length, _FEW_SINGLES if subject.is_large else _SINGLES):
        try:
            found.append(_judged(subject, decoder, text, batch, whole, cut, counterexample))
        except ModelRaisedError as error:  # such as a prompt that is longer than a rolling cache
            refused = error
            continue
        if found[-1].status is Status.FAIL:
            return _left_to_causality(subject, _with_positions(subject, decoder, text, batch, whole, cut, found[-1]))
    if refused is not None and not found:
        raise refused
    for cut in () if isinstance(decoder, StepMethod) else _several_cuts(length):
        try:
            evidence = _judged(subject, decoder, text, batch, whole, cut, counterexample)
        except SeveralRefusedError as error:
            if refused is None and isinstance(error.__cause__, ModelRaisedError) and _is_accident(error.__cause__.error):
                return _refuses(decoder, cut, error.__cause__, counterexample)
            break
        except ModelRaisedError:
            break
        if evidence.status is Status.FAIL:
            evidence = replace(evidence, status=Status.WARN, code="wrong_in_chunks")
        found.append(evidence)
        if evidence.status is Status.WARN:
            return evidence
    return first_failure(found)


def _is_accident(error: BaseException) -> bool:
    """Whether code that is not meant for something met it, and does not say so itself by a ``raise`` or an ``assert``."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if is_users_file(frame.filename)]
    return bool(frames) and not re.match(r"raise\b|assert\b", frames[-1].line or "")


def _refuses(decoder: Decoder, cut: Cut, error: ModelRaisedError, counterexample: str) -> Evidence:
    return Evidence.warned(
        NAME,
        f"a text that is read {cut.told} with {decoder.title} raises, though a prompt and single tokens after it are read: {error}",
        counterexample=f"{counterexample}, pieces={_shown(cut.sizes)}",
        module=error.module,
        place=raising_line(error.error),
        cause="a causal mask or positions for the new tokens only, where keys and values of the cache stand before them; "
        "chunks of a long prompt, the next turn of a chat and speculative decoding need several tokens beside a cache",
        code="refuses_several_tokens",
    )


def _with_positions(
    subject: Subject, decoder: Decoder, text: Text, batch: Batch, whole: Whole, cut: Cut, evidence: Evidence
) -> Evidence:
    """The evidence; a warning where all is right as soon as positions are passed, which a loop of the user's may do."""
    positions = positions_of(subject)
    if not isinstance(decoder, PassedCache) or not positions:
        return evidence
    try:
        told = _judged(subject, replace(decoder, positions=positions), text, batch, whole, cut, evidence.counterexample)
    except ModelRaisedError:  # it takes positions of another form
        return evidence
    if told.status is Status.FAIL:
        return evidence
    return replace(evidence, status=Status.WARN, message=f"{evidence.message}; it is right where `{positions}` is passed")


def _left_to_causality(subject: Subject, evidence: Evidence) -> Evidence:
    """The evidence; of a model that looks ahead, whose pieces cannot give what the whole gives, it is left to ``causal``."""
    leak = causality(subject, subject.typical)
    return replace(evidence, details=owned_by("causal")) if leak.status is Status.FAIL else evidence


def another_request(subject: Subject, sizes: Sizes, seed: int = 0) -> Evidence:
    """A text gives the same whether or not another text was read before it, or between two of its tokens."""
    decoder = find_decoder(subject)
    if isinstance(decoder, NoDecoder):
        return Evidence.skipped(NAME, decoder.reason)
    if isinstance(decoder, HeldCache) and not decoder.can_restart:
        return Evidence.skipped(
            NAME, "no method of the model is known to empty its cache, and no argument says where a text begins"
        )
    text = whole_text(subject)
    assert text is not None
    batch, other = subject.batch(sizes, seed), subject.batch(sizes, seed + 1)
    length, counterexample = text.length_of(batch), f"{sizes.describe(subject.task)}, seed={seed}"
    if length < 2:
        return Evidence.skipped(NAME, "a text of one token cannot be cut")
    try:
        return _requests(subject, decoder, text, (batch, other), Cut((length - 1, 1), ""), counterexample)
    except ModelRaisedError:  # such as a prompt that is longer than a rolling cache
        return _requests(subject, decoder, text, (batch, other), Cut((1,) * length, ""), counterexample)


def _requests(
    subject: Subject, decoder: Decoder, text: Text, batches: tuple[Batch, Batch], cut: Cut, counterexample: str
) -> Evidence:
    batch, other = batches
    length, rows = text.length_of(batch), text.rows_of(batch)

    def alone(model: nn.Module) -> Tensor:
        return read(subject, decoder.begin(subject, model, rows, length), text, batch, cut)

    def after(model: nn.Module) -> Tensor:
        session = decoder.begin(subject, model, rows, length)
        read(subject, session, text, other, cut)
        session.restart()
        return read(subject, session, text, batch, cut)

    def between(model: nn.Module) -> Tensor:
        session = decoder.begin(subject, model, rows, length)
        first = read(subject, session, text, text.piece(batch, 0, length - 1), Cut(cut.sizes[:-1], ""))
        read(subject, decoder.begin(subject, model, rows, length), text, other, cut)
        last = session.read(text.piece(batch, length - 1, 1), length - 1)
        return torch.cat([first, some_scores(subject, last)], text.along)

    told = f"the logits of a text that is read with {decoder.title} change when another text was read "
    cause = (
        "a cache that is kept on the module, or as a default argument, and is not emptied or not masked where a new text begins"
    )
    reference = remembered(subject, alone)
    ways = {"before it": after, "between two of its tokens": between}
    return first_failure(
        judge_equal(
            subject, NAME, partial(_both, reference, way), f"{told}{when}", counterexample, cause, code="cache_of_another_request"
        )
        for when, way in ways.items()
    )


def _both(left: Whole, right: Whole, model: nn.Module) -> tuple[Tensor, Tensor]:
    return left(model), right(model)


def read(subject: Subject, session: Session, text: Text, batch: Batch, cut: Cut) -> Tensor:
    """The logits of a text that is read piece by piece.

    Raises:
        SeveralRefusedError: A piece of several tokens after the first is not taken.
    """
    return torch.cat([logits for _, logits in _pieces(subject, session, text, batch, cut)], text.along)


def _pieces(subject: Subject, session: Session, text: Text, batch: Batch, cut: Cut) -> Iterator[tuple[tuple[int, int], Tensor]]:
    """The logits of each piece, and at which places of the text they stand: of some forwards the last one only."""
    for start, size in zip(cut.starts, cut.sizes, strict=True):
        try:
            logits = some_scores(subject, session.read(text.piece(batch, start, size), start))
        except ModelRaisedError as error:
            if start and size > 1:
                raise SeveralRefusedError from error
            raise
        answered = logits.shape[text.along] if logits.ndim > text.along else 0
        if answered == 1 < size:
            if start:
                raise SeveralRefusedError
            yield (start + size - 1, 1), logits
        else:
            yield (start, size), logits


def _single_cuts(length: int, most: int) -> Iterator[Cut]:
    """The whole in one call with a cache; a prompt and single tokens; single tokens only."""
    yield Cut((length,), "in one call")
    prompt = max(length - length // 2, length - most)
    yield Cut((prompt, *[1] * (length - prompt)), f"as a prompt of {prompt} and then token by token")
    if 2 < length <= most:
        yield Cut((1,) * length, "token by token")


def _several_cuts(length: int) -> Iterator[Cut]:
    ways = {(length // 2, length - length // 2), (1, length - 1), (length - 2, 2)}
    for sizes in sorted(way for way in ways if min(way) > 0 and way[1] > 1):
        yield Cut(sizes, f"in pieces of {sizes[0]} and {sizes[1]}")


def _judged(
    subject: Subject, decoder: Decoder, text: Text, batch: Batch, whole: Whole, cut: Cut, counterexample: str
) -> Evidence:
    def pieces(model: nn.Module) -> tuple[list[tuple[int, int]], Tensor]:
        session = decoder.begin(subject, model, text.rows_of(batch), text.length_of(batch))
        places, logits = zip(*_pieces(subject, session, text, batch, cut), strict=True)
        return list(places), torch.cat(logits, text.along)

    by_pieces = remembered(subject, pieces)

    def compare(model: nn.Module) -> tuple[Tensor, Tensor]:
        places, logits = by_pieces(model)
        return torch.cat([text.of_output(whole(model), *place) for place in places], text.along), logits

    def culprit(model: nn.Module) -> str:
        left, right = compare(model)
        return _module_at_fault(subject, decoder, text, batch, cut, model) if left.shape == right.shape else ""

    told = f"logits change when a text is read {cut.told} with {decoder.title}"
    return judge_equal(
        subject, NAME, compare, told, f"{counterexample}, pieces={_shown(cut.sizes)}", _CAUSE, culprit, code="depends_on_split"
    )


def _module_at_fault(subject: Subject, decoder: Decoder, text: Text, batch: Batch, cut: Cut, model: nn.Module) -> str:
    """Path of the first module that gives another output for the last place than in the whole call."""
    length, size = text.length_of(batch), cut.sizes[-1]
    whole = calls_of(model, partial(subject.logits, batch))
    session = decoder.begin(subject, model, text.rows_of(batch), length)
    for start, number in zip(cut.starts[:-1], cut.sizes[:-1], strict=True):
        session.read(text.piece(batch, start, number), start)
    with recording(session.model, lines=True) as last:
        session.read(text.piece(batch, length - size, size), length - size)
    return first_divergence(whole, last, _last_of(length, size), _last_of(size, size))


def _last_of(length: int, size: int) -> View:
    """The last places of a tensor whose axis after the rows has so many."""

    def view(tensor: Tensor) -> Tensor | None:
        axis = next((axis for axis in range(1, tensor.ndim) if tensor.shape[axis] == length), None)
        return None if axis is None else tensor.narrow(axis, length - size, size)

    return view


def _shown(sizes: tuple[int, ...]) -> str:
    singles = next((number for number, size in enumerate(reversed(sizes)) if size != 1), len(sizes))
    if singles < 3:
        return "+".join(map(str, sizes))
    return "+".join([*map(str, sizes[: len(sizes) - singles]), f"{singles}x1"])
