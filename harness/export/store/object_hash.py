"""A hash of objects and of all that they hold, which another process finds again for equal ones.

Objects form a graph. Each is numbered when it is first met, taken apart by one level, and referred to by its number afterwards, so that
cycles end and sharing (tied weights) is part of the hash. Nothing recurses, however deep a graph is.

What cannot be read, such as a handle of an extension written in C, is never taken for equal to another: it gets a token of its own.
"""

from __future__ import annotations

import hashlib
import uuid
from collections import deque
from collections.abc import Callable
from types import CodeType

from harness.export.store.code_parts import code_parts
from harness.export.store.object_parts import OpaqueError, parts_of
from harness.files import text_hash

_LIMIT = 300_000
"""Objects that are looked at, at most: some seconds. A larger graph is opaque as a whole."""

_SHOWN = 200
"""Characters of a plain value that are kept as they are; of a longer one, its hash."""

_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis), type(NotImplemented))


def never_again() -> str:
    """A token that nothing else has."""
    return uuid.uuid4().hex


class ObjectHash:
    """Hashes objects; what they share is told from what they hold twice.

    Args:
        opaque: A token for what cannot be read; by default another each time, so that no two of them are equal.

    Attributes:
        seen: The objects that were met.
    """

    def __init__(self, opaque: Callable[[], str] = never_again) -> None:
        self.seen: list[object] = []
        self._opaque = opaque
        self._numbers: dict[int, int] = {}
        self._waiting: deque[object] = deque()
        self._codes: dict[int, str] = {}

    def of(self, *objects: object) -> str:
        """The hash of objects, in this order."""
        whole = hashlib.sha256()
        for value in objects:
            whole.update(self._token(value).encode())
        while self._waiting:
            if len(self.seen) > _LIMIT:
                whole.update(self._opaque().encode())
                break
            whole.update(self._content(self._waiting.popleft()).encode())
        return whole.hexdigest()

    def _content(self, value: object) -> str:
        """One object, taken apart by one level."""
        try:
            return self._token(parts_of(value))
        except OpaqueError:
            return f"opaque {type(value).__module__}.{type(value).__qualname__} {self._opaque()}"

    def _token(self, value: object) -> str:
        """A plain value, or the number of an object."""
        cls = type(value)
        if cls in _PLAIN:
            shown = repr(value)
            return f"<{cls.__name__} {shown if len(shown) < _SHOWN else text_hash(shown)}>"
        if cls is tuple:
            return f"({','.join(map(self._token, value))})"  # type: ignore[call-overload]
        if cls is frozenset or cls is set:
            return f"{{{','.join(self._sorted(value))}}}"  # type: ignore[arg-type]
        if cls is CodeType:
            return self._code(value)
        return f"#{self._number(value)}"

    def _number(self, value: object) -> int:
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self.seen)
            self.seen.append(value)  # kept, so that its id is given to no other
            self._waiting.append(value)
        return self._numbers[id(value)]

    def _sorted(self, values: set[object] | frozenset[object]) -> list[str]:
        """The elements of a set in an order that does not change with the process."""
        plain = [self._token(value) for value in values if type(value) in _PLAIN]
        others = [value for value in values if type(value) not in _PLAIN]
        keyed = sorted(((ObjectHash(self._opaque).of(value), value) for value in others), key=lambda pair: pair[0])
        return [*sorted(plain), *(f"{key}{self._token(value)}" for key, value in keyed)]

    def _code(self, code: object) -> str:
        """Code by its content: compilers and caches of bytecode share equal constants or not, as they please."""
        if id(code) not in self._codes:
            self.seen.append(code)
            self._codes[id(code)] = text_hash(self._token(code_parts(code)))  # type: ignore[arg-type]
        return self._codes[id(code)]
