"""Every module's inputs and outputs in the course of a training, as fingerprints: where two trainings first compute something else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from harness.properties.tracing import fields_of, hooked
from harness.training.checks.fingerprint import fingerprint


@dataclass(frozen=True)
class Entry:
    """One call of a module.

    Attributes:
        module: Its path, ``(model)`` for the root.
        given: Fingerprint of its arguments.
        returned: Fingerprint of what it returned.
    """

    module: str
    given: str
    returned: str


@contextmanager
def tracing(model: nn.Module) -> Iterator[list[Entry]]:
    """Takes down every call of a module, in the order in which they finish."""
    finished: list[Entry] = []
    running: list[str] = []

    def enter(_path: str, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        running.append(_of_tensors((args, kwargs)))

    def leave(path: str, output: Any) -> None:
        finished.append(Entry(path, running.pop(), _of_tensors(fields_of(output))))

    with hooked(model, enter, leave):
        yield finished


def first_other(left: list[Entry], right: list[Entry]) -> str:
    """Path of the first module that returns something else though it was given the same; empty where there is none."""
    others = dict(_numbered(right))
    fallback = ""
    for key, entry in _numbered(left):
        other = others.get(key)
        if other is None or entry.returned == other.returned:
            continue
        if entry.given == other.given:
            return entry.module
        fallback = fallback or entry.module
    return fallback


def _numbered(entries: list[Entry]) -> Iterator[tuple[tuple[str, int], Entry]]:
    seen: Counter[str] = Counter()
    for entry in entries:
        yield (entry.module, seen[entry.module]), entry
        seen[entry.module] += 1


def _of_tensors(tree: Any) -> str:
    return fingerprint([leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)])
