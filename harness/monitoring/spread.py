"""How far the windows of a reference differ from each other, though nothing is wrong with them: beside chance, drift is judged by that.

Rows of one day resemble each other: Mondays, rain and campaigns are no drift, and are no chance within a day either. A test that knows only
the chance within a window finds real days drifted, most of them. So each window that is known to be sound, such as a day of the reference, is
compared with the others as a new one will be, and what comes of that is what is usual.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.monitoring import DriftOptions
from harness.monitoring.features import Difference, FeatureCounter
from harness.monitoring.features.counts import CategoricalCounts, NumericCounts
from harness.monitoring.features.kinds import kind_of
from harness.monitoring.features.new_levels import NEW_LEVELS
from harness.monitoring.features.ranges import DATE, span_of
from harness.monitoring.features.values import Block
from harness.monitoring.joint import FEWEST_BEFORE, JOINT, WHOLE_ROWS, RowsKept, joint_effects
from harness.monitoring.profiles import Profile
from harness.monitoring.profiles.tables import ColumnGroup, cells, column_groups, column_of, window_blocks
from harness.monitoring.profiles.windows import FEWEST_ROWS, FEWEST_WINDOWS, ChosenWindows, window_column, window_labels
from harness.monitoring.row_sample import RowSample, moved_correlations
from harness.monitoring.statistics import Usual

if TYPE_CHECKING:
    from harness.data.dataset import Dataset
    from harness.experiments.records import WindowRecord

SPREAD = "spread"
"""What a profile keeps of its windows, in ``meta``."""

EFFECTS = "effects"
"""What the database keeps of a window for that, in its result."""

FIRST_WINDOWS = 30
"""So many windows after a reference tell what is usual where its own do not. Later ones do not, or a slow drift would become usual."""

_DIGITS = 4

Effects = Mapping[str, Mapping[str, tuple[float, float]]]
"""By feature and aspect how large a difference was, less its value without any, and what chance alone makes of its square."""


@dataclass(frozen=True)
class WindowSpread:
    """How windows differ that are sound.

    Attributes:
        windows: How many there are.
        name: What they are: ``31 days of the reference``.
        features: By feature and aspect; an aspect that is lacking differed in none of them.
    """

    windows: int
    name: str
    features: Mapping[str, Mapping[str, Usual]]

    def of(self, difference: Difference) -> Usual | None:
        """What is usual of a difference; ``None`` where nobody knows."""
        known = self.features.get(difference.feature)
        if known is None or not difference.is_tested or difference.is_never_usual:
            return None
        if difference.aspect == NEW_LEVELS and difference.aspect not in known:
            return None  # the windows of a reference have no levels that it does not know
        return known.get(difference.aspect, Usual((0.0,) * self.windows))

    def of_aspect(self, aspect: str) -> dict[str, Usual]:
        """What is usual of one aspect, by feature."""
        return {name: aspects[aspect] for name, aspects in self.features.items() if aspect in aspects}

    @property
    def of_rows(self) -> tuple[Usual | None, str]:
        """How well the rows of sound windows are told as a whole, if that is known, and what these windows are."""
        return self.of_aspect(JOINT).get(WHOLE_ROWS), self.name

    @staticmethod
    def of_effects(windows: Iterable[Effects], name: Callable[[int], str]) -> WindowSpread | None:
        """The spread of windows whose differences are known; ``None`` where they are too few.

        A feature that a window lacks is usual as in the others; one that too few have is unknown.

        Args:
            windows: What ``effects_of`` gives of each.
            name: What they are, told how many there are.
        """
        found: dict[str, list[Mapping[str, tuple[float, float]]]] = {}
        count = 0
        for effects in windows:
            count += 1
            for feature, aspects in effects.items():
                found.setdefault(feature, []).append(aspects)
        features = {name: _usual(each) for name, each in found.items() if len(each) >= FEWEST_WINDOWS}
        return WindowSpread(count, name(count), features) if features else None

    @staticmethod
    def of_profile(profile: Profile) -> WindowSpread | None:
        """What a reference keeps of its windows; ``None`` where it keeps nothing."""
        kept = profile.meta.get(SPREAD)
        if kept is None:
            return None
        features = {
            name: {aspect: Usual(tuple(effects), noise) for aspect, (effects, noise) in aspects.items()}
            for name, aspects in kept["features"].items()
        }
        return WindowSpread(int(kept["windows"]), str(kept["name"]), features)

    def to_json(self) -> dict[str, Any]:
        """The spread as JSON values."""
        features = {
            name: {aspect: [list(usual.effects), usual.noise] for aspect, usual in aspects.items()}
            for name, aspects in self.features.items()
        }
        return {"windows": self.windows, "name": self.name, "features": features}


def _usual(windows: list[Mapping[str, tuple[float, float]]]) -> dict[str, Usual]:
    """Of one feature, by aspect; an aspect that a window lacks did not differ there."""
    found = {}
    for aspect in dict.fromkeys(aspect for each in windows for aspect in each):
        pairs = [each.get(aspect, (0.0, 0.0)) for each in windows]
        effects = sorted(round(effect, _DIGITS) for effect, _ in pairs)
        found[aspect] = Usual(tuple(effects), sum(noise for _, noise in pairs) / len(pairs))
    return found


def effects_of(differences: Iterable[Difference]) -> dict[str, dict[str, tuple[float, float]]]:
    """How large differences are, by feature and aspect; what could not be tested is left out."""
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for each in differences:
        aspects = found.setdefault(each.feature, {})
        if each.is_tested:
            aspects[each.aspect] = (round(each.size, _DIGITS), float(f"{each.noise:.3g}"))
    return found


_ONLY_EFFECTS = DriftOptions(draws=0)


def window_effects(whole: Profile, windows: Mapping[str, Profile], *, in_order: bool) -> dict[str, Effects]:
    """How far each window is from others, by its label.

    A new window comes after all of a reference. Where windows have an order, each is compared with those before it, so that what rises and falls
    with the season is usual; the first ones, which have too few before them, with all others.

    Args:
        whole: The rows of all windows, and perhaps others.
        windows: Each by itself, on the same scales, perhaps with fewer features.
        in_order: Whether they come after each other as their labels do.
    """
    found: dict[str, Effects] = {}
    before: Profile | None = None
    for place, label in enumerate(sorted(windows)):
        window = windows[label]
        if before is not None and in_order and place >= FEWEST_BEFORE and before.features.keys() >= window.features.keys():
            found[label] = _effects(before, window)
        elif 0 < window.n < whole.n:
            found[label] = _effects(whole.less(window), window)
        before = window if before is None or before.features.keys() != window.features.keys() else before.merge(window)
    return found


def _effects(others: Profile, window: Profile) -> Effects:
    return effects_of(
        difference
        for name, feature in window.features.items()
        for difference in kind_of(feature).compare(
            name, _without_once(others.features[name]), _without_once(feature), _ONLY_EFFECTS
        )
    )


def _without_once(feature: Any) -> Any:
    """The levels that the whole saw once are those of one of its windows, which therefore has no new ones."""
    return replace(feature, once=None) if isinstance(feature, CategoricalCounts) else feature


def window_profiles(blocks: Iterable[tuple[str, Block]], whole: Profile, chosen: ChosenWindows) -> dict[str, Profile]:
    """The profiles of the windows that are chosen, by label.

    Args:
        blocks: Rows by the window that they are in.
        whole: On whose scales they are counted.
        chosen: Which windows are wanted, once all rows were read.
    """
    rows: dict[str, int] = {}
    counters: dict[str, dict[str, FeatureCounter]] = {}
    for label, block in blocks:
        if label not in counters:
            counters[label] = {name: kind_of(each).counter(each) for name, each in whole.features.items() if name in block.values}
        rows[label] = rows.get(label, 0) + block.rows
        for name, counter in counters[label].items():
            counter.add(block.counted(name))
    return {
        label: Profile.of(rows[label], {name: each.result() for name, each in found.items()}, whole.meta)
        for label, found in counters.items()
        if label in chosen
    }


def own_windows(profile: Profile) -> str | None:
    """``ordered:day``, of the only column of dates where its days or weeks are enough windows of enough rows; otherwise ``None``.

    A table is read once more for that, which takes up to three times as long, so it has to be asked for of a large one.
    """
    dates = {name: each for name, each in profile.features.items() if isinstance(each, NumericCounts) and each.unit == DATE}
    if len(dates) != 1 or profile.n * len(profile.features) > _MOST_VALUES:
        return None
    name, moments = next(iter(dates.items()))
    first, last = span_of(moments) if moments.finite else (0.0, 0.0)
    for unit, days in (("day", 1), ("week", 7)):
        count = (last - first) / (days * _DAY)
        if count >= FEWEST_WINDOWS and profile.n >= FEWEST_ROWS * count:
            return f"{name}:{unit}"
    return None


_DAY = 86_400e6  # microseconds
_MOST_VALUES = 50_000_000


def spread_of_table(data: Any, whole: Profile, kept: Mapping[str, Any], asked: str) -> WindowSpread | None:
    """How the windows differ that a table is made of, which is read by groups of columns once more.

    Args:
        data: The table.
        whole: Its profile.
        kept: What is kept of its columns, and of which go together.
        asked: The column of its windows, as ``window_column`` takes it.

    Raises:
        ProfileError: There is no such column, or the windows are too few or too small.
    """
    (column, unit), columns = window_column(asked), kept["columns"]
    is_of_dates = bool(unit) or getattr(whole.features.get(column), "unit", "") == DATE
    stride = max(1, whole.n // _ENOUGH_ROWS)
    effects: dict[str, dict[str, Any]] = {}
    samples: dict[str, RowSample] = {}
    for number, (part, names) in enumerate(column_groups(data)):
        known = whole.only(name for name in whole.features if column_of(name, columns) in names)
        if not known.features:
            continue
        if isinstance(part, ColumnGroup) and column not in names:
            part = replace(part, names=(*names, column))
        chosen = ChosenWindows()
        blocks = window_blocks(part, {name: each.kind for name, each in known.features.items()}, asked, chosen, stride)
        found = window_profiles(_sampled(blocks, samples) if not number else blocks, known, chosen)
        chosen.check(asked)
        for label, of_window in window_effects(known, found, in_order=is_of_dates).items():
            effects.setdefault(label, {}).update(of_window)
    for label, sample in samples.items():
        if label in effects:
            effects[label].update(moved_correlations(kept, sample))
    if JOINT in kept:
        rows = {label: sample.rows_kept() for label, sample in samples.items() if label in effects}
        for label, of_rows in joint_effects(rows, in_order=is_of_dates).items():
            effects[label].update(of_rows)
    return WindowSpread.of_effects(effects.values(), _said(column, unit, is_of_dates=is_of_dates))


_ENOUGH_ROWS = 300_000
"""So many rows of all windows together say how far these differ."""

_SAMPLED = 1024
"""Rows of a window by which it is known which columns go together in it."""


def _sampled(blocks: Iterable[tuple[str, Block]], samples: dict[str, RowSample]) -> Iterator[tuple[str, Block]]:
    for label, block in blocks:
        samples.setdefault(label, RowSample(_SAMPLED, has_hashes=False)).add(block)
        yield label, block


def spread_of_dataset(
    data: Dataset,
    whole: Profile,
    asked: str,
    measured: Callable[[Dataset], Profile],
    rows_kept: Callable[[Dataset], RowsKept] | None = None,
) -> WindowSpread | None:
    """How the windows differ that a dataset is made of.

    Args:
        data: The rows.
        whole: Their profile.
        asked: The column of the windows, as ``window_column`` takes it.
        measured: The profile of some of the rows, on the same scales.
        rows_kept: Some of them as they are, where rows are compared as a whole.

    Raises:
        DataError: There is no such column.
        ProfileError: The windows are too few or too small, or a unit is asked for and they are no dates.
    """
    name, unit = window_column(asked)
    values = cells(data.column(name))
    labels, chosen = window_labels(values, unit), ChosenWindows()
    for label, count in zip(*(each.tolist() for each in np.unique(labels[labels != ""], return_counts=True)), strict=True):
        chosen.add(label, count)
    chosen.check(asked)
    rows = {label: np.flatnonzero(labels == label).tolist() for label in chosen.sizes if label in chosen}
    windows = {label: measured(data.chosen(numbers)) for label, numbers in rows.items()}
    is_of_dates = values.dtype.kind == "M"
    effects = window_effects(whole, windows, in_order=is_of_dates)
    if rows_kept is not None:
        wholes = joint_effects({label: rows_kept(data.chosen(numbers)) for label, numbers in rows.items()}, in_order=is_of_dates)
        effects = {label: {**each, **wholes[label]} for label, each in effects.items()}
    return WindowSpread.of_effects(effects.values(), _said(name, unit, is_of_dates=is_of_dates))


def _said(column: str, unit: str | None, *, is_of_dates: bool) -> Callable[[int], str]:
    what = f"{unit or 'day'}s" if is_of_dates else f"values of `{column}`"
    return lambda count: f"{count} {what} of the reference"


def with_spread(profile: Profile, spread: WindowSpread | None) -> Profile:
    """A profile that keeps how its windows differ; or nothing of that."""
    meta = {key: value for key, value in profile.meta.items() if key != SPREAD}
    return replace(profile, meta=meta if spread is None else {**meta, SPREAD: spread.to_json()})


def spread_of_windows(profiles: Sequence[Profile]) -> WindowSpread | None:
    """How the windows differ that a reference is merged of, in the order of their time."""
    names = set.intersection(*(set(each.features) for each in profiles))
    windows = {f"{place:06}": each.only(names) for place, each in enumerate(profiles)}
    whole = reduce(Profile.merge, windows.values())
    return WindowSpread.of_effects(
        window_effects(whole, windows, in_order=True).values(), lambda count: f"{count} earlier windows"
    )


def first_windows(windows: Iterable[WindowRecord]) -> WindowSpread | None:
    """How the first windows differ from the reference that they were compared with; ``None`` where they are too few."""
    kept = [one.result[EFFECTS] for one in windows if EFFECTS in one.result]
    found = WindowSpread.of_effects(kept[:FIRST_WINDOWS], lambda count: f"the first {count} windows")
    if found is None:
        return None
    features = {
        name: {aspect: _without_outliers(each) for aspect, each in aspects.items()} for name, aspects in found.features.items()
    }
    return replace(found, features=features)


_OUTLIER = 6.0
"""Times the median: four standard deviations of a normal distribution."""

_MOST_OUTLIERS = 0.1


def _without_outliers(usual: Usual) -> Usual:
    """Nobody said that the first windows are sound, so a few of them that are far from the others do not count."""
    effects = usual.effects
    limit = _OUTLIER * effects[len(effects) // 2]
    most = int(_MOST_OUTLIERS * len(effects))
    dropped = min(most, sum(each > limit for each in effects)) if limit else 0
    return replace(usual, effects=effects[: len(effects) - dropped])
