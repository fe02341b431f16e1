"""Whether the output depends on everything it should: every token, context on both sides, order, channels, regions, features.

Influence is measured in float64 where the model runs there, so that a small one is not lost in rounding. An input counts as ignored
only when no example shows any influence, of a model with fresh weights neither before nor after they are moved a little.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from harness.batches import Batch, joined, other_tokens, shares_rows, swap_tokens, with_rows
from harness.evidence import Blame, Evidence, Status
from harness.properties.large_tensors import largest_absolute
from harness.properties.model_variants import calibrated, calibrated_double, moved
from harness.properties.noise import FACTOR, difference
from harness.properties.prerequisites import left_to_batch_independence
from harness.properties.subject import Subject
from harness.properties.tracing import Step, calls_of, first_divergence, numbered, whole
from harness.tasks.axes import rows_first
from harness.tasks.kinds import TokenScores

Change = tuple[str, Batch]
"""What was changed, for people, and the batch with the change."""

_NAME = "input_dependence"
_DRAWS = 3
_MOST_IDS = 64
"""How many token ids are tried at one position: all of a small vocabulary; of a large one the special ids, and those at both ends."""


def depends_on_tokens(subject: Subject, seed: int = 0) -> Evidence:
    """Each token changes the logits at its own position; for a pooled output, every position changes the logits."""
    task = subject.task
    field = task.causal_field

    def changes(base: Batch, draw: int) -> Iterable[Change]:
        others = other_tokens(task, base[field], draw, field)
        for position in range(base[field].shape[1]):
            yield f"token {position}", {**base, field: swap_tokens(base[field], others, [position])}

    def own(logits: Tensor, label: str) -> Tensor:
        return logits[:, int(label.split()[1])] if task.is_per_position else logits

    def rare(base: Batch, label: str) -> tuple[Batch, Batch]:
        position, ids = int(label.split()[1]), _telling_ids(subject, field)
        same = {name: tensor[:1].expand(len(ids), *tensor.shape[1:]).clone() for name, tensor in base.items()}
        # All tokens are the same but one, which is thereby the largest, the smallest, or the only special one.
        same[field].fill_((subject.task.vocabulary_of(field) or 1) // 2)
        changed = same[field].clone()
        changed[:, position] = ids
        return same, {**same, field: changed}

    cause = "a pooling that reads only some positions, a mask that hides real tokens, or an unused embedding"
    found = _judge(_Study(subject, changes, own, seed), "the logits do not depend on {}", cause, rare)
    unread = found.details.get("ignored", [])
    if not task.is_per_position or len(unread) < subject.batch()[field].shape[1] or found.status is not Status.FAIL:
        return found
    elsewhere = _judge(_Study(subject, changes, lambda logits, _: logits, seed), "{}", cause).details.get("ignored", [])
    return found if len(elsewhere) == len(unread) else _shifted(found, task.has_inputs_as_labels)


def _shifted(found: Evidence, has_shifted_labels: bool) -> Evidence:
    """A finding on a model of which each position reads other tokens than its own."""
    twice = (
        ", and the loss of the task shifts once more: the model learns to tell the token after next" if has_shifted_labels else ""
    )
    return replace(
        found,
        message=f"a position's logits do not depend on its own token, only on others: forward shifts its input{twice}",
        cause="tokens that are shifted to the right in forward, as for a model whose labels are its inputs as they are: shift once",
        code="shifted_input",
    )


def depends_on_source(subject: Subject, seed: int = 0) -> Evidence:
    """The logits of a seq2seq model depend on every source token."""

    def changes(base: Batch, draw: int) -> Iterable[Change]:
        others = other_tokens(subject.task, base["input_ids"], draw)
        for position in range(base["input_ids"].shape[1]):
            yield f"source token {position}", {**base, "input_ids": swap_tokens(base["input_ids"], others, [position])}

    cause = "cross-attention that is missing, masked out, or fed the decoder's own states"
    return _judge(_Study(subject, changes, lambda logits, _: logits, seed), "the logits do not depend on {}", cause)


def depends_on_context(subject: Subject, seed: int = 0) -> Evidence:
    """A position's logits depend on some token before it and, where the model is bidirectional, on some token after it."""
    field, along = _in_context(subject)
    signature = subject.task.signature
    bidirectional = not any(axis.name in signature.main.axes for axis in signature.with_order("causal"))
    if subject.batch()[field].shape[1] < 3:
        return Evidence.skipped(_NAME, "sequences of fewer than 3 tokens have no context")

    def changes(base: Batch, draw: int) -> Iterable[Change]:
        length = base[field].shape[1]
        sides = {"any token before it": range(length // 2)}
        if bidirectional:
            sides["any token after it"] = range(length // 2 + 1, length)
        others = other_tokens(subject.task, base[field], draw, field)
        for side, positions in sides.items():
            yield side, {**base, field: swap_tokens(base[field], others, positions)}

    def middle(logits: Tensor, _label: str) -> Tensor:
        return logits.select(along, logits.shape[along] // 2)

    evidence = _judge(
        _Study(subject, changes, middle, seed),
        "the logits of a position do not depend on {}",
        "an attention mask that hides too much (inverted, or only the diagonal), or a causal mask left in a bidirectional model",
    )
    one_sided = evidence.details.get("ignored") == ["any token after it"]
    # Some tag from the left context only; and a declared task does not say that its classes of a token follow from others.
    designed = bidirectional and not isinstance(signature.main.kind, TokenScores) and (one_sided or subject.task.declared)
    return _softened(evidence) if designed else evidence


def depends_on_order(subject: Subject, seed: int = 0) -> Evidence:
    """Swapping two other tokens changes a position's logits; a warning otherwise, as some models are bags of words by design."""
    field, along = _in_context(subject)
    if subject.batch()[field].shape[1] < 4:
        return Evidence.skipped(_NAME, "sequences of fewer than 4 tokens are too short to reorder")

    def changes(base: Batch, draw: int) -> Iterable[Change]:
        # The two tokens before the last, which a window of attention still reaches, and different ones, or the swap would change nothing.
        ids = base[field].clone()
        ids[:, -2] = other_tokens(subject.task, ids[:, -3], draw, field)
        base[field] = ids
        yield (
            "the order of the other tokens",
            {**base, field: torch.cat((ids[:, :-3], ids[:, -2:-1], ids[:, -3:-2], ids[:, -1:]), 1)},
        )

    cause = "positions that do not reach the model: a position embedding that is not added, or the same position everywhere"
    return _softened(
        _judge(
            _Study(subject, changes, lambda logits, _: logits.select(along, -1), seed), "the logits do not depend on {}", cause
        )
    )


def _in_context(subject: Subject) -> tuple[str, int]:
    """The field of ids that are read in context, and the place of their axis in the logits, the rows first."""
    found, main = subject.task.read_in_context, subject.task.signature.main
    assert found is not None
    return found[0].name, [main.axes[place] for place in rows_first(main.axes)].index(found[1])


def depends_on_channels(subject: Subject, seed: int = 0) -> Evidence:
    """The scores depend on every channel of the image."""

    def changes(base: Batch, draw: int) -> Iterable[Change]:
        pixels = base["pixel_values"]
        for channel in range(pixels.shape[1]):
            changed = pixels.clone()
            changed[:, channel] = _noise_like(changed[:, channel], draw)
            yield f"channel {channel}", {**base, "pixel_values": changed}

    cause = "a channel dropped by an index or a group, or the same channel read twice"
    return _judge(_Study(subject, changes, lambda logits, _: logits, seed), "the scores do not depend on {}", cause)


def depends_on_regions(subject: Subject, seed: int = 0) -> Evidence:
    """The scores depend on every quarter of the image."""

    def changes(base: Batch, draw: int) -> Iterable[Change]:
        pixels = base["pixel_values"]
        height, width = pixels.shape[-2] // 2, pixels.shape[-1] // 2
        if not height or not width:
            return
        for row, down in (("upper", slice(None, height)), ("lower", slice(height, None))):
            for column, across in (("left", slice(None, width)), ("right", slice(width, None))):
                changed = pixels.clone()
                changed[..., down, across] = _noise_like(changed[..., down, across], draw)
                yield f"the {row} {column} quarter", {**base, "pixel_values": changed}

    cause = "a crop, a stride or a patch grid that leaves part of the image out, or a pooling over one corner"
    return _judge(_Study(subject, changes, lambda logits, _: logits, seed), "the scores do not depend on {}", cause)


def depends_on_features(subject: Subject, seed: int = 0) -> Evidence:
    """The output depends on every feature."""

    def changes(base: Batch, draw: int) -> Iterable[Change]:
        for feature in range(base["features"].shape[1]):
            changed = base["features"].clone()
            changed[:, feature] = _noise_like(changed[:, feature], draw)
            yield f"feature {feature}", {**base, "features": changed}

    cause = "a slice that leaves columns out, or a column overwritten by another"
    return _judge(_Study(subject, changes, lambda logits, _: logits, seed), "the output does not depend on {}", cause)


@dataclass(frozen=True)
class _Study:
    """What is changed in a model's inputs, and where its answer to that is looked for.

    Attributes:
        subject: The model.
        changes: The changes of a batch, from a draw.
        select: The part of the logits that a change, by its label, should show in.
        seed: Seed of the first draw.
    """

    subject: Subject
    changes: Callable[[Batch, int], Iterable[Change]]
    select: Callable[[Tensor, str], Tensor]
    seed: int

    def influences(self, model: nn.Module) -> dict[str, float]:
        """The largest influence of each change over a few draws, which end when each has shown some."""
        found = self._in_shared_calls(model)
        if found and all(found.values()):
            return found
        for draw in range(self.seed, self.seed + _DRAWS):
            base = self.subject.batch(seed=draw)
            altered = list(self.changes(base, draw))
            reference = self.subject.logits(base, model)
            for label, batch in altered:
                if found.get(label, 0.0) == 0.0:
                    found[label] = self.influence(label, reference, self.subject.logits(batch, model))
            if found and all(found.values()):
                break
        return found

    def influence(self, label: str, left: Tensor, right: Tensor) -> float:
        """How far two logits differ where a change should show."""
        return _influence(self.select(left, label), self.select(right, label))

    def _in_shared_calls(self, model: nn.Module) -> dict[str, float]:
        """The influence of each change of a row beside the row itself, in as few calls as hold them all; empty where rows are not independent.

        The row itself stands at both ends of a call: where it gives something else there, other rows are read.
        A large model is first asked in its own dtype, as calls in float64 take several times as long.
        """
        subject, task, signature = self.subject, self.subject.task, self.subject.task.signature
        base = subject.batch(seed=self.seed)
        altered = [(label, signature.rows(batch, [0])) for label, batch in self.changes(base, self.seed)]
        own, together = signature.rows(base, [0]), with_rows(task, subject.typical, len(altered) + 2).batch - 2
        if not shares_rows(task) or together < 1 or subject.prerequisite_failure.random:
            return {}
        found: dict[str, float] = {}
        for judge in (calibrated(subject), model) if subject.is_large else (model,):
            left = [each for each in altered if not found.get(each[0])]
            for part in (left[start : start + together] for start in range(0, len(left), together)):
                logits = subject.logits(joined(task, [own, *(batch for _, batch in part), own]), judge)
                if _influence(logits[:1], logits[-1:]):
                    return {}
                for row, (label, _) in enumerate(part, start=1):
                    found[label] = self.influence(label, logits[[0]], logits[[row]])
        return found


def _judge(study: _Study, wrong: str, cause: str, rare: Callable[[Batch, str], tuple[Batch, Batch]] | None = None) -> Evidence:
    """Fails when something that was changed never changed the selected logits.

    ``rare`` gives two more batches for what was ignored: a model that pools at its end token, or at the largest id, reads a position only when
    such an id stands there.
    """
    subject, seed = study.subject, study.seed
    double = calibrated_double(subject)
    judge = double if double is not None else calibrated(subject)
    influence = study.influences(judge)
    if subject.fresh_weights and not all(influence.values()):
        later = study.influences(moved(subject, judge))
        # What a branch that starts at zero hides, the first step of training shows.
        influence = {label: value or later.get(label, 0.0) for label, value in influence.items()}
    if rare is not None:
        base = subject.batch(seed=seed)
        for label in [label for label, value in influence.items() if value == 0.0]:
            influence[label] = study.influence(label, *(subject.logits(batch, judge) for batch in rare(base, label)))
    counterexample = f"{subject.typical.describe(subject.task)}, {_DRAWS} draws from seed={seed}"
    ignored = [label for label, value in influence.items() if value == 0.0]
    if not influence:
        return Evidence.skipped(_NAME, "nothing to change in inputs of these sizes")
    weakest = min(influence.values())
    if not ignored:
        return Evidence.ok(
            _NAME, "every part matters", (weakest, None, "of the logits, weakest influence"), counterexample=counterexample
        )
    what = ignored[0] if len(ignored) == 1 else ("any of them" if len(ignored) == len(influence) > 4 else ", ".join(ignored[:6]))
    if len(ignored) == len(influence) > 1:
        what = f"their input at all ({ignored[0]} to {ignored[-1]})"
    found = Evidence.failed(
        _NAME,
        wrong.format(what),
        (len(ignored), 0, f"of {len(influence)} parts ignored"),
        counterexample=counterexample,
        cause=cause,
        details={"ignored": ignored},
        investigate=lambda: where_lost(
            subject, subject.batch(seed=seed), dict(study.changes(subject.batch(seed=seed), seed))[ignored[0]]
        ),
        code="ignored_input",
    )
    return left_to_batch_independence(subject, found)


def _influence(left: Tensor, right: Tensor) -> float:
    """Relative change of the logits; zero when it is no more than rounding in their dtype."""
    gap = difference(left, right)
    scale = largest_absolute(left)
    if gap <= FACTOR * torch.finfo(left.dtype).eps * scale:
        return 0.0
    return gap / scale if scale else gap


def where_lost(subject: Subject, base: Batch, changed: Batch) -> str:
    """The module that a change of the inputs reaches and after which nothing shows it any more, with the line; empty where there is none."""
    model = calibrated(subject)
    traces = [calls_of(model, partial(subject.logits, batch)) for batch in (base, changed)]
    lost = Blame("")
    for left, right in zip(*traces, strict=False):
        if first_divergence([left], [right], whole):
            lost = Blame("")
        elif not lost and _changes(left.inputs, right.inputs):
            others = dict(numbered(right.steps, "place", "name"))
            ends = [step for key, step in numbered(left.steps, "place", "name") if key in others and _ends_in(step, others[key])]
            # What reads the inputs themselves may well read another part of them.
            inner = [step for step in ends if not any(torch.equal(a, b) for a in step.inputs for b in left.inputs)]
            lost = Blame(left.module, (inner or ends)[-1].place if ends else "")
    return lost


def _ends_in(left: Step, right: Step) -> bool:
    """Whether an operator reads what was changed, and shows nothing of it."""
    same = len(left.outputs) == len(right.outputs) and not _changes(left.outputs, right.outputs)
    return bool(left.outputs) and same and _changes(left.inputs, right.inputs)


def _changes(left: list[Tensor], right: list[Tensor]) -> bool:
    return any(not torch.equal(a, b) for a, b in zip(left, right, strict=False) if a.shape == b.shape)


def _telling_ids(subject: Subject, field: str) -> Tensor:
    """Token ids (int64, at most 64) that a model may treat unlike others: all of a small vocabulary; else special ids and both ends."""
    vocab = subject.task.vocabulary_of(field) or 1
    config = getattr(subject.model, "config", None)
    special = [getattr(config, f"{name}_token_id", None) for name in ("bos", "eos", "sep", "cls", "mask", "pad", "unk")]
    ends = [*range(min(vocab, _MOST_IDS // 4)), *range(max(0, vocab - _MOST_IDS // 4), vocab)]
    known = (i for i in special if isinstance(i, int) and 0 <= i < vocab)
    return torch.arange(vocab) if vocab <= _MOST_IDS else torch.tensor(sorted({*known, *ends}))


def _noise_like(tensor: Tensor, seed: int) -> Tensor:
    return torch.randn(tensor.shape, generator=torch.Generator().manual_seed(seed + 7)).to(tensor)


def _softened(evidence: Evidence) -> Evidence:
    if evidence.status is not Status.FAIL:
        return evidence
    return replace(evidence, status=Status.WARN)
