"""The inputs of a signature: which of their axes are free, what they hold, and which sizes work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from harness.errors import ExampleError
from harness.tasks.axes import BATCH, Size
from harness.tasks.declared import read_signature
from harness.tasks.finding.calling import Call, Place, Tensors, resized
from harness.tasks.finding.contents import content_of, index_axis, is_group_of_each
from harness.tasks.finding.free_axes import Found, addressed_by, find_rows, find_ties, least_of, same, sizes_of
from harness.tasks.finding.returned import is_there, names_of, tensors_in
from harness.tasks.signature import Signature

_POSITIONS = {5: {2: "depth", 3: "height", 4: "width"}, 4: {2: "height", 3: "width"}}
"""Usual names of axes by their position, of inputs with so many axes."""

_UNBATCHED = {1: "height", 2: "width"}
"""Those of an input of three axes, none of which is of rows."""

_STATES = ("hidden", "state", "hx", "cache", "past", "h_0", "h0")
"""Parts of names of arguments that continue an earlier call."""


class FoundInputs:
    """Gathers the inputs, step by step, as one follows from the other.

    Attributes:
        call: The working call; labels and states that were found are no longer part of it.
        keys: The key ``inputs`` of a config.
        axes: The key ``axes``.
        sizes: The size that each free axis has in the example.
        reasons: What each was read from, by the path of its key.
        states: Outputs that the next call takes.
        rows_inside: Outputs that join another axis with the rows, and have those as the inner one.
    """

    def __init__(self, call: Call, axis_names: Mapping[str, Sequence[str]]) -> None:
        """Finds them.

        Raises:
            ExampleError: The model refuses random values of the shapes of the example.
        """
        self.call = call
        self.keys: dict[str, dict[str, Any]] = {}
        self.axes: dict[str, dict[str, Any]] = {}
        self.sizes: dict[str, int] = {}
        self.reasons = {f"inputs.{name}": f"left out: {why}" for name, why in call.dropped.items()}
        self.states: list[str] = []
        self.rows_inside: frozenset[str] = frozenset()
        self._axis_names = axis_names
        self._shapes: dict[str, list[Size]] = {name: list(tensor.shape) for name, tensor in call.inputs.items()}
        self._indices = {name: of for name in call.inputs if (of := index_axis(name, call.inputs))}
        self._groups = next((name for name in call.inputs if is_group_of_each(name, call.inputs)), "")
        self._name_axes()
        self._fill_inputs()
        self._check_random_values()
        self._find_sizes()
        self._find_optional()
        self._check_smallest()

    def tried(self, sizes: Mapping[str, int], seed: int = 0) -> dict[str, Any] | None:
        """What the model returns for random inputs, where its outputs have as many axes as in the example."""
        found = self.call.tried(self._batch(sizes, seed))
        if found is None:
            return None
        alike = all(_ndims(found[name]) == _ndims(value) for name, value in self.call.outputs.items())
        return found if alike else None

    @property
    def limits(self) -> list[str]:
        """What holds across axes: no group is empty."""
        elements = self._shapes[self._groups][0] if self._groups else None
        return [f"{BATCH} <= {elements}"] if isinstance(elements, str) else []

    def has_all_groups(self, sizes: Mapping[str, int]) -> bool:
        """Whether there are at least as many elements as groups, so that none is empty."""
        elements = self._shapes[self._groups][0] if self._groups else None
        return not isinstance(elements, str) or sizes[BATCH] <= sizes[elements]

    def typical(self) -> dict[str, int]:
        """A size for each free axis, no two of them alike."""
        return self._signature().typical_sizes()

    def _name_axes(self) -> None:
        """Gives each free axis a name in the inputs that have it."""
        tensors = self.call.inputs
        addressed = addressed_by(self.call, self._indices)
        rows = None if self._groups else find_rows(self.call, self._indices, addressed)
        if self._groups:
            self.sizes[BATCH] = int(tensors[self._groups].max()) + 1
            self.reasons[f"axes.{BATCH}"] = f"the groups that `{self._groups}` gives each element"
        elif rows is not None:
            for name, place in rows.places.items():
                self._shapes[name][place] = BATCH
                self.sizes[BATCH] = tensors[name].shape[place]
            self.call.keeps, self.rows_inside = (next(iter(rows.places.items())), rows.outputs), rows.inside
            self.reasons[f"axes.{BATCH}"] = {
                True: "twice the rows give twice the output, and no row changes another",
                None: "twice the rows give twice the output; the model answers at random, so that nothing else can be seen",
                False: "twice the rows give twice the output; rows change each other here: if that is meant, say `independent: false`",
            }[rows.independent]
        else:
            late = "there was no time to try more rows"
            why = late if self.call.is_over else "a larger first axis does not give a larger output"
            self.reasons["inputs"] = f"no axis of rows was found: {why}"
        for places in find_ties(self.call, {} if rows is None else rows.places, addressed):
            if all(name in self._indices and tensors[name].shape[place] == 2 for name, place in places):
                continue
            name = self._free_name(places)
            self.axes[name] = {}
            self.sizes[name] = tensors[places[0][0]].shape[places[0][1]]
            for other, place in places:
                self._shapes[other][place] = name

    def _free_name(self, places: list[Place]) -> str:
        """A name that no other axis has."""
        usual = next((name for place in places if (name := self._given_name(place))), "") or self._usual_name(places)
        taken = {BATCH, *self.axes}
        own = places[0][0].replace(".", "_")
        tries = (usual, f"{own}_{usual}", *(f"{own}_{usual}{number}" for number in range(2, 9)))
        return next(name for name in tries if name not in taken)

    def _given_name(self, place: Place) -> str:
        names = self._axis_names.get(place[0], ())
        name = names[place[1]] if place[1] < len(names) else ""
        return name if name.isidentifier() and name != BATCH else ""

    def _usual_name(self, places: list[Place]) -> str:
        if any(name in self._indices and self._shapes[name][place] != 2 for name, place in places):
            return "edges"
        if any(place == 0 and (name in self._indices.values() or name == self._groups) for name, place in places):
            return "nodes"
        if len(places) > 1 and len({name for name, _ in places}) == 1:
            return "side" if self.call.inputs[places[0][0]].ndim in _POSITIONS else "size"
        square = {name for name, _ in places if (name, 0) in places and (name, 1) in places}
        if any("mask" not in name.lower() for name in square):  # a matrix of neighbours
            return "nodes"
        name, place = places[0]
        tensor = self.call.inputs[name]
        if usual := _POSITIONS.get(tensor.ndim, {}).get(place):
            return usual
        if tensor.ndim == len(_UNBATCHED) + 1 and BATCH not in self.sizes and place in _UNBATCHED:
            return _UNBATCHED[place]
        if tensor.ndim in _POSITIONS and place == 1:
            return "channels"
        return "time" if tensor.is_floating_point() else "seq"

    def _fill_inputs(self) -> None:
        """Says what each input holds."""
        tensors = self.call.inputs
        shapes = {name: (self._shapes[name], tensor) for name, tensor in tensors.items()}
        self.keys = {name: {"axes": list(self._shapes[name])} for name in tensors}
        for name, tensor in tensors.items():
            along = self._shapes[self._indices[name]][0] if name in self._indices else None
            if name == self._groups:
                self.keys[name]["values"] = {"index_of": BATCH}
                self.reasons[f"inputs.{name}"] = "its name, and ascending numbers: the group of each element"
            elif isinstance(along, str):
                self.keys[name]["values"] = {"index_of": along}
                self.reasons[f"inputs.{name}"] = f"its name, and positions along `{along}`"
            else:
                content = content_of(name, self._shapes[name], shapes, self.call)
                if content.values != "normal":
                    self.keys[name]["values"] = content.values
                self.reasons[f"inputs.{name}"] = content.why
                last = self._shapes[name][-1] if tensor.ndim else None
                if isinstance(last, str) and isinstance(content.values, dict) and isinstance(content.values.get("ids"), list):
                    self._fix(last)  # columns that nothing reads are no part of a table
            self._fill_dtype(name, tensor)

    def _fill_dtype(self, name: str, tensor: Tensor) -> None:
        dtype = str(tensor.dtype).removeprefix("torch.")
        plain = {**self.keys[name], "axes": list(tensor.shape)}
        spoken = plain.get("values", {})
        if isinstance(spoken, dict) and {"lengths_of", "mask_of", "index_of"} & spoken.keys():
            implied = "int64"
        else:
            signature = read_signature({"inputs": {name: plain}, "outputs": {"_": {"kind": "other"}}})
            implied = signature.inputs[0].dtype
        if dtype != implied:
            self.keys[name]["dtype"] = dtype

    def _signature(self) -> Signature:
        """The signature as far as it is known; an output of nothing stands for those that are not, and states are zeros or left out."""
        inputs = {
            name: keys if "state" not in keys else {"axes": keys["axes"], "values": {"one_of": [0.0]}}
            for name, keys in self.keys.items()
            if "state" not in keys or "initial" in keys["state"]
        }
        axes = {name: keys for name, keys in self.axes.items() if keys}
        return read_signature({"inputs": inputs, "outputs": {"_": {"kind": "other"}}, "axes": axes})

    def _batch(self, sizes: Mapping[str, int], seed: int = 0) -> Tensors:
        signature = self._signature()
        made = signature.make_batch({**self.sizes, **sizes}, seed)
        return {each.name: _as_called(made[each.name], each.axes) for each in signature.inputs}

    def _check_random_values(self) -> None:
        """Finds the input whose random values the model refuses, and takes the range of the example instead.

        Raises:
            ExampleError: It refuses those too.
        """
        usual = self.tried({})
        self.call.usual = usual or self.call.outputs
        if usual is not None or self.call.is_spent:
            return
        made = self._batch({})
        for name, tensor in self.call.inputs.items():
            kept = {**made, name: tensor}
            if self.call.tried(kept) is None:
                continue
            low, high = tensor.min().item(), tensor.max().item()
            values = {"range": [low, high]} if tensor.is_floating_point() else {"one_of": sorted(set(tensor.flatten().tolist()))}
            self.keys[name]["values"] = values
            self.reasons[f"inputs.{name}"] = "the values of the example; the model refuses others"
            if self.tried({}) is not None:
                return
            raise ExampleError(
                f"the model takes `{name}` of the example, but not random values of its shape: {self.call.why_not(made)}; "
                f"say what it holds: `inputs.{name}.values`"
            )
        raise ExampleError(
            f"the model takes the example, but not random values of its shapes: {self.call.why_not(made)}; declare `inputs`"
        )

    def _find_sizes(self) -> None:
        """Finds which sizes each free axis may have; one without a choice becomes fixed."""
        for name in list(self.axes):
            size = self.sizes[name]
            most = next((rows for indices, rows, _ in self.call.trace.tables if self._is_positions(indices, size)), None)
            if (found := self._as_its_sibling(name)) is None and not self.call.is_over:
                found = sizes_of(size, partial(self._takes, name), partial(self._reads_last, name), most)
            if found is None or (found.step == size and self._is_more_rows(name)):
                self._fix(name)
                continue
            if found.step == 1 and self._reads_only(name, found.least, size):
                self._cut(name, found.least if found.most is None else size)  # a few sizes that strides round to the same
                continue
            self.axes[name] = found.keys()
            step = self.call.told_of_steps(found.step, size + 1, self._batch({name: size + 1}))
            upper = "no limit was met" if found.most is None else f"not above {found.most}"
            self.reasons[f"axes.{name}"] = f"sizes from {found.least} work{step}; {upper}"

    def _as_its_sibling(self, axis: str) -> Found | None:
        """For the width of a slow model the sizes of the height, where a larger one works."""
        keys = self.axes.get("height", {})
        if axis != "width" or not self.call.is_over or "height" not in self.sizes or not keys or keys.get("max"):
            return None
        step = keys.get("multiple_of", 1)
        is_alike = self.sizes[axis] == self.sizes["height"] and self._takes(axis, self.sizes[axis] + step)
        return Found(keys.get("min", 1), None, step) if is_alike else None

    def _takes(self, axis: str, size: int) -> bool:
        return self.call.is_as_finite(self.tried({axis: size}))

    def _is_more_rows(self, axis: str) -> bool:
        """Whether twice the size is taken for twice the rows, as by ``x.view(-1, 784)``."""
        longer, more = self.tried({axis: 2 * self.sizes[axis]}), self.tried({BATCH: 2 * self.sizes.get(BATCH, 1)})
        if longer is None or more is None or BATCH not in self.sizes:
            return False
        shapes = [[tensor.shape for tensor in tensors_in(list(outputs.values()))] for outputs in (longer, more)]
        return shapes[0] == shapes[1]

    def _reads_last(self, axis: str, size: int, start: int = -1) -> bool:
        """Whether an output depends on the last element of an axis of some size, or on those from a place on."""
        made = self._batch({axis: size})
        other = self._batch({axis: size}, seed=1)
        changed = dict(made)
        for name, axes in self._shapes.items():
            for place in (place for place, found in enumerate(axes) if found == axis):
                last = torch.arange(start % size, size, device=made[name].device)
                changed[name] = changed[name].index_copy(place, last, other[name].index_select(place, last))
        before, after = self.call.tried(made), self.call.tried(changed)
        return before is None or after is None or not same(before, after)

    def _reads_only(self, axis: str, least: int, size: int) -> bool:
        """Whether nothing after the smallest size is read, as where a model takes the first columns of what it is given."""
        spoken = [value for keys in self.keys.values() if isinstance(value := keys.get("values"), dict)]
        if any(axis in each.values() for each in spoken):  # by lengths or a mask, which say what is read
            return False
        if least == 1 or least > size or BATCH not in self.sizes or not self._reads_last(axis, least):
            return False
        return not any(self._reads_last(axis, longer, least) for longer in dict.fromkeys((least + 1, least + 2, least + 3, size)))

    def _cut(self, axis: str, size: int) -> None:
        """Fixes an axis at a smaller size than that of the example."""
        places = [(name, place) for name, axes in self._shapes.items() for place, found in enumerate(axes) if found == axis]
        self.call.inputs = resized(self.call.inputs, places, size)
        self.sizes[axis] = size
        self._fix(axis)

    def _is_positions(self, indices: Tensor, size: int) -> bool:
        """Whether a table was read at 0, 1, 2 and so on."""
        flat = indices.flatten()[:size].cpu()
        return indices.numel() >= size > 1 and bool((flat == torch.arange(len(flat))).all())

    def _fix(self, name: str) -> None:
        size = self.sizes.pop(name)
        self.axes.pop(name, None)
        for other, axes in self._shapes.items():
            self._shapes[other] = [size if axis == name else axis for axis in axes]
            self.keys[other]["axes"] = list(self._shapes[other])
        for other, keys in self.keys.items():
            values = keys.get("values")
            if isinstance(values, dict) and name in values.values():
                self.keys[other]["values"] = {"one_of": sorted(set(self.call.inputs[other].flatten().tolist()))}

    def _find_optional(self) -> None:
        """Finds the arguments that forward works without; labels, which only its loss needs, are left out with the loss."""
        whole = self._batch({})
        arguments = dict.fromkeys(name.partition(".")[0] for name in self.keys)
        for argument in arguments if len(arguments) > 1 else ():
            own = [name for name in self.keys if name.partition(".")[0] == argument]
            rest = {name: tensor for name, tensor in whole.items() if name not in own}
            found = self.call.tried(rest)
            state = self._state_of(argument, own)
            if found is None:
                zeros = {name: torch.zeros_like(tensor) if name in own else tensor for name, tensor in whole.items()}
                if state and own == [argument] and self.call.tried(zeros) is not None:
                    self._continue(argument, own, state, initial="zeros")
                continue
            lost = [name for name in self.call.outputs if is_there(self.call.outputs[name]) and not is_there(found[name])]
            if lost and all(_is_number(self.call.outputs[name]) for name in lost):
                self._leave_out(argument, own, lost)
            elif state:
                self._continue(argument, own, state)
            elif not same(found, self.call.tried(rest, seed=1) or {}):
                for name in own:
                    self.reasons[f"inputs.{name}"] += "; without it the model answers at random"
            elif not lost:
                for name in own:
                    self.keys[name]["optional"] = True
                    self.reasons[f"inputs.{name}"] += "; forward works without it"

    def _leave_out(self, argument: str, own: Sequence[str], lost: Sequence[str]) -> None:
        for name in own:
            del self.keys[name], self._shapes[name], self.call.inputs[name]
            self.reasons.pop(f"inputs.{name}", None)
        for name in lost:
            self.call.outputs[name] = None
        self.reasons[f"inputs.{argument}"] = "left out: labels, of which only the loss that forward returns depends"

    def _state_of(self, argument: str, own: Sequence[str]) -> str:
        """The output that an argument continues: one of its shapes; an argument whose length no other input has is a query."""
        others = {axis for name, keys in self.keys.items() if name not in own for axis in (BATCH, *keys["axes"])}
        has_length = any(isinstance(axis, str) and axis not in others for name in own for axis in self.keys[name]["axes"])
        if has_length or not any(word in argument.lower() for word in _STATES) or "mask" in argument.lower():
            return ""
        shapes, outputs = [self.call.inputs[name].shape for name in own], self.call.outputs.items()
        return next((name for name, value in outputs if [tensor.shape for tensor in tensors_in(value)] == shapes), "")

    def _continue(self, argument: str, own: Sequence[str], output: str, initial: str = "absent") -> None:
        """Declares an argument as the state that an output returns."""
        axes = self.keys[own[0]]["axes"] if own == [argument] else []
        for name in own:
            del self.keys[name], self._shapes[name], self.call.inputs[name]
            self.reasons.pop(f"inputs.{name}", None)
        named, zeros = names_of(self.call.forward, list(self.call.outputs))[output], initial == "zeros"
        self.keys[argument] = {"axes": axes, "state": {"from": named} | ({"initial": initial} if zeros else {})}
        self.states.append(output)
        first = "; a call needs it: zeros at first" if zeros else "; forward works without it"
        self.reasons[f"inputs.{argument}"] = f"its name, and an output of its shape{first}"

    def _check_smallest(self) -> None:
        """Raises the smallest sizes where they do not work together."""
        smallest = {**self._signature().smallest_sizes(), BATCH: self.sizes.get(BATCH, 1)}

        def works(axis: str = BATCH, size: int = smallest[BATCH]) -> bool:
            return self.call.is_as_finite(self.tried({**smallest, axis: size}))

        free = [name for name in self.sizes if name != BATCH]
        if not free or works():
            return
        alone = [name for name in free if works(name, self.sizes[name])][:1]
        for name in alone or free:
            step = self.axes[name].get("multiple_of", 1)
            least = least_of(self.sizes[name], step, partial(works, name)) if alone else self.sizes[name]
            self.axes[name]["min"] = least
            self.reasons[f"axes.{name}"] += f"; smaller ones than {least} do not work together with the smallest of others"


def _as_called(tensor: Tensor, axes: Sequence[Size]) -> Tensor:
    """A tensor whose rows are first, as forward takes it."""
    return tensor.movedim(0, list(axes).index(BATCH)) if BATCH in axes else tensor


def _is_number(value: Any) -> bool:
    return isinstance(value, Tensor) and not value.ndim


def _ndims(value: Any) -> list[int]:
    return [tensor.ndim for tensor in tensors_in(value)]
