"""Whether attention weights keep what softmax and masks promise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness.analysis import Study, padded_batch, tells_padding
from harness.analysis.attention_maps import AttentionMap, attention_maps
from harness.batches import Sizes
from harness.evidence import Evidence
from harness.properties.noise import difference
from harness.tasks.axes import BATCH
from harness.wording import and_others, counted

_NAME = "attention_patterns"
_NONE = (
    "no attention was found: no softmax that is multiplied with values, no scaled_dot_product_attention, no MultiheadAttention"
)


@dataclass(frozen=True)
class _Stray:
    """Weight where there may be none.

    Attributes:
        map: The attention.
        weight: Of each head and query of a batch, what it gives to forbidden keys, ``[N, H, T]``.
        at: The input.
    """

    map: AttentionMap
    weight: Tensor
    at: str

    @property
    def excess(self) -> float:
        """The largest of it, over what rounding may leave."""
        return float(self.weight.max()) / self.map.rounding


def rows_sum_to_one(study: Study) -> Evidence:
    """Each query's weights are a distribution over the keys that are multiplied with the values."""
    subject = study.subject
    found = attention_maps(subject, subject.batch())
    if not found:
        return _skipped(_NONE)
    wrong = [each for each in found if _deviation(each) > each.rounding]
    worst = max(wrong or found, key=lambda each: _deviation(each) / each.rounding)
    facts: dict[str, Any] = {
        "measured": (_deviation(worst), worst.rounding, "from 1"),
        "counterexample": f"{subject.typical.describe(subject.task)}, seed=0",
    }
    if not wrong:
        return Evidence.ok(
            _NAME, f"in {counted(len(found), 'attention layer')} every query's weights are a distribution", **facts
        )
    return Evidence.failed(
        _NAME,
        f"a query's attention weights do not sum to 1 over the keys{_axis_of(worst, subject.typical)}"
        f"{and_others(len(wrong) - 1, 'attention layer')}",
        module=worst.module,
        cause="softmax over another axis than the one the values are summed over, or a mask that is multiplied in after it",
        code="wrong_sum",
        **facts,
    )


def causal(study: Study) -> Evidence:
    """No query along a causal axis gives weight to a later key."""
    subject = study.subject
    signature = subject.task.signature
    judged = list[_Stray]()
    both = [subject.typical, subject.reach.largest(1 if subject.is_large else 2)]
    maps = [attention_maps(subject, subject.batch(sizes)) for sizes in both]
    wholes = [signature.complete(sizes.by_axis(subject.task)) for sizes in both]
    for axis in signature.with_order("causal"):
        lengths = [whole[axis.name] for whole in wholes]
        for sizes, whole, length, found in zip(both, wholes, lengths, maps, strict=True):
            others = {size for name, size in whole.items() if name not in (axis.name, BATCH)}
            if length < 2 or length in others:
                continue  # nothing is later, or the attention along another axis cannot be told from it
            for number, each in enumerate(found):
                # What is attended to may have as many elements by chance, such as an image's patches: it keeps them at another length.
                alike = [other[number].keys for other in maps if number < len(other)]
                if each.queries == each.keys == length and (len(set(lengths)) == 1 or len(set(alike)) > 1):
                    later = each.by_head(sizes.batch).triu(1).sum(-1)
                    judged.append(_Stray(each, later, f"{sizes.describe(subject.task)}, seed=0"))
    return _no_stray(
        judged, "reads_later_positions", "a later position", "a causal mask that is missing or shifted in this layer or head"
    )


def padding(study: Study) -> Evidence:
    """No real query gives weight to a padded key."""
    subject, sizes = study.subject, study.subject.typical
    signature = subject.task.signature
    whole = signature.complete(sizes.by_axis(subject.task))
    told = [axis for axis in signature.visible_padding if whole[axis.name] > 1 and tells_padding(subject, axis)]
    if not told:
        return _skipped("the model receives no information about padding")
    judged = list[_Stray]()
    for axis in told:
        longest = whole[axis.name]
        lengths = [max(1, axis.least, longest - 1 - 3 * row) for row in range(sizes.batch)]
        padded = padded_batch(subject, subject.batch(), axis, sizes, lengths)
        shown = f"{sizes.describe(subject.task)}, lengths={lengths}, seed=0"
        masks = [real for name in signature.axes if (real := padded.real_along(name)) is not None]
        for each in attention_maps(subject, padded.batch):
            real = next((mask for mask in masks if mask.shape[1] == each.keys), None)
            by_head = each.by_head(sizes.batch)
            if real is not None and len(by_head) == sizes.batch:
                stray = (by_head * ~real[:, None, None, :]).sum(-1)
                judged.append(_Stray(each, stray * real[:, None, :] if each.queries == each.keys else stray, shown))
    return _no_stray(
        judged,
        "reads_padding",
        "padding",
        "a padding mask that is not applied in this layer or head, or is added with too small a number",
    )


