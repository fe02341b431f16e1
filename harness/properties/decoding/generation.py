"""What ``generate`` writes without sampling: each token is the likeliest one after what stands before it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from harness.batches import Batch, Sizes
from harness.evidence import WHOLE, Evidence, Status
from harness.properties.calling import ModelRaisedError
from harness.properties.computed_dtypes import hidden_by, in_float64
from harness.properties.decoding import Text, whole_text
from harness.properties.decoding.writers import CannotWriteError, Writer, Written, find_writer
from harness.properties.model_variants import shortened
from harness.properties.noise import finer_bound, judge_equal, remembered
from harness.properties.padding import padded, placed
from harness.properties.places import line_that_calls, method_of, names_read, placed_at
from harness.properties.subject import Subject
from harness.tasks.signature import Signature
from harness.wording import counted

_NAME = "decoding"
_LONGEST = 40
"""Longest text that is written, prompt included."""

_MOST_ROWS = 8
"""The largest batch that is written on."""

_BEAMS = 3
"""Texts that a search keeps."""

_CAUSE = (
    "a cache that `generate` does not pass on or keeps from another prompt, positions or a mask that it does not continue, "
    "or logits taken from another place than the last"
)


@dataclass(frozen=True)
class Prompts:
    """Prompts, and how they are given.

    Attributes:
        batch: Inputs, padded where rows differ in length.
        pads: How much padding each row has.
        told: In words, for the message.
        keys: More arguments for `generate`.
        is_uncommon: Whether it is a way that not every model is made for, so that a difference is a warning.
        side: On which side the padding is.
        otherwise: Another way to give the same prompts, either of which is right; ``None`` for none.
    """

    batch: Batch
    pads: tuple[int, ...]
    told: str
    keys: tuple[tuple[str, Any], ...] = ()
    is_uncommon: bool = False
    side: str = "left"
    otherwise: Prompts | None = None

    def first(self, signature: Signature, rows: int) -> Prompts:
        """The first rows of them."""
        batch = signature.rows(self.batch, [*range(rows)])
        return replace(self, batch=batch, pads=self.pads[:rows], told=f"of a batch of {rows}")


def greedy_is_likeliest(subject: Subject) -> Evidence:
    """Each token that is written is the likeliest by one call of forward with what stands before it, or nearly as likely.

    Prompts are continued one by one, in batches of up to 8, padded, with and without a cache.
    """
    text = whole_text(subject)
    if not callable(getattr(subject.model, "generate", None)):
        return Evidence.skipped(_NAME, "the model has no `generate`")
    if text is None or text.ids is None or not subject.adapter.takes_more(subject.model):
        return Evidence.skipped(_NAME, "there are no token ids along a causal axis that could be written on")
    try:
        writer = find_writer(subject, text)
    except CannotWriteError as error:
        return Evidence.skipped(_NAME, str(error))
    found: list[Evidence] = []
    steps = near = 0
    for prompts in _prompts(subject, text, writer):
        try:
            # The plainest way is asked of all blocks; the others of two that are alike, and of all where those fail.
            short = shortened(subject, _NAME) if found else None
            answer = None if short is None else _tried(short, text, writer, prompts)
            if answer is None or answer[0].status is not Status.OK:
                answer = _tried(subject, text, writer, prompts)
        except (CannotWriteError, ModelRaisedError) as error:
            if not found and isinstance(error, CannotWriteError):
                return Evidence.skipped(_NAME, str(error))
            if not found:
                raise
            continue  # a way that it does not have, such as several rows
        evidence, more, ties = answer
        found.append(evidence)
        if evidence.status is Status.FAIL and prompts.is_uncommon:
            evidence = found[-1] = replace(evidence, status=Status.WARN)
        steps, near = steps + more, near + ties
        if evidence.status is Status.FAIL:
            return evidence
    short = shortened(subject, _NAME)
    if (short is None or _searched(short, text, writer) is not None) and (searched := _searched(subject, text, writer)):
        return searched
    if warned := next((each for each in found if each.status is Status.WARN), None):
        return warned
    ways = counted(len(found), "way")
    told = f"{counted(steps, 'token')} written in {ways} are the likeliest; {100 * near / max(steps, 1):.0f}% near ties"
    details = {"blocks": short.shared.blocks} if short is not None else {}
    return Evidence.ok(_NAME, told, (max(each.measured or 0.0 for each in found), found[0].bound, ""), details=details)


def _tried(subject: Subject, text: Text, writer: Writer, prompts: Prompts) -> tuple[Evidence, int, int]:
    """The verdict on one way to give prompts, how many tokens were written, and how many of them were near ties.

    Raises:
        CannotWriteError: What is returned is no text.
        ModelRaisedError: The model's code raised.
    """
    written, steps = writer.write(subject.fresh(), prompts.batch, dict(prompts.keys)), 0
    evidence, ties = _judged(subject, text, writer, prompts, written)
    if evidence.status is Status.FAIL and prompts.otherwise is not None:
        evidence, ties = _other_way(subject, text, writer, prompts.otherwise) or (evidence, ties)
    if evidence.status is Status.OK and len(prompts.pads) == _MOST_ROWS:
        evidence, more, rows = _in_smaller_batches(subject, text, writer, prompts, written, evidence)
        ties, steps = ties + more, rows * written.count
    return evidence, steps + written.count * len(prompts.pads), ties


def _searched(subject: Subject, text: Text, writer: Writer) -> Evidence | None:
    """A failure where a search over several texts at once finds others for a batch than for its rows, or than without a cache.

    Texts of equal length are nearly as likely only by chance: in several rows of a batch they are not.
    """
    if not writer.beams:
        return None
    rows, search = 4, {writer.beams: _BEAMS}
    batch = _cut(subject, text, rows, _total(text) if writer.is_seq2seq else _total(text) - writer.new)
    without_cache = next(({key: False} for _, key, value in writer.switches if value is False), None)

    def found(given: Batch, keys: dict[str, Any]) -> Tensor:
        return writer.write(subject.fresh(), given, {**search, **keys}).ids

    try:
        together = found(batch, {})
        ways = {"for each row by itself": torch.cat([found(text.signature.rows(batch, [row]), {}) for row in range(rows)])}
        if without_cache is not None:
            ways["without a cache"] = found(batch, without_cache)
    except (CannotWriteError, ModelRaisedError, RuntimeError):  # texts of several lengths, or no search for this model
        return None
    for way, others in ways.items():
        differing = int((others != together).any(1).sum()) if others.shape == together.shape else 0  # texts may end early
        if differing > 1:
            return Evidence.failed(
                _NAME,
                f"with {writer.beams}={_BEAMS}, `generate` writes other texts for {differing} of {rows} rows of a batch than {way}",
                (float(differing), 1.0, "rows"),
                counterexample=f"batch={rows}, {writer.beams}={_BEAMS}, new={writer.new}",
                place=_line_of_writing(subject.model),
                cause="sources or masks repeated in another order than the beams (repeat in place of repeat_interleave), or a cache that is "
                "not put in the order of the beams that are kept (_reorder_cache)",
                code="search_differs",
            )
    return None


def _prompts(subject: Subject, text: Text, writer: Writer) -> Iterator[Prompts]:
    """Prompts in the ways that are tried, the plainest first."""
    total = _total(text)
    new = writer.new
    if writer.is_seq2seq:
        yield Prompts(_cut(subject, text, 1, total), (0,), "of one source")
        yield Prompts(_cut(subject, text, 4, total), (0,) * 4, "of a batch of 4")
    else:
        yield Prompts(_cut(subject, text, 1, total - new), (0,), "of one prompt")
        for rows in (2, _MOST_ROWS):
            yield Prompts(_cut(subject, text, rows, total - new), (0,) * rows, f"of a batch of {rows}")
    for name, key, value in writer.switches:
        batch = _cut(subject, text, 2, total if writer.is_seq2seq else total - new)
        yield Prompts(batch, (0, 0), f"of a batch of 2 {name}", ((key, value),), key not in writer.usual)
    mask = text.mask
    if mask is None or writer.is_seq2seq or not writer.takes(mask.name) or total - new < 2:
        return
    batch, length = _cut(subject, text, 4, total - new), total - new
    half = length // 2
    pads = tuple(half - row % (half + 1) for row in range(4))

    def on(side: Literal["left", "right"], otherwise: Prompts | None = None) -> Prompts:
        real = placed(side, [length - pad for pad in pads], length).to(subject.device)
        given = padded(text.signature, batch, text.axis, real)
        return Prompts(given, pads, f"of a batch that is padded on the {side}", side=side, otherwise=otherwise)

    # Most models are made for prompts that are padded on the left, and some for the right.
    yield on("left", None if writer.is_for_left_padding else on("right"))


def _other_way(subject: Subject, text: Text, writer: Writer, prompts: Prompts) -> tuple[Evidence, int] | None:
    """What another way to give prompts gives; ``None`` where it is no better."""
    try:
        written = writer.write(subject.fresh(), prompts.batch, dict(prompts.keys))
    except (CannotWriteError, ModelRaisedError):
        return None
    found = _judged(subject, text, writer, prompts, written)
    return found if found[0].status is Status.OK else None


def _in_smaller_batches(
    subject: Subject, text: Text, writer: Writer, prompts: Prompts, largest: Written, found: Evidence
) -> tuple[Evidence, int, int]:
    """Whether the first rows of a batch, by themselves, get the same tokens, or others as likely; near ties, and rows judged."""
    near = rows = 0
    for count in range(3, _MOST_ROWS):
        fewer = prompts.first(text.signature, count)
        written = writer.write(subject.fresh(), fewer.batch, dict(fewer.keys))
        if written.ids.shape[1] == largest.ids.shape[1] and torch.equal(written.ids, largest.ids[:count]):
            continue
        evidence, ties = _judged(subject, text, writer, fewer, written)
        near, rows = near + ties, rows + count
        if evidence.status is Status.FAIL:
            return evidence, near, rows
    return found, near, rows


def _line_of_writing(model: nn.Module) -> str:
    """The line of ``generate`` that calls the model, or else of the method that a class of the user's has in place of one that it calls."""
    writes = vars(type(model)).get("generate")
    calls = line_that_calls(model, WHOLE, ("self", "forward"), "generate") if inspect.isfunction(writes) else ""
    lines = {line for _, _, line in writes.__code__.co_lines()} if inspect.isfunction(writes) else set()
    calls = calls if calls and int(calls.rpartition(":")[2]) in lines else ""  # it may be that of a class it derives from
    own = {name for name, value in vars(type(model)).items() if inspect.isfunction(value)} - {"forward", "__init__"}
    used = sorted(own & names_read(type(model), "generate"))
    return calls or (method_of(model, used[0]) if len(used) == 1 else "") or method_of(model, "generate")


