"""Values that an operation refused: floating point for whole numbers, ids beyond a table, tensors where a dict is read."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import torch

from harness.models.first_call.guesses import Guesses, Repairs
from harness.models.first_call.hints import part_guess
from harness.models.first_call.watching import Failure

_WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
_ANOTHER_DTYPE = re.compile(
    r"same dtype|scalar type|Input type|to have the same|expected .* dtype|not implemented for '(?:Long|Int)'|[Ii]nteger|Long|"
    r"can only .* floating|can't be cast"
)
_BEYOND = re.compile(r"out of bounds|out of range in self|index out of range")
_INDICES = re.compile(r"index.*(?:long, int, byte or bool|int64|dtype)|indices.*(?:long, int, byte or bool|int64|dtype)")
_SCALAR = re.compile(r"single element|interpreted as an integer|converted to (?:Scalar|Python scalar)")
_LENGTHS = re.compile(r"len\(lengths\)|'lengths'|lengths")
_DICT = re.compile(r"'Tensor' object has no attribute '(?:keys|items|values|get)'")


def repaired_dicts(guesses: Guesses, failure: Failure) -> Repairs:
    """Arguments of which forward reads keys."""
    key = next((value for value in failure.plain.values() if isinstance(value, str)), None)
    if failure.operation in ("__getitem__", "contains", "__contains__") and key is not None and failure.tensors:
        for path in failure.tensors[0].sources:
            yield from guesses.as_dict(path, (part_guess(key),))
    if _DICT.search(failure.message):
        for path in guesses.paths():
            yield from guesses.as_dict(path, ())
    missing = failure.error.args[0] if isinstance(failure.error, KeyError) and failure.error.args else None
    if isinstance(missing, str):
        for name, argument in guesses.arguments.items():
            if argument.holds == "parts" and not argument.fixed and all(part.name != missing for part in argument.parts):
                yield 0, guesses.put(f"{name}.{missing}", part_guess(missing))


def repaired_values(guesses: Guesses, failure: Failure) -> Repairs:
    """Other dtypes, ids of another range, lengths, scalars."""
    special = {"embedding": _ids_of_a_table, "embedding_bag": _ids_of_a_table, "one_hot": _ids_of_classes}.get(failure.operation)
    if special is not None:
        yield from special(guesses, failure)
        return
    rules: list[tuple[re.Pattern[str], Callable[[Guesses, Failure], Repairs]]] = [
        (_INDICES, _indices),
        (_BEYOND, _fewer_ids),
        (re.compile("[Bb]ool"), _truth_values),
        (_SCALAR, _scalar),
        (_LENGTHS, _lengths),
        (_ANOTHER_DTYPE, _dtypes),
    ]
    for pattern, rule in rules:
        if pattern.search(failure.message):
            yield from rule(guesses, failure)


def _ids_of_a_table(guesses: Guesses, failure: Failure) -> Repairs:
    if len(failure.tensors) < 2:
        return
    rows, places = failure.tensors[1].shape[0], failure.tensors[0].shape
    if not failure.tensors[0].sources and places and places[-1] > rows:  # positions that forward counts itself
        yield from guesses.resized(guesses.paths(), places[-1], rows)
    for path in sorted(failure.tensors[0].sources):
        argument = guesses.at(path)
        if argument is None:
            continue
        if argument.holds == "ids":
            count = rows if argument.count > rows else argument.count // 2
            if count >= 1:
                yield 0, guesses.put(path, replace(argument, count=count, made=None))
            continue
        if argument.fixed:
            continue
        sizes = argument.sizes
        if not argument.names and len(sizes) > 1:
            sizes = replace(argument, holds="ids").with_axes(2).sizes
        as_numbers = failure.tensors[0].dtype in _WHOLE  # forward made them whole itself
        yield 0, guesses.put(path, replace(argument, holds="ids", count=rows, sizes=sizes, made=None, as_numbers=as_numbers))


def _ids_of_classes(guesses: Guesses, failure: Failure) -> Repairs:
    classes = next((value for value in failure.plain.values() if isinstance(value, int) and value > 0), 4)
    yield from guesses.holding(failure.sources, holds="ids", count=classes)


def _indices(guesses: Guesses, failure: Failure) -> Repairs:
    """Numbers that are used as positions."""
    if failure.tensors:
        size = failure.tensors[0].shape[0] if failure.tensors[0].shape else 4
        yield from guesses.holding(failure.tensors[-1].sources or failure.sources, holds="ids", count=max(1, size))


def _fewer_ids(guesses: Guesses, failure: Failure) -> Repairs:
    for path in sorted(failure.sources):
        argument = guesses.at(path)
        if argument is not None and argument.holds == "ids" and argument.count > 1:
            yield 1, guesses.put(path, replace(argument, count=argument.count // 2, made=None))


def _truth_values(guesses: Guesses, failure: Failure) -> Repairs:
    if "ambiguous" in failure.message:
        yield from guesses.holding(failure.sources, holds="bools", sizes=())
        return
    second = failure.tensors[1].sources if len(failure.tensors) > 1 else frozenset()
    yield from guesses.holding(second or failure.sources, holds="bools")


def _scalar(guesses: Guesses, failure: Failure) -> Repairs:
    yield from guesses.holding(failure.sources or guesses.paths(), holds="ids", count=2, sizes=())


def _lengths(guesses: Guesses, failure: Failure) -> Repairs:
    if len(failure.tensors) > 1 and len(failure.tensors[0].shape) > 1:
        rows, longest = failure.tensors[0].shape[:2]
        yield from guesses.holding(failure.tensors[1].sources, holds="lengths", count=longest, sizes=(rows,))


def _dtypes(guesses: Guesses, failure: Failure) -> Repairs:
    weights = {seen.dtype for seen in failure.tensors if seen.dtype.is_floating_point and not seen.sources}
    floats = {str(dtype).removeprefix("torch.") for dtype in weights}
    whole = frozenset().union(*(seen.sources for seen in failure.tensors if seen.dtype in _WHOLE))
    fractional = frozenset().union(*(seen.sources for seen in failure.tensors if seen.dtype.is_floating_point))
    if floats and whole:
        for _, changed in guesses.holding(whole, holds="numbers", dtype=next(iter(floats))):
            yield 0, changed
    if whole:  # ids in a table of numbers, which forward makes whole where it looks them up
        for path in sorted(whole):
            argument = guesses.at(path)
            if argument is not None and argument.holds == "ids" and not argument.fixed and not argument.as_numbers:
                yield 1 + bool(floats), guesses.put(path, replace(argument, as_numbers=True, made=None))
    other = floats - {"float32"}
    if other and fractional:
        changed = guesses
        for path in guesses.paths():
            argument = changed.at(path)
            if argument is not None and argument.holds in ("numbers", "ones"):
                changed = changed.put(path, replace(argument, dtype=next(iter(other)), made=None))
        yield 1, changed
    if re.search("Long|int64|nteger", failure.message) and fractional:
        yield from guesses.holding(fractional, holds="ids", count=2)
