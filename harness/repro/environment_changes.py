"""What differs between the environment of a run and that of its rerun."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

_FACTS = (
    "python.version",
    "python.implementation",
    "platform.system",
    "platform.machine",
    "cpu.model",
    "cpu.capability",
    "torch.version",
    "torch.commit",
    "torch.cuda",
    "torch.cudnn",
    "torch.build",
    "threads.intra_op",
    "gpus",
    "variables",
)
"""What can change the last bits of a result. Other facts of a snapshot are for people to read."""

_ABSENT = "none"


@dataclass(frozen=True)
class EnvironmentChange:
    """A fact of the environment that was another one then.

    Attributes:
        name: Such as ``torch.version``, ``packages.numpy`` or ``variables.OMP_NUM_THREADS``.
        then: What it was when the run was trained, or bundled.
        now: What it is here.
    """

    name: str
    then: str
    now: str

    def to_json(self) -> dict[str, str]:
        """The change as JSON values."""
        return asdict(self)


def environment_changes(
    then: Mapping[str, Any], now: Mapping[str, Any], packages: Iterable[str]
) -> tuple[EnvironmentChange, ...]:
    """The facts that differ and that can change what is computed.

    Args:
        then: A snapshot. What it does not tell counts as another, since nobody can know that it was the same.
        now: A snapshot.
        packages: The distributions that training needs; the versions of others change nothing.
    """
    facts = (*_FACTS, *(f"packages.{name}" for name in packages))
    found: list[EnvironmentChange] = []
    for fact in facts:
        before, after = _at(then, fact), _at(now, fact)
        if before == after:
            continue
        if fact == "variables" and isinstance(before, Mapping) and isinstance(after, Mapping):
            found += [EnvironmentChange(f"{fact}.{name}", *pair) for name, pair in _changed(before, after).items()]
        else:
            found.append(EnvironmentChange(fact, _shown(before), _shown(after)))
    return tuple(found)


def _changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    names = sorted(before.keys() | after.keys())
    return {name: (_shown(before.get(name)), _shown(after.get(name))) for name in names if before.get(name) != after.get(name)}


def _at(snapshot: Mapping[str, Any], fact: str) -> Any:
    group, _, name = fact.partition(".")
    found = snapshot.get(group)
    return found.get(name) if name and isinstance(found, Mapping) else None if name else found


def _shown(value: Any) -> str:
    if value is None or value == []:
        return _ABSENT
    if isinstance(value, list) and all(isinstance(entry, Mapping) and "name" in entry for entry in value):
        return ", ".join(str(entry["name"]) for entry in value)
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:59]}…"
