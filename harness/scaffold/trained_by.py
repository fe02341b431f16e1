"""What a config can say of the loss that a run trained a model by, and what it cannot."""

from __future__ import annotations

from collections import Counter

from harness.models.followed.losses import Part, WrittenLoss
from harness.recording import Recording, SeenLoss

_OF_NUMBERS = ("mse", "l1", "huber")
"""Losses that say nothing of an output but themselves: with other options they are another loss."""

_AS_A_FUNCTION = 'write it as a function and name that: loss = "losses.py:my_loss"'


def named_losses(found: Recording) -> dict[str, WrittenLoss]:
    """The losses that a config has a name for, by output; none of an output that has two.

    Where they are the whole sum that the run trained by, each has the weight that it had in it.

    Args:
        found: What the run showed.
    """
    named = [each for each in found.losses if _is_named(each)]
    several = {output for output, number in Counter(each.output for each in found.losses).items() if number > 1}
    once = [each for each in named if each.output not in several]
    first = next((each.share / each.plain for each in once if each.share and each.plain), 0.0)
    is_sum = bool(first) and is_whole(found)
    weights = [float(f"{each.share / each.plain / first:.4g}") if is_sum and each.plain else 1.0 for each in once]
    return {
        each.output: WrittenLoss(
            each.name, each.called, Part(each.output, each.moved, each.squash), each.label, each.place, weight=weight
        )
        for each, weight in zip(once, weights, strict=True)
    }


def is_whole(found: Recording) -> bool:
    """Whether the losses that a config has a name for, each with a weight, gave the number that the run trained by."""
    total, outputs = found.total, [each.output for each in found.losses]
    if total is None or total.rest or not found.losses:
        return False
    return len(set(outputs)) == len(outputs) and all(_is_named(each) and not each.options for each in found.losses)


def said_of_loss(found: Recording) -> str:
    """A sentence on what the config does not say of the loss; empty where it says all of it, or where nothing was trained.

    Args:
        found: What the run showed.
    """
    total = found.total
    if total is None or is_whole(found):
        return ""
    if total.output:
        return f"the loss is `{total.output}` of what forward returns, called backward in {total.place}"
    value = f"{total.place} calls backward with {total.value:.4g}"
    if not total.parts:
        return f"the loss is none of PyTorch's: {value}; {_AS_A_FUNCTION}"
    parts = " + ".join(f"{each.share:.4g} ({each.called})" for each in total.parts)
    rest = f" + {total.rest:.4g} (not seen)" if total.rest else ""
    return f"the loss is more than this: {value} = {parts}{rest}; {_AS_A_FUNCTION}"


def _is_named(loss: SeenLoss) -> bool:
    return bool(loss.name) and not (loss.options and loss.name in _OF_NUMBERS)
