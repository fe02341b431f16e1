"""Class labels: ids as they stand, or names that map to ids in sorted order."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from harness.data.record import Record
from harness.errors import DataError, did_you_mean


@dataclass(frozen=True)
class Classes:
    """What the labels of a task are called.

    Attributes:
        count: ``num_classes``.
        names: The classes by id; empty where the data has ids.
    """

    count: int
    names: tuple[str, ...] = ()

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {name: id for id, name in enumerate(self.names)}

    @staticmethod
    def of(source: str, labels: Iterable[tuple[Record, Any]], count: int) -> Classes:
        """Finds the classes in the labels of the training split; reads no further than the first where that is an id.

        Args:
            source: The file or dataset in messages.
            labels: Every label, with its row.
            count: How many classes the task has.

        Raises:
            DataError: The labels have more names than that.
        """
        names: set[str] = set()
        for _, label in labels:
            if not names and whole_number(label) is not None:
                return Classes(count)
            names.add(str(label))
            if len(names) > count:
                shown = ", ".join(repr(name) for name in sorted(names)[:8])
                raise DataError(f"{source}: the labels have more than {count} names (`num_classes`): {shown} …")
        return Classes(count, tuple(sorted(names)))

    def id_of(self, record: Record, label: Any, name: str = "label") -> int:
        """The id of a label.

        Args:
            record: The row it is from.
            label: The label.
            name: Its column, in messages.

        Raises:
            DataError: It is no class of the task.
        """
        if self.names:
            if str(label) not in self._ids:
                near = did_you_mean(label, self.names)
                raise record.refuse(f"`{name}` {label!r} is no class.{near} The classes are {', '.join(self.names)}")
            return self._ids[str(label)]
        number = whole_number(label)
        if number is None:
            raise record.refuse(f"`{name}` must be a class id (a whole number, as the first label is), got {label!r}")
        if not 0 <= number < self.count:
            raise record.refuse(f"`{name}` {number} is out of range: `num_classes` {self.count} allows 0 to {self.count - 1}")
        return number


def whole_number(value: Any) -> int | None:
    """A whole number in whatever form files hold one (``3``, ``"3"``, ``3.0``), or ``None``."""
    if isinstance(value, (Tensor, np.generic)):
        value = value.tolist()
    if isinstance(value, str):
        try:
            value = float(value) if "." in value else int(value)
        except ValueError:
            return None
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    return int(value) if isinstance(value, (int, bool)) else None
