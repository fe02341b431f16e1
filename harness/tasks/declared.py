"""From the keys of a config to a signature, and the messages when they contradict each other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from harness.errors import Mistake, did_you_mean, nearest
from harness.tasks.axes import BATCH, MEASURED, Axis, Formula, Limit, Size, formulas_of
from harness.tasks.keys import AxisKeys, InputKeys, LabelKeys, LossKeys, OutputKeys, SignatureKeys
from harness.tasks.kinds import KINDS, LOSSES, Kind
from harness.tasks.loss_call import LossCall
from harness.tasks.signature import Group, Input, Output, Signature
from harness.tasks.values import Ids, IndexOf, LengthsOf, Made, MaskOf, Normal, OneOf, Uniform, Values
from harness.wording import listed


class SignatureError(ValueError):
    """A signature contradicts itself.

    Attributes:
        mistakes: What is wrong, with the key's path.
    """

    def __init__(self, mistakes: list[Mistake]) -> None:
        self.mistakes = [replace(mistake, message=_printable(mistake.message)) for mistake in mistakes]
        super().__init__("\n".join(mistake.message for mistake in self.mistakes))


def _printable(text: str) -> str:
    # A name may hold characters that would break the line.
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _wrong(key: str, text: str, code: str = "contradictory_signature") -> Mistake:
    return Mistake(code, key, f"`{key}`: {text}")


def _unknown(kind: str, key: str, told: str, name: str, valid: Iterable[str], among: str = "") -> Mistake:
    """A name of something that there is not: a kind such as ``axis``, and after the suggestion what there is."""
    names = list(valid)
    return Mistake(
        f"unknown_{kind}", key, f"`{key}`: {told}.{did_you_mean(name, names)}{among and f' {among}'}", nearest(name, names)
    )


def read_signature(keys: Mapping[str, Any] | SignatureKeys, folder: Path = Path(), model_file: str | None = None) -> Signature:
    """The signature that a config's keys declare.

    Args:
        keys: The keys ``inputs``, ``outputs``, ``axes``, ``symmetric``, ``limits``, ``labels`` and ``loss``.
        folder: The config's, to which the files of functions are relative.
        model_file: The file that a function ``:name`` is in.

    Raises:
        pydantic.ValidationError: A key is unknown, or its value of another type.
        SignatureError: The keys contradict each other; all contradictions are told.
    """
    declared = keys if isinstance(keys, SignatureKeys) else SignatureKeys.model_validate(keys)
    if not (declared.inputs and declared.outputs):
        missing = "outputs" if declared.inputs else "inputs"
        raise SignatureError([_wrong(missing, "a declared task needs at least one: {name: {axes: [batch, …]}}", "missing_key")])
    reader = _Reader(declared, folder, model_file)
    signature = reader.signature()
    mistakes = [*reader.mistakes, *(_contradictions(declared, signature) if not reader.mistakes else ())]
    if mistakes:
        raise SignatureError(mistakes)
    return signature


class _Reader:
    """Turns keys into a signature, and gathers what is wrong with single keys on the way."""

    def __init__(self, keys: SignatureKeys, folder: Path, model_file: str | None) -> None:
        self.keys = keys
        self.folder = folder
        self.model_file = model_file
        self.mistakes: list[Mistake] = []

    def signature(self) -> Signature:
        """The signature; without meaning where there are mistakes."""
        keys = self.keys
        inputs = {name: each for name, each in keys.inputs.items() if each.class_ is None}
        shapes = [each.axes for each in inputs.values()] + [each.axes for each in keys.labels.values()]
        used = [axis for axes in (*shapes, *(each.axes for each in keys.outputs.values())) for axis in axes]
        spoken = [each.values.index_of for each in inputs.values() if each.values.index_of]
        names = dict.fromkeys([*(axis for axis in used if isinstance(axis, str)), *spoken])
        axes = {name: self._axis(name, keys.axes.get(name, AxisKeys.model_validate({}))) for name in names}
        for name in keys.axes:
            if name not in axes:
                told, among = "no input or output has this axis", f"They have {_listed(axes)}"
                self.mistakes.append(_unknown("axis", f"axes.{name}", told, name, axes, among))
        apart = {name: _rows_apart(each.axes, axes) for name, each in keys.outputs.items()}
        axes = {name: axis.drawn_for(formulas_of(axis, axes)) for name, axis in axes.items()}
        loss = keys.loss if isinstance(keys.loss, LossKeys) else LossKeys(function=keys.loss or "", over=None, result=None)
        return Signature(
            inputs=tuple(self._input(name, each) for name, each in inputs.items()),
            groups={name: self._group(name, each) for name, each in keys.inputs.items() if each.class_ is not None},
            outputs=tuple(self._output(name, each).taken_apart(apart[name]) for name, each in keys.outputs.items()),
            axes=axes,
            symmetric=tuple(keys.symmetric),
            limits=tuple(filter(None, (self._tried(f"limits.{n}", Limit.parse, text) for n, text in enumerate(keys.limits)))),
            labels=tuple(self._label(name, each) for name, each in keys.labels.items() if each.from_ is None),
            label_sources={name: each.from_ for name, each in keys.labels.items() if each.from_ is not None},
            loss=self._function("loss", loss.function),
            loss_over=loss.over or "",
            loss_call=LossCall.said(loss.arguments, loss.made_with, loss.result),
        )

    def _axis(self, name: str, keys: AxisKeys) -> Axis:
        source: Any = None
        if keys.from_ is not None:
            source = MEASURED if keys.from_ == MEASURED else self._tried(f"axes.{name}.from", Formula, keys.from_)
        axis = Axis(
            name,
            keys.min,
            keys.max,
            tuple(keys.sizes or ()),
            keys.multiple_of,
            keys.order,
            keys.duplicates,
            keys.padding,
            keys.empty,
            source,
            keys.independent,
        )
        if axis.is_free and not axis.choices():
            self.mistakes.append(_wrong(f"axes.{name}", f"no size is left by {_said(keys)}"))
        return axis

    def _group(self, name: str, keys: InputKeys) -> Group:
        source = keys.class_ or ""
        if beside := [key for key in keys.model_fields_set if key != "class_"]:
            told = f"a group has only `class`; its inputs are `{name}.…`"
            self.mistakes.append(_wrong(f"inputs.{name}.{beside[0]}", told, "unknown_key"))
        if not any(other.startswith(f"{name}.") for other in self.keys.inputs):
            told = f"no input is in this group; name them `{name}.…`, as the class does"
            self.mistakes.append(_wrong(f"inputs.{name}.class", told))
        if ":" not in source:
            self.mistakes.append(_wrong(f"inputs.{name}.class", f"got {source!r}, expected file.py:Class", "wrong_value"))
        located = self._function(f"inputs.{name}.class", source)
        return Group(source, partial(load_function, located, self.folder))

    def _input(self, name: str, keys: InputKeys) -> Input:
        if "axes" not in keys.model_fields_set:
            self.mistakes.append(_wrong(f"inputs.{name}", "no `axes`; [] is a scalar", "missing_key"))
        values = self._values(f"inputs.{name}.values", keys.values, keys.axes)
        state = keys.state
        return Input(
            name,
            tuple(keys.axes),
            values,
            keys.dtype or values.dtype(),
            keys.optional,
            state.from_ if state else "",
            state.initial if state else "absent",
        )

    def _label(self, name: str, keys: LabelKeys) -> Input:
        values = self._values(f"labels.{name}.values", keys.values, keys.axes)
        return Input(name, tuple(keys.axes), values, keys.dtype or values.dtype())

    def _output(self, name: str, keys: OutputKeys) -> Output:
        kind = self._kind(name, keys)
        loss = kind.default_loss if keys.loss is None else self._function(f"outputs.{name}.loss", keys.loss)
        if loss and loss not in LOSSES and ":" not in loss:
            valid = f"Valid: {', '.join(LOSSES)}, or a function as file.py:name"
            self.mistakes.append(_unknown("choice", f"outputs.{name}.loss", f"no loss {loss!r}", loss, LOSSES, valid))
        bounds = (keys.range[0], keys.range[1]) if keys.range else None
        return Output(name, tuple(keys.axes), kind, keys.at, bounds, loss, keys.weight, keys.fits, keys.constant)

    def _kind(self, name: str, keys: OutputKeys) -> Kind:
        cls = KINDS.get(keys.kind)
        if cls is None:
            valid = f"Valid: {', '.join(KINDS)}"
            self.mistakes.append(_unknown("choice", f"outputs.{name}.kind", f"no kind {keys.kind!r}", keys.kind, KINDS, valid))
            return KINDS["other"]()
        given = {key: value for key in ("classes", "blank", "norm", "of") if (value := getattr(keys, key)) is not None}
        fields = getattr(cls, "__dataclass_fields__", {})
        if "symbols" in fields and "classes" in given:
            given["symbols"] = given.pop("classes")
        for key in given:
            if key not in fields:
                told = f"an output of kind {keys.kind!r} has no `{key}`"
                self.mistakes.append(_wrong(f"outputs.{name}.{key}", told, "unknown_key"))
        if "of" in fields and "of" not in given:
            told = "an output of kind 'lengths' needs `of`, the axis it speaks of"
            self.mistakes.append(_wrong(f"outputs.{name}", told, "missing_key"))
            return KINDS["other"]()
        return cls(**{key: value for key, value in given.items() if key in fields})

    def _values(self, path: str, keys: Any, axes: list[Any]) -> Values:
        kinds = ("range", "ids", "index_of", "lengths_of", "mask_of", "one_of", "from_")
        given = [key for key in kinds if getattr(keys, key) is not None]
        if not given and not keys.model_fields_set:
            return Normal()
        if len(given) != 1:
            named = ", ".join(key.rstrip("_") for key in kinds)
            got = ", ".join(given).replace("from_", "from") or "none"
            self.mistakes.append(_wrong(path, f"expected one of {named}; got {got}", "wrong_value"))
            return Normal()
        if keys.from_ is not None:
            keys = keys.model_copy(update={"from_": self._function(f"{path}.from", keys.from_)})
        made = _VALUES[given[0]](keys, self.folder)
        if isinstance(made, Uniform) and made.low > made.high:
            self.mistakes.append(_wrong(f"{path}.range", f"from {made.low:g} to {made.high:g} holds no number", "wrong_value"))
        if isinstance(made, Ids):
            self._check_ids(path, made, axes)
        return made

    def _check_ids(self, path: str, ids: Ids, axes: list[Any]) -> None:
        if isinstance(ids.count, tuple) and (not axes or axes[-1] != len(ids.count)):
            last = axes[-1] if axes else "none"
            told = f"{len(ids.count)} tables, one for each place of the last axis, which is {last}"
            self.mistakes.append(_wrong(f"{path}.ids", told))
        if ids.pad is not None and isinstance(ids.count, int) and ids.pad >= ids.count:
            self.mistakes.append(_wrong(f"{path}.pad", f"{ids.pad} is outside the {ids.count} ids", "wrong_value"))

    def _function(self, path: str, source: str) -> str:
        """A function as ``file.py:name``; one without a file is in the model file."""
        if source.startswith(":") and self.model_file is None:
            told = f"{source!r} is a function of `model_file`, which the config does not give: file.py{source}"
            self.mistakes.append(_wrong(path, told))
        return f"{self.model_file or ''}{source}" if source.startswith(":") else source

    def _tried(self, path: str, read: Callable[[str], Any], text: str) -> Any:
        try:
            return read(text)
        except ValueError as error:
            self.mistakes.append(_wrong(path, str(error), "wrong_value"))
            return None


_VALUES: dict[str, Callable[[Any, Path], Values]] = {
    "range": lambda keys, _: Uniform(keys.range[0], keys.range[1]),
    "ids": lambda keys, _: Ids(tuple(keys.ids) if isinstance(keys.ids, list) else keys.ids, keys.pad),
    "index_of": lambda keys, _: IndexOf(keys.index_of),
    "lengths_of": lambda keys, _: LengthsOf(keys.lengths_of),
    "mask_of": lambda keys, _: MaskOf(keys.mask_of, keys.inverted),
    "one_of": lambda keys, _: OneOf(tuple(keys.one_of)),
    "from_": lambda keys, folder: Made(keys.from_, partial(load_function, keys.from_, folder)),
}


def load_function(source: str, folder: Path, key: str = "function") -> Callable[..., Any]:
    """A function of the user's, ``file.py:name``.

    Args:
        source: The function.
        folder: To which the file is relative.
        key: The key that names it, for messages.

    Raises:
        ModelSourceError: There is no such file or function.
    """
    from harness.errors import ModelSourceError
    from harness.user_code import import_named

    found = import_named(source, folder, key)
    if not callable(found):
        raise ModelSourceError(f"{source} is a {type(found).__name__}, expected a function")
    return found  # type: ignore[no-any-return]


def _rows_apart(axes: Sequence[Size], known: dict[str, Axis]) -> tuple[Size, ...]:
    """The axes of an output with the rows apart from the axis that forward joins them with: ``batch * seq`` is each row's ``seq``.

    Args:
        axes: As forward returns them.
        known: The axes by name; takes one for what each row has, where that is no axis that there is.
    """
    for place, axis in enumerate(axes):
        source = known[axis].source if isinstance(axis, str) else None
        factors = source.factors if isinstance(source, Formula) else ()
        if len(factors) < 2 or BATCH not in (factors[0], factors[-1]) or BATCH in axes:
            continue
        own = Formula(" * ".join(factors[1:] if factors[0] == BATCH else factors[:-1]))
        if BATCH in own.axes or not set(own.axes) <= known.keys():
            continue
        of_row: Size = own.value({}) if not own.axes else own.text
        if isinstance(of_row, str) and of_row not in known:
            alike = (name for name, each in known.items() if isinstance(each.source, Formula) and each.source.text == own.text)
            of_row = next(alike, f"{axis}_of_a_row")
            known.setdefault(of_row, Axis(of_row, source=own))
        return (*axes[:place], *((BATCH, of_row) if factors[0] == BATCH else (of_row, BATCH)), *axes[place + 1 :])
    return tuple(axes)


def _contradictions(keys: SignatureKeys, signature: Signature) -> Iterator[Mistake]:
    """What is wrong between the parts of a signature."""
    inputs, outputs = {each.name: each for each in signature.inputs}, {each.name: each for each in signature.outputs}
    held = {axis for each in signature.inputs for axis in each.axes if isinstance(axis, str)} | signature.grouping
    yield from _of_axes(signature, held)
    of_labels = {axis for each in signature.labels for axis in each.axes if isinstance(axis, str)}
    for each in (*signature.inputs, *signature.labels):
        spoken = each.values.axis
        part, known = ("inputs", held) if each in signature.inputs else ("labels", held | of_labels)
        if spoken and spoken not in known:
            told = f"no {part.removesuffix('s')} has the axis {spoken!r}"
            yield _unknown("axis", f"{part}.{each.name}.values", told, spoken, known, f"They have {_listed(known)}")
        if isinstance(each.values, LengthsOf) and len(each.axes) != 1:
            yield _wrong(f"inputs.{each.name}.axes", f"lengths have one axis, the rows': [{BATCH}]")
        if isinstance(each.values, MaskOf) and (len(each.axes) < 2 or each.axes[-1] != spoken):
            yield _wrong(f"inputs.{each.name}.axes", f"a mask of {spoken!r} has it as its last axis: [{BATCH}, {spoken}]")
        if each.state and each.state not in outputs:
            yield _unknown(
                "output",
                f"inputs.{each.name}.state.from",
                f"no output {each.state!r}",
                each.state,
                outputs,
                f"There is {_listed(outputs)}",
            )
    for output in signature.outputs:
        yield from _of_output(output, signature)
    for name, source in signature.label_sources.items():
        if source not in inputs:
            yield _unknown("input", f"labels.{name}.from", f"no input {source!r}", source, inputs, f"There is {_listed(inputs)}")
    if signature.loss_call is not None:
        fields = (*inputs, *signature.label_names)
        for name, why in signature.loss_call.mistakes(signature.loss, outputs, fields):
            yield _wrong(f"loss.{name}", why)
    for name in signature.symmetric:
        if name not in inputs:
            yield _unknown("input", "symmetric", f"no input {name!r}", name, inputs, f"There is {_listed(inputs)}")
    swapped = {inputs[name].axes for name in signature.symmetric if name in inputs}
    if len(swapped) > 1:
        yield _wrong("symmetric", f"{_listed(signature.symmetric)} have different axes, so that they cannot be swapped")
    for limit in signature.limits:
        for axis in (*limit.left.axes, *limit.right.axes):
            if axis not in signature.axes:
                yield _unknown("axis", "limits", f"{limit.text!r} names {axis!r}, which is not an axis", axis, signature.axes)


def _of_axes(signature: Signature, held: set[str]) -> Iterator[Mistake]:
    for name, axis in signature.axes.items():
        if isinstance(axis.source, Formula):
            for other in axis.source.axes:
                if other not in held:
                    yield _unknown(
                        "axis", f"axes.{name}.from", f"no input has the axis {other!r}", other, held, f"They have {_listed(held)}"
                    )
        if axis.source is not None and name in held:
            formula = axis.source.text if isinstance(axis.source, Formula) else ""
            limits = f': say `limits: ["{name} <= {formula}", "{formula} <= {name}"]`' if formula else ""
            told = "an input has this axis, so that its size is chosen and does not follow from others"
            yield _wrong(f"axes.{name}.from", f"{told}{limits}")
        if axis.padding and not _tells_padding(signature, name):
            told = f"give an input `lengths_of` or `mask_of` {name}, or ids with `pad`"
            yield _wrong(f"axes.{name}.padding", f"nothing tells which elements are real: {told}")
        if axis.duplicates and axis.order != "none":
            yield _wrong(f"axes.{name}.duplicates", "only of a set, `order: none`")
    for output in signature.outputs:
        for size in output.axes:
            if isinstance(size, str) and size not in held and signature.axes[size].source is None:
                told = f"give `axes.{size}.from`, a formula or {MEASURED!r}"
                yield _wrong(f"outputs.{output.name}.axes", f"no input has the axis {size!r}, so it has no size: {told}")


def _of_output(output: Output, signature: Signature) -> Iterator[Mistake]:
    position = getattr(output.kind, "classes", getattr(output.kind, "symbols", None))
    if position is not None and not -len(output.axes) <= position < len(output.axes):
        yield _wrong(f"outputs.{output.name}.classes", f"position {position} is outside the {len(output.axes)} axes")
    elif position is not None and output.axes[position] == BATCH:
        yield _wrong(f"outputs.{output.name}.classes", f"the axis of the classes is {BATCH!r}; `axes` says which one it is")
    of = getattr(output.kind, "of", None)
    if of is not None and of not in signature.axes:
        yield _unknown("axis", f"outputs.{output.name}.of", f"no output has the axis {of!r}", of, signature.axes)


def _tells_padding(signature: Signature, axis: str) -> bool:
    return any(
        (isinstance(each.values, (LengthsOf, MaskOf)) and each.values.axis == axis)
        or (isinstance(each.values, Ids) and each.values.pad is not None and axis in each.axes)
        for each in signature.inputs
    )


def _listed(names: Any) -> str:
    return listed(sorted(map(str, names)), len(names)) or "none"


def _said(keys: AxisKeys) -> str:
    parts = [
        f"`min` {keys.min}",
        f"`max` {keys.max}" if keys.max is not None else "",
        f"`sizes` {keys.sizes}" if keys.sizes else "",
    ]
    parts.append(f"`multiple_of` {keys.multiple_of}" if keys.multiple_of > 1 else "")
    return ", ".join(filter(None, parts))
