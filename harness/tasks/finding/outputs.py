"""The outputs of a signature: their axes, as they follow from those of the inputs, and what they mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from harness.tasks.axes import BATCH, MEASURED, Size
from harness.tasks.finding.calling import is_there
from harness.tasks.finding.formulas import fitted, product
from harness.tasks.finding.inputs import FoundInputs
from harness.tasks.finding.returned import keys_of, main_first, names_of

_SECONDS = 3.0
"""For the sizes of the outputs; of a slower model only as many as a formula needs are tried after that."""

_FEW_SIZES = 4
"""Sizes that must agree on a formula."""


class FoundOutputs:
    """Gathers the outputs.

    Attributes:
        keys: The key ``outputs`` of a config.
        axes: The axes that follow from those of inputs.
        reasons: What each was read from, by the path of its key.
    """

    def __init__(self, inputs: FoundInputs) -> None:
        self._inputs = inputs
        self._call = inputs.call
        self._call.begin(_SECONDS)
        self.keys: dict[str, dict[str, Any]] = {}
        self.axes: dict[str, dict[str, Any]] = {}
        self.reasons: dict[str, str] = {}
        self._find()

    def _find(self) -> None:
        """Finds the axes of every output and what it means."""
        typical = self._inputs.typical()
        base = self._inputs.tried(typical)
        if base is None:  # sizes that each axis may have, but not all together
            typical, base = dict(self._inputs.sizes), self._inputs.tried({}) or self._call.outputs
        seen = {axis: self._seen(axis, typical) for axis in self._inputs.sizes}
        names = names_of(self._call.forward, list(self._call.outputs))
        present = [name for name, value in self._call.outputs.items() if is_there(value)]
        present = [name for name in present if not self._is_input(self._call.outputs[name])] or present
        shapes = {raw: self._output_axes(raw, base[raw], typical, seen) for raw in present if isinstance(base[raw], Tensor)}
        lengths = {raw: axis for raw in shapes if (axis := self._lengths_of(raw, shapes, seen))}
        other = self._inputs.tried(typical, seed=1) or {}
        is_constant = {raw: torch.equal(base[raw], value) for raw in shapes if isinstance(value := other.get(raw), Tensor)}
        if all(is_constant.values()):  # a model that reads none of its inputs: that is for the suite to say
            is_constant = dict.fromkeys(is_constant, False)
        for raw in present:
            name, value, axes = names[raw], self._call.outputs[raw], shapes.get(raw, [])
            keys, why = keys_of(name, value, axes, self._call.trace.promises.get(raw, ""))
            if raw in self._inputs.states:
                keys, why = {"kind": "state"}, "the next call takes it"
            elif raw in lengths:
                keys, why = {"kind": "lengths", "of": lengths[raw]}, f"at several sizes the size of `{lengths[raw]}`"
            elif isinstance(value, Tensor) and is_constant.get(raw):
                keys, why = {**keys, "constant": True}, "it is the same for all inputs"
            self.keys[name] = {"axes": axes, **keys}
            self.reasons[f"outputs.{name}"] = why
        order = list(self._call.outputs)
        self.keys = main_first(self.keys)
        for place, (name, keys) in enumerate(self.keys.items()):
            raw = next(key for key in present if names[key] == name)
            if raw.isdigit() and not name.isdigit() and order.index(raw) != place:
                keys["at"] = int(raw)

    def _is_input(self, value: Any) -> bool:
        """Whether an output is an input as it came, as where forward returns the dict that it was given with more in it."""
        return isinstance(value, Tensor) and any(torch.equal(value, each) for each in self._call.inputs.values())

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
            axes.append(self._output_axis(size, changes, typical) if changes else size)
        return axes

    def _output_axis(self, size: int, changes: dict[str, dict[int, int]], typical: Mapping[str, int]) -> str:
        if len(changes) == 1:
            ((axis, sizes),) = changes.items()
            if all(n == found for n, found in sizes.items()):
                return axis
            formula = fitted(axis, sizes) if len(sizes) >= _FEW_SIZES else None
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
            else "no formula fits the sizes that were tried"
        )
        return name