def collapsed_heads(study: Study) -> Evidence:
    """No two heads of a layer give the same weights, and no attention gives the same weights whatever the input.

    Fresh weights are moved at random first: heads that are alike only because a projection starts at zero are told from those that stay so.
    """
    subject = study.subject
    model = study.moved()
    batches = [subject.batch(seed=seed) for seed in (0, 1)]
    first, second = (attention_maps(subject, batch, model) for batch in batches)
    pairs = [pair for pair in zip(first, second, strict=False) if min(pair[0].queries, pair[0].keys) > 1]
    if not pairs:
        return _skipped(_NONE)
    if difference(*(subject.logits(batch, model) for batch in batches)) <= subject.floor.bound:
        return _skipped("the output hardly depends on its input (see input_dependence)")
    findings = [finding for pair in pairs for finding in _collapsed(pair, subject.typical.batch)]
    bound = max(each.rounding for each, _ in pairs)
    alike = [finding for finding in findings if finding[0] <= bound]
    closest, code, said, module = min(findings, key=lambda finding: finding[0])
    facts: dict[str, Any] = {"measured": (len(alike), 0, ""), "details": {"least_difference": closest, "rounding": bound}}
    if not alike:
        message = (
            f"the heads of {counted(len(pairs), 'attention layer')} differ, by {closest:.1e} or more, and depend on the input"
        )
        return Evidence.ok(_NAME, message, **facts)
    return Evidence.warned(
        _NAME,
        f"{said}{and_others(len(alike) - 1, 'similar finding')}",
        module=module,
        cause="one head used several times (`[head] * n`), scores divided by too large a number, or queries or keys that do not come "
        "from the input",
        code=code,
        **facts,
    )


def _deviation(each: AttentionMap) -> float:
    """How far a query's weights are from a distribution; those of a query that sees no key at all, 0 or NaN, are left out."""
    weights = each.weights.double()
    seeing = weights.isfinite().all(-1) & (weights != 0).any(-1)
    if not bool(seeing.any()):
        return 0.0
    rows = weights[seeing]
    surplus = rows.sum(-1) - 1
    off = surplus.abs() if each.whole else surplus.clamp(min=0)
    return max(float(off.max()), float((-rows).max()))


def _axis_of(each: AttentionMap, sizes: Sizes) -> str:
    """Over what else the weights sum to 1."""
    by_head = each.by_head(sizes.batch)
    for axis, what in ((-2, "the queries"), (1, "the heads"), (0, "the batch")):
        sums = by_head.sum(axis)
        if bool(((sums - 1).abs() <= each.rounding).all()):
            return f", but over {what}"
    return ""


def _no_stray(judged: list[_Stray], code: str, where: str, cause: str) -> Evidence:
    """The verdict on weight where there may be none."""
    if not judged:
        return _skipped(_NONE)
    worst = next((stray for stray in judged if stray.excess > 1), max(judged, key=lambda stray: stray.excess))
    largest = worst.weight.amax((0, 2))
    facts: dict[str, Any] = {
        "measured": (float(largest.max()), worst.map.rounding, "of a query's weight"),
        "counterexample": worst.at,
    }
    if worst.excess <= 1:
        return Evidence.ok(_NAME, f"no head of {counted(len(judged), 'attention layer')} attends to {where}", **facts)
    heads = [number for number, weight in enumerate(largest.tolist()) if weight > worst.map.rounding]
    one = f"head {heads[0]} of {len(largest)}{and_others(len(heads) - 1, 'head')}"
    who = "the only head" if len(largest) == 1 else "every head" if len(heads) == len(largest) else one
    others = len({stray.map.module for stray in judged if stray.excess > 1}) - 1
    return Evidence.failed(
        _NAME,
        f"{who} attends to {where}{and_others(others, 'attention layer')}",
        module=worst.map.module,
        cause=cause,
        details={"heads": heads, "attentions": others + 1},
        code=code,
        **facts,
    )


def _collapsed(pair: tuple[AttentionMap, AttentionMap], batch: int) -> list[tuple[float, str, str, str]]:
    """How far an attention is from collapse, in each way: a distance, the code of what is found, what is said at distance 0, and the module."""
    first, second = (each.by_head(batch) for each in pair)
    module, heads = pair[0].module, first.shape[1]
    found = list[tuple[float, str, str, str]]()
    # What attends among learned queries only, as a detector's first layer does, has nothing of the input to depend on.
    values = [each.values for each in pair if each.values is not None]
    sees_input = len(values) < 2 or not torch.equal(*values)
    if first.shape == second.shape and sees_input:
        moved = (first - second).abs().amax((0, 2, 3))
        head = int(moved.argmin())
        found.append(
            (float(moved[head]), "attention_ignores_input", f"head {head} gives the same weights whatever the input", module)
        )
    for one in range(heads):
        for other in range(one + 1, heads):
            apart = float((first[:, one] - first[:, other]).abs().max())
            found.append((apart, "heads_alike", f"heads {one} and {other} give the same weights", module))
    return found


def _skipped(reason: str) -> Evidence:
    return Evidence.skipped(_NAME, reason)
