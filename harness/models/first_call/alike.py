"""Arguments that take the same kind of value: the two images of a pair, or an anchor with a positive and a negative."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from harness.models.first_call.argument import Argument
from harness.models.first_call.guesses import Guesses, Repairs

_ONE_OF_SEVERAL = re.compile(
    r"(?P<stem>.*?)_?(?:\d|(?<=_)[abc]|one|two|first|second|left|right|anchor|pos|positive|neg|negative)|[ab]|"
    r"(?:first|second|left|right|anchor|pos|positive|neg|negative)_(?P<rest>.+)"
)

_ALONE_COST = 2
"""What it costs more to change only one of them."""


def names_alike(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Names that differ by a number, a letter or a word only: ``x1`` and ``x2``, ``img_a`` and ``img_b``, ``anchor`` and ``positive``."""
    groups: dict[str, list[str]] = {}
    for name in names:
        found = _ONE_OF_SEVERAL.fullmatch(name.lower())
        if found is not None:
            groups.setdefault(found["stem"] or found["rest"] or "", []).append(name)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def made_alike(required: Mapping[str, Argument]) -> dict[str, Argument]:
    """Guesses of which those of names that are alike are the first one's, where nothing is said of them."""
    found = dict(required)
    for first, *others in names_alike(required):
        for name in others:
            if not found[name].is_said and found[name].is_free:
                found[name] = replace(found[first], name=name)
    return found


def changed_alike(before: Guesses, changes: Iterable[tuple[int, Guesses]]) -> Repairs:
    """Changes of one of several arguments that are alike, made to all of them; to only it at a higher cost.

    Args:
        before: The guesses that are changed.
        changes: Each with its cost.
    """
    groups = [group for group in names_alike(before.arguments) if len({_kind(before.arguments[name]) for name in group}) == 1]
    for cost, after in changes:
        together = next(_followed(before, after, groups), None)
        if together is not None:
            yield cost, together
        yield cost + _ALONE_COST * (together is not None), after


def _followed(before: Guesses, after: Guesses, groups: Iterable[tuple[str, ...]]) -> Iterator[Guesses]:
    for group in groups:
        changed = [name for name in group if after.arguments[name].key != before.arguments[name].key]
        others = [name for name in group if name not in changed and not after.arguments[name].fixed]
        if len(changed) == 1 and others:
            one = after.arguments[changed[0]]
            yield Guesses({**after.arguments, **{name: replace(one, name=name) for name in others}})


def _kind(argument: Argument) -> object:
    return argument.key[1:]
