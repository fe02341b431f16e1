"""A promise: how its violations are listed."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from .side import Side

Violations = Callable[[Side], Iterable[str]]
"""Names what of a promise does not hold of a model; the same name for the same violation."""

PROMISES: dict[str, list[Violations]] = {}
"""The promises by their name in the catalogue."""


def promise(name: str) -> Callable[[Violations], Violations]:
    """Registers a way to find violations of a promise."""

    def decorate(violations: Violations) -> Violations:
        PROMISES.setdefault(name, []).append(violations)
        return violations

    return decorate
