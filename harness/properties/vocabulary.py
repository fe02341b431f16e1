"""Whether every token id can be read, each as its own token."""

from __future__ import annotations

import sys
from collections import defaultdict
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from harness.batches import Batch, smallest_sizes
from harness.evidence import Evidence, Status
from harness.owners import owned_by
from harness.properties.calling import ModelRaisedError
from harness.properties.places import users_line
from harness.properties.subject import Subject
from harness.properties.tracing import finite, recording
from harness.tasks.values import LengthsOf, MaskOf
from harness.wording import and_others

_NAME = "full_vocabulary"
_MOST_LOGITS = 1 << 22
_ROWS = 256
_FEW = 64
_TRIES = 16

_ENDS = 2
"""Tokens that are tried at the end of a row, where the one that stands there may not be readable itself."""

_DRAWN_ROWS = 16
"""So many that two inputs of ids hold the same only by a rare chance."""

_SPECIAL = 4
"""Rows that a table may have beyond the ids of its input, for padding and the like."""


@dataclass
class _Reading:
    """What a model makes of some token ids, each in a row that is otherwise the same.

    Attributes:
        template: The row; its tokens are replaced, the last one of several excepted.
        name: The field that holds the ids.
        ids: The ids that were read.
        logits: A row for each of ``ids``.
        refused: The ids that make forward raise, each tried in a batch of one row.
        error: What it raised first.
    """

    template: Batch
    name: str
    ids: list[int] = field(default_factory=list)
    logits: list[Tensor] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    error: ModelRaisedError | None = None

    def row(self, token: int) -> list[int]:
        """The row that a token stands in."""
        tokens: list[int] = self.template[self.name].flatten().tolist()
        return [token] * _replaced(len(tokens)) + tokens[_replaced(len(tokens)) :]

    def shown(self, token: int) -> str:
        """That row, for people."""
        return f"{self.name}=[{self.row(token)}]"


def full_vocabulary(subject: Subject, seed: int = 0) -> Evidence:
    """Every token id can be read, and no two ids of a text are read as the same token.

    Each id is read in the shortest row that the task allows, or in one of typical length where forward refuses the short ones. Where a
    vocabulary is too large for that, and of ids that are no text, the first and last ids and evenly spaced ones between them are read.
    """
    found = [_vocabulary_of(subject, name, seed) for name in _fields(subject)]
    worst = max(found, key=lambda evidence: (evidence.status.severity, evidence.excess))
    return (worst.status is Status.OK and _read_by_another_input(subject, seed)) or worst


def _read_by_another_input(subject: Subject, seed: int) -> Evidence | None:
    """A warning of a table as large as one input's ids that another input with fewer ids reads, beside a table for these.

    No id is out of range then, and every table has a gradient. Tables that are all made as large as the largest are read by one input each.
    """
    batch = subject.batch(replace(subject.typical, batch=_DRAWN_ROWS), seed)
    counts = {each.name: int(each.values.count) for each in subject.task.looked_up if each.name in batch}  # type: ignore[attr-defined]
    if len(set(counts.values())) < 2:
        return None
    tables = {path: each for path, each in subject.model.named_modules() if isinstance(each, nn.Embedding)}
    readers: dict[str, dict[str, str]] = defaultdict(dict)  # by the path of a table, the inputs that read it, and at which line

    def note(path: str, args: tuple[Any, ...]) -> None:
        for name in counts:
            if args and isinstance(args[0], Tensor) and torch.equal(args[0].flatten(), batch[name].flatten()):
                readers[path].setdefault(name, users_line(sys._getframe(2)))

    handles = [each.register_forward_pre_hook(lambda _m, args, path=path: note(path, args)) for path, each in tables.items()]
    try:
        subject.logits(batch)
    finally:
        for handle in handles:
            handle.remove()
    at_home = {name for path, names in readers.items() for name in names if tables[path].num_embeddings == counts[name]}
    for path, names in readers.items():
        rows = tables[path].num_embeddings
        meant = next((name for name, count in counts.items() if count == rows), None)
        for name, line in names.items():
            if meant is not None and name in at_home and rows > counts[name] + _SPECIAL:
                return Evidence.warned(
                    _NAME,
                    f"`{path}` has a row for each of the {rows} ids of `{meant}` and is read by `{name}`, which has {counts[name]} ids",
                    counterexample=f"{counts[name]} ids of `{name}`, one a row",
                    module=path,
                    place=line,
                    cause=f"a table that is given the wrong ids: `{name}` in place of `{meant}`, which raises nothing as the table is larger",
                    code="table_of_another_input",
                )
    return None


def unreadable_token(subject: Subject, batch: Batch) -> str:
    """A token of a batch that makes forward raise in a row of others it can read: the vocabulary is at fault, not the sizes."""
    for name in _fields(subject):
        token = _unreadable_of(subject, batch, name)
        if token is not None:
            return f"token {token}" + ("" if name == "input_ids" else f" of `{name}`")
    return ""