def _total(text: Text) -> int:
    choices = text.signature.axes[text.axis].choices()
    return min(int(choices[-1]), _LONGEST)


def _cut(subject: Subject, text: Text, rows: int, length: int) -> Batch:
    """A batch of prompts of so many tokens."""
    sizes = {**subject.typical.by_axis(subject.task), "batch": rows, text.axis: length}
    return subject.batch(Sizes.for_task(subject.task, {name: sizes[name] for name in sizes}), seed=rows)


def _judged(subject: Subject, text: Text, writer: Writer, prompts: Prompts, first: Written) -> tuple[Evidence, int]:
    """Whether what was written is the likeliest, and how many tokens were nearly as likely as another one."""
    begin = first.ids.shape[1] - first.count

    def write(model: nn.Module) -> Written:
        if model is subject.model:
            return first
        return writer.write(subject.fresh_like(model), prompts.batch, dict(prompts.keys))

    def expect(model: nn.Module) -> Tensor:
        """The logits of one call at the places before each new token, ``[B, N, V]``, each row without its padding."""
        ids, found = written(model).ids, []
        for row, pad in enumerate(prompts.pads):
            logits = subject.logits(_row_before(text, prompts, ids, row, begin), model)
            found.append(logits.narrow(text.along, begin - 1 - pad, first.count)[0])
        return torch.stack(found)

    written, expected = remembered(subject, write), remembered(subject, expect)

    def compare(model: nn.Module) -> tuple[Tensor, Tensor]:
        logits, told = expected(model), written(model).logits
        assert told is not None
        return logits, told.to(logits.dtype)

    best = expected(subject.model).topk(2, -1).values
    bound = subject.bound(_NAME)
    near = int((best[..., 0] - best[..., 1] <= bound).sum())
    told, place = f"the continuation {prompts.told} by `generate`", _line_of_writing(subject.model)
    counterexample = f"batch={len(prompts.pads)}, prompt={begin}, new={first.count}"
    if any(prompts.pads):
        counterexample += f", padding on the {prompts.side}={list(prompts.pads)}"
    if first.logits is not None:
        wrong = f"{told} follows other logits than one call of forward gives"
        found = judge_equal(subject, _NAME, compare, wrong, counterexample, _CAUSE, code="other_logits_than_forward")
        return placed_at(found, place), near

    def gap(model: nn.Module) -> Tensor:
        """How far the logit of each token that is written is below the largest."""
        logits = expected(model)
        return logits.amax(-1) - logits.gather(-1, written(model).ids[:, begin:, None]).squeeze(-1)

    gaps, unit = gap(subject.model), ""
    measured, facts = float(gaps.max()), dict[str, Any](counterexample=counterexample)
    if measured > bound and subject.double is not None:
        with suppress(ModelRaisedError):  # a `generate` that does not run in float64 cannot be confirmed there
            measured = min(measured, float(gap(subject.double).max()))
    elif (finer := in_float64(subject, _NAME, gap)) and float(finer[1].max()) > (fine := finer_bound(subject, bound)):
        gaps, bound, unit = finer[1], fine, "in float64"
        measured, facts["details"] = float(gaps.max()), hidden_by(subject)
    if measured <= bound:
        return Evidence.ok(_NAME, "each token is the likeliest", (measured, bound, unit), **facts), near
    row, step = (int(index) for index in (gaps > bound).nonzero()[0])
    message = f"{told} is not the likeliest: new token {step + 1} of row {row} is another one than a call of forward prefers"
    seen = (measured, bound, unit)
    return Evidence.failed(_NAME, message, seen, cause=_CAUSE, code="not_the_likeliest", place=place, **facts), near


def _row_before(text: Text, prompts: Prompts, ids: Tensor, row: int, begin: int) -> Batch:
    """One row of what was written, without its padding and without its last token."""
    assert text.ids is not None
    call, pad = text.signature.rows(prompts.batch, [row]), prompts.pads[row]
    own = ids[row : row + 1]
    real = own[:, pad:] if prompts.side == "left" else torch.cat([own[:, : begin - pad], own[:, begin:]], 1)
    call[text.ids.name] = real[:, :-1]
    if text.mask is not None and text.mask.name in call:
        call[text.mask.name] = torch.ones_like(call[text.ids.name])
    return call
