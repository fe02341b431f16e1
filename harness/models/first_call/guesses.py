"""All guesses of a call, and the changes to them that a failure asks for: another size or values, more axes, two inputs alike."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from harness.models.first_call.argument import Argument

_LARGEST = 1 << 22
"""Elements of an argument that are tried at most."""

_ROWS_COST = 6
"""What it costs to change the number of rows, which a model seldom asks for."""

_FAR = 30
"""How many times larger a size is that one axis does not come to by itself."""

_STEPS = (64, 32, 16, 8, 4, 2, 1)
"""What the sides of images are often multiples of."""


@dataclass(frozen=True)
class Guesses:
    """The arguments of one call.

    Attributes:
        arguments: By parameter.
    """

    arguments: Mapping[str, Argument]

    @property
    def key(self) -> tuple[object, ...]:
        """What tells one call from another."""
        return tuple(argument.key for argument in self.arguments.values())

    def at(self, path: str) -> Argument | None:
        """The argument, or the part of one, at a dotted path."""
        name, *rest = path.split(".")
        found = self.arguments.get(name)
        for key in rest:
            found = next((part for part in found.parts if part.name == key), None) if found is not None else None
        return found

    def put(self, path: str, argument: Argument) -> Guesses:
        """The guesses with another one at a path."""
        name, _, rest = path.partition(".")
        if rest:
            argument = _with_part(self.arguments[name], rest, argument)
        return Guesses({**self.arguments, name: argument})

    def paths(self) -> list[str]:
        """Where the tensors are."""
        return [path for name, argument in self.arguments.items() for path in _paths(argument, name)]

    def resized(self, paths: Iterable[str], got: int, wanted: int) -> Iterator[tuple[int, Guesses]]:
        """Other sizes by which a size at some operation may become the wanted one, each with its cost.

        Args:
            paths: The arguments that the operation's tensor was made of.
            got: The size it had.
            wanted: The size it should have.
        """
        if got == wanted or wanted < 1 or got < 1:
            return
        for path in sorted(paths):
            argument = self.at(path)
            if argument is None or argument.holds == "parts":
                continue
            for cost, sizes in _sizes_for(argument, got, wanted):
                if math.prod(sizes) <= _LARGEST:
                    yield cost, self._sized(path, argument, sizes)

    def grown(self, paths: Iterable[str]) -> Iterator[tuple[int, Guesses]]:
        """Larger images and longer sequences."""
        for path in sorted(paths):
            argument = self.at(path)
            if argument is None or argument.fixed or len(argument.sizes) < 2 or argument.holds == "parts":
                continue
            if len(argument.sizes) > 3:
                sizes = argument.sizes[:2] + tuple(size * 2 for size in argument.sizes[2:])
                if math.prod(sizes) <= _LARGEST:
                    yield 1, self._sized(path, argument, sizes)
                continue
            for axis in (2, 1)[3 - len(argument.sizes) :]:
                larger = list(argument.sizes)
                larger[axis] *= 4
                if math.prod(larger) <= _LARGEST:
                    yield 1 + (argument.sizes[axis] == 1), self._sized(path, argument, tuple(larger))

    def with_axes(self, paths: Iterable[str], change: int) -> Iterator[tuple[int, Guesses]]:
        """As many axes more, or fewer."""
        for place, path in enumerate(sorted(paths)):
            argument = self.at(path)
            count = len(argument.sizes) + change if argument is not None else -1
            if argument is not None and not argument.fixed and 0 <= count <= 6 and argument.holds != "parts":
                yield 1, self.put(path, argument.with_axes(count, 4 * place if len(self.arguments) > 1 else 0))

    def holding(self, paths: Iterable[str], **changes: object) -> Iterator[tuple[int, Guesses]]:
        """Other values."""
        for path in sorted(paths):
            argument = self.at(path)
            if argument is not None and argument.holds != "parts" and not argument.fixed:
                yield 1, self.put(path, replace(argument, made=None, **changes))  # type: ignore[arg-type]

    def as_dict(self, path: str, parts: tuple[Argument, ...]) -> Iterator[tuple[int, Guesses]]:
        """A dict in place of a tensor."""
        argument = self.at(path)
        if argument is not None and not argument.fixed:
            yield 0, self.put(path, Argument(argument.name, (), "parts", why="forward reads its keys", parts=parts))

    def as_object(self, path: str, parts: tuple[Argument, ...]) -> Iterator[tuple[int, Guesses]]:
        """An object with attributes in place of a tensor."""
        argument = self.at(path)
        if argument is not None and not argument.fixed:
            whole = Argument(argument.name, (), "parts", why="forward reads its attributes", parts=parts, is_object=True)
            yield 0, self.put(path, whole)

    def as_list(self, path: str, count: int) -> Iterator[tuple[int, Guesses]]:
        """Several tensors in place of one: maps of features first, then sequences and rows; those that there are are kept."""
        argument = self.at(path)
        if argument is None or argument.fixed or count < 1:
            return
        if argument.is_list:
            kept = argument.parts[:count]
            kept += tuple(replace(argument.parts[-1], name=str(place)) for place in range(len(kept), count))
            yield 0, self.put(path, replace(argument, parts=kept, made=None))
            return
        for cost, axes in enumerate((4, 3, 2)):
            parts = tuple(Argument(str(place)).with_axes(axes) for place in range(count))
            yield cost, self.put(path, Argument(argument.name, (), "parts", why="forward reads a list", parts=parts))

    def _sized(self, path: str, argument: Argument, sizes: tuple[int, ...]) -> Guesses:
        """Another shape of one argument; axes of the same name follow in all."""
        changed = self.put(path, replace(argument, sizes=sizes, made=None))
        renamed = {name: size for name, size in zip(argument.names, sizes, strict=False) if name}
        for other in changed.paths() if renamed else ():
            found = changed.at(other)
            if found is not None and other != path and set(found.names) & set(renamed):
                follows = tuple(renamed.get(name, size) for name, size in zip(found.names, found.sizes, strict=True))
                changed = changed.put(other, replace(found, sizes=follows, made=None))
        return changed


def _sizes_for(argument: Argument, got: int, wanted: int) -> Iterator[tuple[int, tuple[int, ...]]]:
    sizes = argument.sizes
    free = [axis for axis in range(len(sizes)) if _may_change(argument, axis)]
    same = [axis for axis in free if sizes[axis] == got]
    same = [axis for axis in same if axis or len(same) == 1]
    if len(same) > 1 and len(sizes) > 3:
        yield 1, tuple(wanted if axis in same and axis > 1 else size for axis, size in enumerate(sizes))
    for cost, axis in enumerate(same, start=1):
        yield cost + _ROWS_COST * (axis == 0 and len(sizes) > 1), _with(sizes, axis, wanted)
    if same:
        return
    spatial = [axis for axis in free if axis >= 2]
    if len(sizes) > 3 and spatial:
        ratio = wanted / got
        for cost, scale in enumerate((ratio ** (1 / len(spatial)), ratio), start=1):
            for side in dict.fromkeys(_near(sizes[spatial[-1]] * scale)):
                if side != sizes[spatial[-1]]:
                    yield (
                        cost,
                        tuple(
                            max(1, round(side * size / sizes[spatial[-1]])) if axis in spatial else size
                            for axis, size in enumerate(sizes)
                        ),
                    )
                    cost += 1
        if sizes[-1] + wanted - got > 0:  # channels last, and more of them joined
            yield 2, _with(sizes, len(sizes) - 1, sizes[-1] + wanted - got)
        return
    for place, axis in enumerate(reversed([axis for axis in free if axis > 0])):
        added = sizes[axis] + wanted - got
        if added > 0:
            yield 2 if added < _FAR * sizes[axis] else 5, _with(sizes, axis, added)
        if got % sizes[axis] == 0 and wanted % (got // sizes[axis]) == 0:
            yield 1, _with(sizes, axis, wanted * sizes[axis] // got)
        elif got > 1:
            flattened = got > _FAR * sizes[axis] and place == 0  # behind strides, so that the size is only about this
            yield 1 if flattened else 3, _with(sizes, axis, max(1, round(sizes[axis] * wanted / got)))


def _near(side: float) -> Iterator[int]:
    """The side itself, and the nearest ones that are multiples of what sides often are."""
    exact = round(side)
    yield max(1, exact)
    for step in _STEPS:
        nearest = max(step, round(side / step) * step)
        if abs(nearest - side) <= side / 4:
            yield nearest


def aligned(argument: Argument) -> Iterator[tuple[int, ...]]:
    """Sides that more models can halve again and again, and others near by."""
    side = argument.sizes[-1]
    for other in dict.fromkeys((side - side % 64 or 64, 2 * side, side + 1, side - 1, side + 2)):
        if other > 0 and other != side:
            yield (*argument.sizes[:2], *(other for _ in argument.sizes[2:]))


def _may_change(argument: Argument, axis: int) -> bool:
    return not argument.fixed or (axis < len(argument.names) and bool(argument.names[axis]))


def _with(sizes: tuple[int, ...], axis: int, size: int) -> tuple[int, ...]:
    return tuple(size if place == axis else old for place, old in enumerate(sizes))


def _paths(argument: Argument, path: str) -> Iterator[str]:
    if argument.holds != "parts":
        yield path
    for part in argument.parts:
        yield from _paths(part, f"{path}.{part.name}")


def _with_part(argument: Argument, path: str, part: Argument) -> Argument:
    key, _, rest = path.partition(".")
    if rest:
        inner = next(each for each in argument.parts if each.name == key)
        part = _with_part(inner, rest, part)
    kept = [part if each.name == key else each for each in argument.parts]
    if all(each.name != key for each in argument.parts):
        kept.append(part)
    return replace(argument, parts=tuple(kept), made=None)


Repairs = Iterator[tuple[int, Guesses]]
"""Changed guesses, each with its cost."""


_ONE_OF_SEVERAL = re.compile(
    r"(?P<stem>.*?)_?(?:\d|(?<=_)[abc]|one|two|first|second|left|right|anchor|pos|positive|neg|negative)|[ab]|[qkv]|query|key|value|queries|keys|values|"
    r"(?:first|second|left|right|anchor|pos|positive|neg|negative)_(?P<rest>.+)"
)

_ALONE_COST = 2
"""What it costs more to change only one of them."""


def names_alike(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Names that differ by a number, a letter or a word only: ``x1`` and ``x2``, ``anchor`` and ``positive``, ``q`` and ``k``."""
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
