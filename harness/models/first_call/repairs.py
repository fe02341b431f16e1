"""From a failure to the changes of the arguments that may mend it, cheapest first: by the values, the sizes, the condition it names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from types import SimpleNamespace

import torch
from torch import Tensor

from harness.models.first_call.guards import repaired_guard
from harness.models.first_call.guesses import Guesses, Repairs
from harness.models.first_call.hints import of_one_graph, part_guess
from harness.models.first_call.operations import repaired_sizes
from harness.models.first_call.watching import Failure, Unbatched, sources_of

_OF_A_SEQUENCE = 3
"""Axes of rows of sequences of vectors, at most."""

_TOO_SMALL = re.compile(
    r"[Kk]ernel size can't be greater|[Oo]utput size is too small|[Pp]adding size should be less|non-zero|non-empty|"
    r"[Ee]xpected more than 1|must be positive|smaller than kernel|too small"
)


def repairs(guesses: Guesses, failure: Failure) -> Repairs:
    """What may mend a failure.

    Args:
        guesses: The arguments of the call that failed.
        failure: How it failed.
    """
    everything = frozenset(guesses.paths())
    if isinstance(failure.error, Unbatched):
        yield from guesses.with_axes(failure.sources or everything, 1)
        return
    told = False
    for change in _told(guesses, failure, everything):
        told = True
        yield change
    if not told:
        yield from repaired_by_any_number(guesses, failure)


def _told(guesses: Guesses, failure: Failure, everything: frozenset[str]) -> Repairs:
    """What the operation, the message, or the condition that did not hold says."""
    for rule in (repaired_dicts, repaired_values, repaired_sizes):
        yield from rule(guesses, failure)
    if _TOO_SMALL.search(failure.message):
        yield from guesses.grown(failure.sources or everything)
    yield from repaired_axes(guesses, failure)
    yield from repaired_numbers(guesses, failure)
    yield from repaired_guard(guesses, failure.error, failure.sources or everything)


def last_resorts(guesses: Guesses, known: Iterable[int] = ()) -> Repairs:
    """Other numbers of axes and other values, where nothing else is known.

    Args:
        guesses: The arguments of the call that failed.
        known: Sizes that the model keeps or was built with.
    """
    for path in guesses.paths():
        argument = guesses.at(path)
        if argument is None or argument.fixed:
            continue
        for size in known if 2 <= len(argument.sizes) <= _OF_A_SEQUENCE and argument.made is None else ():
            for axis in range(1, len(argument.sizes)):
                if argument.sizes[axis] != size:
                    yield 3 + axis, guesses.put(path, argument.with_size(axis, size))
        for count, cost in ((2, 4), (3, 4), (4, 4), (1, 8)):
            if count != len(argument.sizes):
                yield cost, guesses.put(path, argument.with_axes(count))
        other = replace(argument, holds="ids", count=2) if argument.holds == "numbers" else replace(argument, holds="numbers")
        yield 5, guesses.put(path, replace(other, made=None))


_PAIRS = (
    re.compile(r"shapes cannot be multiplied \(\d+x(?P<got>\d+) and (?P<wanted>\d+)x\d+\)"),
    re.compile(r"\((?P<got>\d+)[*x]\d+\) (?:doesn't|does not) match model \((?P<wanted>\d+)"),
    re.compile(r"\((?P<got>\d+)\) (?:doesn't|does not) match model \((?P<wanted>\d+)\)"),
    re.compile(r"size of tensor a \((?P<got>\d+)\) must match the size of tensor b \((?P<wanted>\d+)\)"),
    re.compile(r"expanded size of the tensor \((?P<got>\d+)\) must match the existing size \((?P<wanted>\d+)\)"),
    re.compile(r"[Ee]xpected[^.]*?(?P<wanted>\d+)[^\d.]*(?:but )?(?:got|found|received|gets|was)[^\d]*(?P<got>\d+)"),
    re.compile(r"(?:got|found|received)[^\d]*(?P<got>\d+)[^\d]*expected[^\d]*(?P<wanted>\d+)"),
    re.compile(r"maximum size for tensor at dimension \d+ is (?P<got>\d+) but size is (?P<wanted>\d+)"),
    re.compile(r"has size (?P<got>\d+) .*previously seen size (?P<wanted>\d+)"),
    re.compile(r"Shape mismatch, (?P<got>\d+) != (?P<wanted>\d+)"),
    re.compile(r"[Rr]equired[^\d]*(?P<wanted>\d+)[^\d]*(?:given|got)[^\d]*(?P<got>\d+)"),
)
"""The size that came, and the one that was wanted."""

_MOST_ITEMS = 8
"""Tensors of a list that are tried at most."""

_FEW_NUMBERS = 6
"""Numbers in a message from which on it is not clear which of them is a size."""

_ITERATES = ("__iter__", "unbind")
"""Operations that a tensor is taken apart by."""

_UNPACKED = re.compile(r"values to unpack \(expected (\d+)(?:, got (\d+))?")
_OUT_OF_RANGE = re.compile(r"\[-(\d+), \d+\], but got (-?\d+)")
_OTHER_AXES = (
    re.compile(r"input\.dim\(\) = (?P<got>\d+) is not equal to len\(dims\) = (?P<wanted>\d+)"),
    re.compile(r"expected (?P<wanted>\d+) dims\. Received (?P<got>\d+)-dim"),
)
_EXPECTED_AXES = re.compile(
    r"(?:[Ee]xpect|must|should|[Rr]equire|[Oo]nly)[^\d]{0,40}\b(\d)-?[dD](?: \(unbatched\))?(?: or (\d)-?[dD])?\b"
)
_BEYOND = re.compile(r"index (\d+) is out of bounds for dimension \d+ with size (\d+)")
_PARTS_OF_A_SPLIT = re.compile(r"split_sizes to sum exactly to (\d+) .*split_sizes=\[([\d, ]+)\]")
_CHUNKS = re.compile(r"can't divide axis of length (\d+) in chunks of (\d+)")


def repaired_axes(guesses: Guesses, failure: Failure) -> Repairs:
    """Another number of axes."""
    message, read = failure.message, failure.last_read
    made_of = failure.sources or frozenset(guesses.paths())
    read_from = read.sources if read is not None and read.sources else made_of
    if (unpacked := _UNPACKED.search(message)) and not failure.operation:
        expected = int(unpacked[1])
        if read is not None and read.sources and failure.last_operation not in _ITERATES:
            yield from guesses.with_axes(read.sources, expected - int(unpacked[2] or len(read.shape)))
        if failure.last_operation in _ITERATES and expected <= _MOST_ITEMS:
            for path in guesses.paths():
                yield from guesses.as_list(path, expected)
        for path in guesses.paths():
            argument = guesses.at(path)
            if argument is not None and argument.sizes and not argument.fixed:
                yield 2, guesses.put(path, argument.with_size(0, expected))
        yield from _other_lists(guesses, expected)
        return
    if "list index out of range" in message or "tuple index out of range" in message:
        yield from _other_lists(guesses)
    if "tuple index out of range" in message:
        yield from guesses.with_axes(read_from, 1)
    if beyond := _OUT_OF_RANGE.search(message):
        has, got = int(beyond[1]), int(beyond[2])
        yield from guesses.with_axes(made_of, max(1, (got + 1 if got >= 0 else -got) - has))
    if "too many indices for tensor" in message and failure.tensors:
        yield from guesses.with_axes(failure.tensors[0].sources or made_of, 1)
    for pattern in _OTHER_AXES:
        if found := pattern.search(message):
            yield from guesses.with_axes(failure.sources or read_from, int(found["wanted"]) - int(found["got"]))
    if found := _EXPECTED_AXES.search(message):
        wanted = int(found[2] or found[1])
        given = read if read is not None and read.sources else failure.first
        if given is not None and len(given.shape) != wanted:
            yield from guesses.with_axes(given.sources, wanted - len(given.shape))


def _other_lists(guesses: Guesses, count: int = 0) -> Repairs:
    """Lists of as many tensors, or of one more."""
    for name, argument in guesses.arguments.items():
        if argument.is_list and len(argument.parts) < _MOST_ITEMS:
            yield from guesses.as_list(name, count or len(argument.parts) + 1)


def repaired_numbers(guesses: Guesses, failure: Failure) -> Repairs:
    """Sizes that the message names."""
    read = failure.last_read
    everything = frozenset(guesses.paths())
    sources = failure.sources or (read.sources if read is not None else everything) or everything
    if found := _CHUNKS.search(failure.message):
        size, step = int(found[1]), int(found[2])
        yield from guesses.resized(sources, size, -(-size // step) * step)
    if found := _PARTS_OF_A_SPLIT.search(failure.message):
        yield from guesses.resized(sources, int(found[1]), sum(int(part) for part in found[2].split(",")))
    if found := _BEYOND.search(failure.message):
        index, size = int(found[1]), int(found[2])
        yield from guesses.resized(everything, index + 1, size)
        if failure.operation == "__getitem__" and failure.first is not None:  # columns that the model names itself
            own = [
                seen.shape[0] for seen in failure.tensors if not seen.sources and seen.dtype in _WHOLE and len(seen.shape) == 1
            ]
            for wanted in dict.fromkeys((*own, index + 1)):
                yield from guesses.resized(failure.first.sources, size, wanted)
    for pattern in _PAIRS:
        if found := pattern.search(failure.message):
            yield from guesses.resized(sources, int(found["got"]), int(found["wanted"]))
            yield from _other_lengths(guesses, int(found["got"]), int(found["wanted"]))
            return


def _other_lengths(guesses: Guesses, got: int, wanted: int) -> Repairs:
    """Rows as long as a tensor that was masked by their lengths, or the other way round."""
    for path in guesses.paths():
        argument = guesses.at(path)
        if argument is not None and argument.holds == "lengths" and not argument.fixed and argument.count in (got, wanted):
            yield 1, guesses.put(path, replace(argument, count=wanted if argument.count == got else got, made=None))


def repaired_by_any_number(guesses: Guesses, failure: Failure) -> Repairs:
    """A size that the message speaks of, as large as another number in it, where nothing else is known."""
    numbers = list(dict.fromkeys(int(number) for number in re.findall(r"(?<![\w.])\d{1,6}(?![\w.]*\w)", failure.message)))
    if not 2 <= len(numbers) <= _FEW_NUMBERS:
        return
    for path in sorted(failure.sources) or guesses.paths():
        argument = guesses.at(path)
        for axis, size in enumerate(argument.sizes if argument is not None and not argument.fixed else ()):
            for wanted in numbers if axis and size in numbers else ():
                if argument is not None and wanted not in (0, size):
                    yield 3, guesses.put(path, argument.with_size(axis, wanted))


_WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
_ANOTHER_DTYPE = re.compile(
    r"same dtype|scalar type|Input type|to have the same|expected .* dtype|not implemented for '(?:Long|Int)'|[Ii]nteger|Long|"
    r"can only .* floating|can't be cast"
)
_BEYOND_A_TABLE = re.compile(r"out of bounds|out of range in self|index out of range")
_INDICES = re.compile(r"index.*(?:long, int, byte or bool|int64|dtype)|indices.*(?:long, int, byte or bool|int64|dtype)")
_SCALAR = re.compile(r"single element|interpreted as an integer|converted to (?:Scalar|Python scalar)")
_LENGTHS = re.compile(r"len\(lengths\)|'lengths'|lengths")
_ATTRIBUTE = re.compile(r"'(?:Tensor|types\.SimpleNamespace)' object has no attribute '(\w+)'")
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
    if (read := _ATTRIBUTE.search(failure.message)) and isinstance(failure.error, AttributeError):
        owner = failure.error.obj
        for path in sources_of(owner) if isinstance(owner, Tensor) and not failure.operation else ():
            yield from guesses.as_object(path, (part_guess(read[1]),))
        for name, argument in guesses.arguments.items() if isinstance(owner, SimpleNamespace) else ():
            if argument.is_object and all(part.name != read[1] for part in argument.parts):
                yield from guesses.as_object(name, of_one_graph((*argument.parts, part_guess(read[1]))))
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
        (_BEYOND_A_TABLE, _fewer_ids),
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
