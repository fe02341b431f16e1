"""Which rows a ``split`` names: a file of a folder, the rows of a ``split`` column, or a share of a file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from harness.data import Record, Source, count_rows
from harness.errors import DataError, did_you_mean

NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "dev", "eval"),
    "test": ("test", "testing"),
}
"""The splits, each with the names that files give it."""

_SHARE = re.compile(r"^(?P<name>[^\[\]]*)\[(?:(?P<low>\d+)%)?:(?:(?P<high>\d+)%)?\]$")


@dataclass(frozen=True)
class Split:
    """A split as the config names it.

    Attributes:
        name: ``train``, ``validation``, ``test``, or a name of the user's own.
        low: Where the share begins, in per cent.
        high: Where it ends.
    """

    name: str
    low: int = 0
    high: int = 100

    @staticmethod
    def parse(text: str, default: str) -> Split:
        """Reads ``test``, ``train[:80%]`` or ``[80%:]``.

        Raises:
            DataError: It is none of these, or no share.
        """
        if "[" not in text:
            return Split(text or default)
        match = _SHARE.match(text)
        low, high = (int(match["low"] or 0), int(match["high"] or 100)) if match else (0, 0)
        if match is None or not 0 <= low < high <= 100:
            raise DataError(f"`split`: {text!r} is not a share of the rows; write for example 'train[:80%]' and 'train[80%:]'")
        return Split(match["name"] or default, low, high)

    def __str__(self) -> str:
        return f"{self.name}[{self.low}%:{self.high}%]" if self.is_share else self.name

    @property
    def is_share(self) -> bool:
        """Whether only some of the rows are meant."""
        return (self.low, self.high) != (0, 100)

    def holds(self, number: int) -> bool:
        """Whether a row, by its number, is in the share.

        Rows are told by a hash of their number, so that a file sorted by class gives every share some of each.
        """
        if not self.is_share:
            return True
        digest = blake2b(number.to_bytes(8, "little"), digest_size=8).digest()
        return self.low <= int.from_bytes(digest, "little") % 10_000 / 100 < self.high

    def of(self, named: bool) -> str:
        """What is read of a file.

        Args:
            named: Whether the file tells its splits apart; if not, whatever is not a share is all of it.
        """
        return str(self) if named else f"[{self.low}%:{self.high}%]"

    def names(self, text: str) -> bool:
        """Whether a name in the data means this split."""
        return text == self.name or text.lower() in NAMES.get(self.name, ())


@dataclass(frozen=True)
class SplitRows:
    """The rows of a source that a split names.

    Attributes:
        source: Every row.
        split: Which are meant; where the rows have a ``split`` column, those with its name.
    """

    source: Source
    split: Split

    @property
    def name(self) -> str:
        """The file."""
        return self.source.name

    def count(self) -> int:
        """How many are meant."""
        first = next(iter(self.source), None)
        every = not self.split.is_share and (first is None or "split" not in first.fields)
        return count_rows(self.source) if every else sum(1 for _ in self)

    def __iter__(self) -> Iterator[Record]:
        """Those that are meant.

        Raises:
            DataError: No row of the ``split`` column has the name.
        """
        seen: dict[str, None] = {}
        count = 0
        for record in self.source:
            label = record.fields.get("split")
            if isinstance(label, str):
                seen[label] = None
                if not self.split.names(label):
                    continue
            if self.split.holds(count):
                yield record
            count += 1
        if seen and not any(self.split.names(label) for label in seen):
            raise DataError(
                f"`split`: the `split` column of {self.name} has no {self.split.name!r}."
                f"{did_you_mean(self.split.name, seen)} It has {', '.join(sorted(seen))}"
            )


def split_of_folder(folder: Path, split: Split, suffixes: tuple[str, ...]) -> Path:
    """The file or subfolder of a folder that holds a split; the folder itself where its entries are no splits.

    Raises:
        DataError: Every entry is a split, and none is this one.
    """
    entries = [entry for entry in sorted(folder.iterdir()) if not entry.name.startswith(".")]
    entries = [entry for entry in entries if entry.is_dir() or entry.suffix.lower() in suffixes]
    fitting = [entry for entry in entries if split.names(entry.stem)]
    if len(fitting) > 1:
        raise DataError(f"`path`: {folder.name} has the split {split.name!r} twice: {fitting[0].name} and {fitting[1].name}")
    folders = [entry for entry in entries if entry.is_dir()]
    # Or else of classes, whatever their names.
    of_splits = all(is_split(entry.name) for entry in folders if entry not in fitting)
    if fitting and (of_splits or fitting[0].is_file()):
        return fitting[0]
    if entries and of_splits:
        stems = [entry.stem for entry in entries]
        raise DataError(
            f"`split`: {folder.name} has no split {split.name!r}.{did_you_mean(split.name, stems)} It has {', '.join(stems)}"
        )
    return folder


def check_whole(name: str, split: Split) -> None:
    """Refuses an unusual split of a file that tells none apart, as that is likely a misspelt one.

    Raises:
        DataError: It is none of ``train``, ``validation`` and ``test``.
    """
    if not is_split(split.name):
        raise DataError(
            f"`split`: {name} has no splits, so no {split.name!r}.{did_you_mean(split.name, NAMES)} "
            "Leave it out to read all rows, or write a share such as 'train[:80%]'"
        )


def is_split(name: object) -> bool:
    """Whether something is the name of a split."""
    return isinstance(name, str) and any(name.lower() in names for names in NAMES.values())