def _unreadable_of(subject: Subject, batch: Batch, name: str) -> int | None:
    own = set(batch[name].unique().tolist())
    others = set(subject.batch()[name].unique().tolist())  # a small batch may hold no token that can be read
    tokens, row = sorted(own | others), _typical_row(subject)
    for last in (int(row[name].flatten()[-1]), *tokens[:_ENDS]):
        ends = {**row, name: row[name].clone()}
        ends[name].view(-1)[-1] = last
        reading = _read(subject, ends, name, tokens)
        refused = [token for token in reading.refused if token in own]
        if reading.ids:
            return refused[0] if refused else None
    return None


def _fields(subject: Subject) -> list[str]:
    """The fields of token ids that forward takes."""
    known = [each.name for each in subject.task.looked_up]
    return [name for name in known if subject.adapter.takes(subject.model, name)] or known[:1]


def _is_text(subject: Subject, name: str) -> bool:
    """Whether a field holds ids of which each stands for something else: a text, whose rows may be shorter or are read in order."""
    axes = (subject.task.signature.axes[axis] for axis in subject.task.signature.axes_of(name) if isinstance(axis, str))
    return any(axis.padding or axis.order == "causal" for axis in axes)


def _vocabulary_of(subject: Subject, name: str, seed: int) -> Evidence:
    task = subject.task
    vocab = task.vocabulary_of(name) or 1
    logits = task.output_size or abs(prod(smallest_sizes(task).logits_shape(task))) or 1
    is_text = _is_text(subject, name)
    count = min(vocab, max(_FEW, _MOST_LOGITS // logits), 4096 if is_text else _FEW)
    ids = torch.linspace(0, vocab - 1, count).round().long().unique().tolist()
    if not _tells_padding(subject, name):
        ids = [token for token in ids if token != task.filler_of(name)]  # a row of nothing
    reading = _read(subject, subject.batch(smallest_sizes(task), seed), name, ids)
    alone = reading
    if reading.error is not None:
        reading = _read(subject, _typical_row(subject, seed), name, ids)
        if not reading.ids and (row := _readable_row(subject, name, ids, seed)):
            reading = _read(subject, row, name, ids)
        if not reading.ids and reading.error is not None:
            raise reading.error  # whatever is read
    if reading.refused:
        return Evidence.failed(
            _NAME,
            f"{_listed(reading.refused)} of `{name}` cannot be read: {reading.error}",
            (len(reading.refused), 0, f"of {len(ids)} ids"),
            counterexample=reading.shown(reading.refused[0]),
            module=reading.error.module if reading.error else "",
            cause=f"an embedding with fewer than the declared {vocab} rows{_table_of(subject, reading)}",
            code="unreadable_ids",
        )
    if not is_text:
        return Evidence.ok(_NAME, "every id can be read", counterexample=f"{len(ids)} of {vocab} ids of `{name}`")
    found = _told_apart(subject, reading, vocab)
    if found.status is Status.OK and alone.refused and alone.ids:
        return _refuses_rows(subject, alone)
    return found


def _tells_padding(subject: Subject, name: str) -> bool:
    """Whether a mask or lengths say what is real, so that the id that fills may be read as any other."""
    axes = subject.task.signature.axes_of(name)
    return any(each.values.axis in axes for each in subject.task.signature.inputs if isinstance(each.values, (LengthsOf, MaskOf)))


def _table_of(subject: Subject, reading: _Reading) -> str:
    """The table that refused an id, with its rows."""
    path = reading.error.module if reading.error else ""
    found = dict(subject.model.named_modules()).get(path)
    return f": `{path}` has {found.num_embeddings}" if isinstance(found, nn.Embedding) else ""


def _refuses_rows(subject: Subject, alone: _Reading) -> Evidence:
    """Ids that can be read beside others, and not in a row that holds nothing else: mostly padding."""
    token = alone.refused[0]
    padding = " (padding)" if token == subject.task.pad_token_id else ""
    return Evidence.warned(
        _NAME,
        f"forward raises on a row that holds only token {token}{padding}{and_others(len(alone.refused) - 1, 'token')}, "
        f"but not when another token is in it: {alone.error}",
        counterexample=alone.shown(token),
        module=alone.error.module if alone.error else "",
        cause="a length counted from the tokens, which is 0 for a row of padding: clamp it to 1, or leave out empty texts",
        code="unreadable_row",
    )


def _told_apart(subject: Subject, reading: _Reading, vocab: int) -> Evidence:
    """Whether no two ids give the same logits."""
    ids, logits = reading.ids, torch.cat(reading.logits)
    if not finite(logits):
        return _not_finite(subject, reading, logits)
    _, group = torch.unique(logits, dim=0, return_inverse=True)
    first = torch.full((int(group.max()) + 1,), len(ids)).scatter_reduce(0, group, torch.arange(len(ids)), "amin")
    twins = (first[group] != torch.arange(len(ids))).nonzero().flatten()
    counterexample = f"{len(ids)} of {vocab} ids of `{reading.name}`, one a row"
    if not len(twins):
        return Evidence.ok(
            _NAME, "every token id can be read, and no two are read as the same token", counterexample=counterexample
        )
    second = int(twins[0])
    pair = (ids[int(first[group[second]])], ids[second])
    everything = len(twins) == len(ids) - 1
    if everything and subject.task.declared is not None:  # which others may, and `input_dependence` judges
        told = f"output `{subject.task.signature.main.name}` does not depend on `{reading.name}`"
        return Evidence.skipped(_NAME, told, counterexample=counterexample)
    return Evidence.judged(
        _NAME,
        # Trained models keep rows that no tokenizer uses, often equal ones.
        Status.FAIL if subject.fresh_weights and not everything else Status.WARN,
        f"all token ids of `{reading.name}` give the same logits"
        if everything
        else f"tokens {pair[0]} and {pair[1]} give the same logits{and_others(len(twins) - 1, 'pair')}",
        (len(twins), 0, "ids read as another"),
        counterexample=" and ".join(map(reading.shown, pair)),
        cause="ids clamped, wrapped with % or hashed before the embedding, or a special token's row copied",
        details=owned_by("input_dependence[tokens]") if everything else {},
        investigate=lambda: _where_ids_meet(subject, reading, pair),
        code="ids_ignored" if everything else "ids_read_alike",
    )


def _not_finite(subject: Subject, reading: _Reading, logits: Tensor) -> Evidence:
    bad = [reading.ids[index] for index in (~torch.isfinite(logits).all(1)).nonzero().flatten().tolist()]
    alone = next((token for token in bad[:_ROWS] if not finite(_logits(subject, reading.template, reading.name, [token]))), None)
    return Evidence.failed(
        _NAME,
        f"token {bad[0] if alone is None else alone} gives logits that are not finite{' in a batch with others' if alone is None else ''}",
        counterexample=reading.shown(bad[0] if alone is None else alone),
        code="not_finite",
    )


def _read(subject: Subject, template: Batch, name: str, ids: list[int]) -> _Reading:
    """Reads ids in batches, and one by one where a batch is refused."""
    reading = _Reading(template, name)

    def take(tokens: list[int]) -> bool:
        try:
            reading.logits.append(_logits(subject, template, name, tokens))
        except ModelRaisedError as error:
            reading.error = reading.error or error
            return False
        reading.ids += tokens
        return True

    for start in range(0, len(ids), _ROWS):
        chunk = ids[start : start + _ROWS]
        if not take(chunk):
            reading.refused += [token for token in chunk if not take([token])]
    return reading


def _logits(subject: Subject, template: Batch, name: str, tokens: list[int]) -> Tensor:
    """A row of logits for each token in the template; of an output for each position those at the first."""
    read = {field: value.expand(len(tokens), *value.shape[1:]).clone() for field, value in template.items() if value.ndim}
    # All places but the last: a pooling by the largest value may hide what a single place holds.
    places = read[name].view(len(tokens), -1)
    places[:, : _replaced(places.shape[1])] = torch.tensor(tokens, device=places.device)[:, None]
    logits = subject.logits(read)
    along = subject.task.is_per_position and name == subject.task.causal_field and logits.ndim == 3
    return (logits[:, 0] if along else logits).reshape(len(logits), -1).cpu()


def _replaced(length: int) -> int:
    return max(1, length - 1)


def _typical_row(subject: Subject, seed: int = 0) -> Batch:
    """A row of typical length that forward takes; the last one that was tried where it takes none."""
    sizes = replace(subject.typical, batch=1)
    for draw in range(_TRIES):
        row = subject.batch(sizes, seed + draw)
        try:
            subject.logits(row)
        except ModelRaisedError:
            continue
        break
    return row


def _readable_row(subject: Subject, name: str, ids: list[int], seed: int) -> Batch | None:
    """A row of typical length that holds one of the first ids only, where forward takes such a row: most others may be beyond a table."""
    row = subject.batch(replace(subject.typical, batch=1), seed)
    for token in ids[:_ENDS]:
        filled = {**row, name: torch.full_like(row[name], token)}
        if not _read(subject, filled, name, [token]).refused:
            return filled
    return None


def _where_ids_meet(subject: Subject, reading: _Reading, pair: tuple[int, int]) -> str:
    """Path of the first module that reads the two ids and returns the same for both."""
    traces = []
    for token in pair:
        with recording(subject.model) as calls:
            _logits(subject, reading.template, reading.name, [token])
        traces.append(calls)
    for left, right in zip(*traces, strict=False):
        if not all(map(torch.equal, left.inputs, right.inputs)) and all(map(torch.equal, left.outputs, right.outputs)):
            return left.module
    return ""


def _listed(ids: list[int]) -> str:
    """``token id 39``, ``token ids 36 to 39``, ``token ids 3, 17 and 2 others``."""
    if len(ids) == 1:
        return f"token id {ids[0]}"
    if ids == list(range(ids[0], ids[-1] + 1)):
        return f"token ids {ids[0]} to {ids[-1]}"
    rest = f" and {len(ids) - 2} others" if len(ids) > 2 else ""
    return f"token ids {ids[0]}{', ' if rest else ' and '}{ids[1]}{rest}"
