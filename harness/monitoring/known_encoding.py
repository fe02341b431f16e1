"""How the rows of a reference were read: new rows are read in the same way, whichever classes they happen to hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from harness.data.columns import Classes
from harness.data.dataset import Dataset

NAME = "encoding"
"""The name under which it lies beside the profile."""


@dataclass(frozen=True)
class KnownEncoding:
    """The classes and the feature columns of a reference.

    Attributes:
        classes: ``None`` where the task has none.
        columns: Feature columns in order; empty where the features are no columns.
    """

    classes: Classes | None
    columns: tuple[str, ...]

    @classmethod
    def of(cls, data: Dataset) -> KnownEncoding:
        """How a dataset was read."""
        return cls(data.origin.classes, data.origin.encoder.columns)

    def to_json(self) -> dict[str, Any]:
        """The encoding as JSON values."""
        classes = self.classes
        return {"classes": classes and {"count": classes.count, "names": list(classes.names)}, "columns": list(self.columns)}

    @classmethod
    def from_json(cls, stored: Any) -> KnownEncoding | None:
        """The inverse of ``to_json``; ``None`` where something else is stored."""
        try:
            classes = stored["classes"]
            found = None if classes is None else Classes(int(classes["count"]), tuple(map(str, classes["names"])))
            return cls(found, tuple(map(str, stored["columns"])))
        except (KeyError, TypeError, ValueError):
            return None
