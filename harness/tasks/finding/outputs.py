"""The outputs of a signature: their axes, as they follow from those of the inputs, and what they mean, from their values and their functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from harness.tasks.axes import BATCH, MEASURED, Size, most_drawn
from harness.tasks.finding.formulas import fitted, product, undecided
from harness.tasks.finding.inputs import FoundInputs
from harness.tasks.finding.returned import is_there, names_of, tensors_in

_SECONDS = 3.0
"""For the sizes of the outputs; of a slower model only as many as a formula needs are tried after that."""

_FEW_SIZES = 4
"""Sizes that must agree on a formula."""

_MORE_SIZES = 30
"""Further sizes of an axis, each chosen because formulas that fit the others differ there."""


class FoundOutputs:
    """Gathers the outputs.

    Attributes:
        keys: The key ``outputs`` of a config.
        axes: The axes that follow from those of inputs.
        reasons: What each was read from, by the path of its key.
        names: The outputs' names by key or place in what forward returns.
    """

    def __init__(self, inputs: FoundInputs) -> None:
        self._inputs = inputs
        self._call = inputs.call
        self._call.begin(_SECONDS)
        self.keys: dict[str, dict[str, Any]] = {}
        self.axes: dict[str, dict[str, Any]] = {}
        self.reasons: dict[str, str] = {}
        self.names: dict[str, str] = {}
        self._left: dict[str, list[int]] = {}
        self._find()

    def _constant(self, sizes: Mapping[str, int], raws: Iterable[str]) -> set[str]:
        """The outputs that are the same for other inputs, with other weights too; none of a model that reads none of its inputs."""

        def same(raws: Iterable[str]) -> set[str]:
            one, other = (self._inputs.tried(sizes, seed=seed) or {} for seed in (0, 1))
            tensors = {raw for raw in raws if isinstance(one.get(raw), Tensor) and isinstance(other.get(raw), Tensor)}
            return {raw for raw in tensors if torch.equal(one[raw], other[raw])}

        if not (found := same(raws)) or found == set(raws):  # the latter is for the suite to say
            return set()
        with self._call.with_other_weights():
            return same(found)

    def _find(self) -> None:
        """Finds the axes of every output and what it means."""
        typical = self._inputs.typical()
        base = self._inputs.tried(typical)
        if base is None:  # sizes that each axis may have, but not all together
            typical, base = dict(self._inputs.sizes), self._inputs.tried({}) or self._call.outputs
        seen = {axis: self._seen(axis, typical) for axis in self._inputs.sizes}
        self._call.begin(_SECONDS)
        self._left = {axis: self._see_more(axis, typical, found) for axis, found in seen.items()}
        names = self.names = names_of(self._call.forward, list(self._call.outputs))
        present = [name for name, value in self._call.outputs.items() if is_there(value)]
        present = [name for name in present if not self._is_input(name, self._call.outputs[name])] or present
        shapes = {raw: self._output_axes(raw, base[raw], typical, seen) for raw in present if isinstance(base[raw], Tensor)}
        lengths = {raw: axis for raw in shapes if (axis := self._lengths_of(raw, shapes, seen))}
        constant = self._constant(typical, shapes)
        for raw in present:
            name, value, axes = names[raw], self._call.outputs[raw], shapes.get(raw, [])
            keys, why = keys_of(name, value, axes, self._call.trace.promises.get(raw, ""))
            if raw in self._inputs.states:
                keys, why = {"kind": "state"}, "the next call takes it"
            elif raw in lengths:
                keys, why = {"kind": "lengths", "of": lengths[raw]}, f"at several sizes the size of `{lengths[raw]}`"
            elif raw in constant:
                keys, why = (
                    {**keys, "kind": "other", "constant": True},
                    "it is the same for all inputs, so that no label could teach it",
                )
            self.keys[name] = {"axes": axes, **keys}
            self.reasons[f"outputs.{name}"] = why
        self._raise_smallest(shapes)
        self.keys = main_first(self.keys)
        for place, (name, keys) in enumerate(self.keys.items()):
            raw = next(key for key in present if names[key] == name)
            at, is_attribute, _ = raw.partition(".")
            if is_attribute or (raw.isdigit() and not name.isdigit() and int(raw) != place):
                keys["at"] = int(at)

    def _raise_smallest(self, shapes: Mapping[str, list[Size]]) -> None:
        """Raises the smallest sizes of axes where, all at their smallest, an output has another size than the one it has elsewhere."""
        rows = {BATCH: self._inputs.sizes[BATCH]} if BATCH in self._inputs.sizes else {}
        free = [name for name in self._inputs.sizes if name != BATCH]
        smallest = {name: _smallest(self._inputs.axes.get(name, {})) for name in free}
        if len(free) < 2 or self._has_fixed_sizes(self._inputs.tried({**smallest, **rows}), shapes):
            return
        larger = ({name: self._inputs.sizes[name]} for name in free)
        enough = next(
            (each for each in larger if self._has_fixed_sizes(self._inputs.tried({**smallest, **rows, **each}), shapes)), None
        )
        for name in enough or free:
            self._inputs.axes.setdefault(name, {})["min"] = self._inputs.sizes[name]
            self._inputs.reasons[f"axes.{name}"] = (
                f"sizes from {self._inputs.sizes[name]} work together with the smallest of others"
            )

    def _has_fixed_sizes(self, found: Mapping[str, Any] | None, shapes: Mapping[str, list[Size]]) -> bool:
        """Whether axes of outputs that are fixed have their sizes; also where nothing was returned, which says nothing of them."""
        return found is None or all(
            size == axis
            for raw, axes in shapes.items()
            if isinstance(value := found[raw], Tensor)
            for axis, size in zip(axes, value.shape, strict=False)
            if isinstance(axis, int)
        )

    def _is_input(self, name: str, value: Any) -> bool:
        """Whether an output is an input as it came, whatever the weights are, as where forward returns the dict that it was given."""
        if not isinstance(value, Tensor) or not any(torch.equal(value, each) for each in self._call.inputs.values()):
            return False
        with self._call.with_other_weights():
            other = (self._call.tried(self._call.inputs) or {}).get(name)
        return not isinstance(other, Tensor) or torch.equal(value, other)

    def _seen(self, axis: str, typical: Mapping[str, int]) -> dict[int, dict[str, Any]]:
        """What is returned for several sizes of one axis."""
        keys = self._inputs.axes.get(axis, {})
        step, most, least = keys.get("multiple_of", 1), keys.get("max"), keys.get("min", 1)
        size = typical[axis]
        tries = dict.fromkeys(
            [size, size + step, 2 * size, *(size + n * step for n in (2, 3, 5, -1, -2, -3)), 3 * size, self._inputs.sizes[axis]]
        )
        allowed = [n for n in tries if n >= max(least, 2) and (most is None or n <= most)]
        allowed = [n for n in allowed if self._inputs.has_all_groups({**typical, axis: n})]
        found: dict[int, dict[str, Any]] = {}
        for n in allowed:
            if self._call.is_over and len(found) >= _FEW_SIZES:
                break
            if (outputs := self._inputs.tried({**typical, axis: n})) is not None:
                found[n] = outputs
        return found

    def _see_more(self, axis: str, typical: Mapping[str, int], seen: dict[int, dict[str, Any]]) -> list[int]:
        """Adds what is returned for sizes that tell formulas apart; returns the sizes that could still be tried."""
        keys = self._inputs.axes.get(axis, {})
        least, step = keys.get("min", 1), keys.get("multiple_of", 1)
        farthest = max(least + most_drawn(least, step), 2 * self._inputs.sizes[axis])
        sizes = range(max(least, 2), min(farthest, keys.get("max") or farthest) + 1)
        left = [n for n in sizes if n % step == 0 and self._inputs.has_all_groups({**typical, axis: n})]
        for _ in range(_MORE_SIZES):
            n = None if self._call.is_over else _telling(seen, left)
            if n is None:
                break
            left.remove(n)
            if (outputs := self._inputs.tried({**typical, axis: n})) is not None:
                seen[n] = outputs
        return left

    def _lengths_of(self, raw: str, shapes: Mapping[str, list[Size]], seen: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> str:
        """The axis of an output whose size another output is, whatever the sizes of the inputs are."""
        if shapes[raw] != [BATCH] or self._call.outputs[raw].is_floating_point():
            return ""
        calls = [outputs for by_size in seen.values() for outputs in by_size.values()]
        for other, axes in shapes.items():
            for place, axis in enumerate(axes):
                sizes = {outputs[other].shape[place] for outputs in calls}
                may_be = isinstance(axis, str) and axis != BATCH and len(sizes) > 1 and other != raw
                if may_be and all(bool((outputs[raw] == outputs[other].shape[place]).all()) for outputs in calls):
                    return str(axis)
        return ""

    def _output_axes(
        self, raw: str, value: Tensor, typical: Mapping[str, int], seen: Mapping[str, Mapping[int, Mapping[str, Any]]]
    ) -> list[Size]:
        """The axes of an output: fixed, an input's, or one that follows from inputs'."""
        axes: list[Size] = []
        for place, size in enumerate(value.shape):
            changes: dict[str, dict[int, int]] = {}
            for axis, by_size in seen.items():
                sizes = {n: outputs[raw].shape[place] for n, outputs in by_size.items() if isinstance(outputs[raw], Tensor)}
                if len(set(sizes.values())) > 1:
                    changes[axis] = sizes
            axes.append(self._output_axis(size, changes, typical, raw in self._inputs.rows_inside) if changes else size)
        return axes

    def _output_axis(self, size: int, changes: dict[str, dict[int, int]], typical: Mapping[str, int], rows_inside: bool) -> str:
        if rows_inside and BATCH in changes:  # the outer axis is the first factor
            changes = {**{axis: sizes for axis, sizes in changes.items() if axis != BATCH}, BATCH: changes.pop(BATCH)}
        if len(changes) == 1:
            ((axis, sizes),) = changes.items()
            if all(n == found for n, found in sizes.items()):
                return axis
            is_known = len(sizes) >= _FEW_SIZES and undecided(sizes, self._left[axis]) is None
            formula = fitted(axis, sizes) if is_known else None
            factor, times, rest = (formula or "").partition(" * ")
            if times and rest == BATCH and not rows_inside:
                formula = f"{BATCH} * {factor}"
        else:
            formula = product(list(changes.items()), typical, size)
        known = {keys["from"]: name for name, keys in self.axes.items() if "from" in keys}
        if formula in known and formula is not None:
            return known[formula]
        stem = "_".join(changes)
        name = next(
            n for n in (f"{stem}_out", *(f"{stem}_out{k}" for k in range(2, 99))) if n not in self._inputs.axes | self.axes
        )
        self.axes[name] = {"from": formula or MEASURED}
        self.reasons[f"axes.{name}"] = (
            f"fits {len(next(iter(changes.values())))} sizes that were tried"
            if formula
            else "no formula is sure after the sizes that were tried"
        )
        return name


def _telling(found: Mapping[int, Mapping[str, Any]], sizes: Sequence[int]) -> int | None:
    """A size at which the formulas that fit an axis of some output differ; ``None`` where there is none."""
    for raw, value in next(iter(found.values()), {}).items():
        for place in range(value.ndim if isinstance(value, Tensor) else 0):
            seen = {n: outputs[raw].shape[place] for n, outputs in found.items() if _has_place(outputs[raw], place)}
            if len(set(seen.values())) > 1 and (size := undecided(seen, sizes)) is not None:
                return size
    return None


def _has_place(value: Any, place: int) -> bool:
    return isinstance(value, Tensor) and value.ndim > place


_RANGES = {"sigmoid": [0.0, 1.0], "tanh": [-1.0, 1.0]}


def keys_of(name: str, value: Any, axes: Sequence[Size], promise: str) -> tuple[dict[str, Any], str]:
    """The keys of the config that declare an output, without its axes, and what they were read from.

    Args:
        name: Its name.
        value: What the example gave.
        axes: Its axes.
        promise: The function it comes from: ``sigmoid``, ``tanh``, ``normalize``, or none.
    """
    if not isinstance(value, Tensor):
        shapes = ", ".join(str(list(tensor.shape)) for tensor in tensors_in(value))
        return {"kind": "state"}, f"a {type(value).__name__} of tensors {shapes}"
    if not value.ndim and "loss" in name.lower():
        return {"kind": "loss"}, "a single number, by its name"
    if not value.ndim:
        return {"kind": "other"}, "a single number for all rows: only its shape is promised"
    if value.numel() == 1 and not any(isinstance(axis, str) for axis in axes):
        return {"kind": "other"}, "a single number for all rows: only its shape is promised"
    if not value.is_floating_point():
        return {"kind": "other"}, f"{str(value.dtype).removeprefix('torch.')}: only its shape is promised"
    classes = _adds_up_along(value.exp()) if not bool((value > 0).any()) else None
    if classes is not None and isinstance(axes[classes], int):
        position = classes - value.ndim
        keys = {"kind": "class_scores"} | ({} if position == -1 else {"classes": position})
        return keys, f"the exponentials of its values add up to 1 along the axis {position}: logarithms of probabilities"
    along = _adds_up_along(value)
    if along is not None:
        if isinstance(axes[along], int):
            position = along - value.ndim
            return {"kind": "probabilities", "classes": position}, f"its values add up to 1 along the axis {position}"
        return {"kind": "other", "range": [0.0, 1.0]}, f"its values add up to 1 along `{axes[along]}`, as attention does"
    if promise in _RANGES:
        return {"range": _RANGES[promise]}, f"it comes from {promise}"
    if has_unit_vectors(value):
        return {"kind": "embedding", "norm": 1.0}, "its vectors have norm 1"
    return {}, "numbers; if they are scores of classes, say `kind: class_scores`"


def main_first(outputs: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The outputs with the one that is judged where one is enough first: neither a loss, nor a state, nor whole numbers."""
    last = ("loss", "state", "other")
    main = next((name for name, keys in outputs.items() if keys.get("kind") not in last and BATCH in keys["axes"]), None)
    main = main or next((name for name, keys in outputs.items() if keys.get("kind") not in last), None)
    return outputs if main is None else {main: outputs[main], **{k: v for k, v in outputs.items() if k != main}}


def has_unit_vectors(value: Tensor) -> bool:
    """Whether the vectors along the last axis have length 1, as embeddings do.

    Entries that are all nearly one number, such as four that a fresh sigmoid leaves at 0.5, say nothing.

    Args:
        value: An output.
    """
    if value.ndim < 2 or value.shape[-1] < 2:
        return False
    is_level = torch.allclose(value, value.mean(dim=-1, keepdim=True).expand_as(value), atol=0.05)
    return not is_level and torch.allclose(value.norm(dim=-1), torch.ones_like(value[..., 0]), atol=1e-4)


def _adds_up_along(value: Tensor) -> int | None:
    """The axis along which all values are positive and add up to 1; the last one where several do."""
    if not value.numel() or not bool((value >= 0).all()):
        return None
    for along in reversed(range(value.ndim)):
        total = value.sum(along)
        if value.shape[along] > 1 and torch.allclose(total, torch.ones_like(total), atol=1e-4):
            return along
    return None


def _smallest(keys: Mapping[str, Any]) -> int:
    """The smallest size of an axis."""
    least, step = keys.get("min", 1), keys.get("multiple_of", 1)
    return int(-(-least // step) * step)
