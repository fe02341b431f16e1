"""The last lines of a script that shows a failure: what they call, what they compare, and the assertion that is to fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from harness.evidence import Evidence
from harness.tasks.axes import ANY_SIZE

_WITHOUT_GRADIENTS = "with torch.no_grad():"
_SAME = 'assert torch.allclose(left, right, atol=1e-5), f"differs by {(left - right).abs().max().item():.2g}"'
_BACKWARD = ".float().square().mean().backward()"

_SHORT = 16
"""Places of an axis that are tried one by one."""

Body = list[str]
"""Lines of code that know ``model`` and ``given``, its arguments by name."""


@dataclass(frozen=True)
class Shown:
    """A failure that is to be shown.

    Attributes:
        evidence: The failure.
        given: The arguments of forward by name.
        logits: Where the logits are in what it returns, with ``{}`` for that.
        is_random: Whether each call draws other numbers, which is another finding.
        building: The call that builds the model.
        shape: The shape that is promised of the logits.
        dtype: The dtype that the model is moved to, where it is.
    """

    evidence: Evidence
    given: dict[str, Any]
    logits: str
    is_random: bool
    building: str
    shape: tuple[int, ...]
    dtype: str

    def call(self, arguments: str = "given", model: str = "model") -> str:
        """The code of the logits; of a model that draws numbers under the same seed each time."""
        call = f"{model}(**{arguments})"
        return self.logits.format(f"(torch.manual_seed(0), {call})[1]" if self.is_random else call)

    @property
    def main(self) -> str:
        """The name of the first input."""
        return next(name for name, value in self.given.items() if isinstance(value, Tensor))

    def is_long(self) -> bool:
        """Whether the first input has a second axis."""
        return bool(self.given[self.main].ndim > 1)

    def another(self, value: str, name: str) -> str:
        """The code of a value of an input that is not the one at hand, element by element."""
        held = self.given[name]
        if held.is_floating_point() and float(held.min()) >= 0 and float(held.max()) <= 1:  # what has this range keeps it
            return f"1 - {value}"
        return f"{value} + 1" if held.is_floating_point() else f"torch.where({value} == {int(held.max())}, 0, {value} + 1)"


def ways_to_show(shown: Shown) -> Iterator[Body]:
    """The ways in which a failure may show, the most direct one first; none where none is known.

    Each is to be tried: a property judges more than a few lines can.
    """
    if shown.evidence.code == "raises":
        yield [shown.call()]
    if ways := _WAYS.get(shown.evidence.name):
        yield from ways(shown)


def _compared(left: str, right: str, *before: str) -> Body:
    """Two results that should be equal."""
    return [*before, _WITHOUT_GRADIENTS, f"    left, right = {left}, {right}", _SAME]


def _wrong_shape(shown: Shown) -> Iterator[Body]:
    call = [_WITHOUT_GRADIENTS, f"    logits = {shown.call()}"]
    if shown.evidence.code == "wrong_dtype":
        yield [*call, "assert logits.is_floating_point(), logits.dtype"]
    elif ANY_SIZE not in shown.shape:
        yield [*call, f"assert logits.shape == {shown.shape}, tuple(logits.shape)"]


def _random(shown: Shown) -> Iterator[Body]:
    call = shown.logits.format("model(**given)")
    yield _compared(call, call)


def _not_finite(shown: Shown) -> Iterator[Body]:
    yield [_WITHOUT_GRADIENTS, f"    logits = {shown.call()}", "assert logits.isfinite().all(), logits"]


def _other_rows(shown: Shown) -> Iterator[Body]:
    if not shown.is_random:  # a call of another shape draws other numbers, under the same seed too
        alone = shown.call("{name: value[:1] for name, value in given.items()}")
        yield _compared(f"{shown.call()}[:1]", alone)


def _later_positions(shown: Shown) -> Iterator[Body]:
    if shown.is_long():
        last = f"other[{shown.main!r}][:, -1]"
        changed = f"{last} = {shown.another(last, shown.main)}"
        yield _compared(f"{shown.call()}[:, :-1]", f"{shown.call('other')}[:, :-1]", _copy_of(shown.main), changed)


def _copy_of(name: str) -> str:
    return f"other = {{**given, {name!r}: given[{name!r}].clone()}}"


def _padding(shown: Shown) -> Iterator[Body]:
    ids = shown.given[shown.main]
    masks = [name for name, value in shown.given.items() if _is_mask_of(value, ids) and name != shown.main]
    if not masks or shown.is_random:
        return
    last = f"other[{shown.main!r}][:, -1]"
    for real in ("[:, :-1]", ""):  # the logits of each position, and of a row as a whole
        hidden = [f"given[{masks[0]!r}][:, -1] = 0  # the last position is padding"]
        other = [_copy_of(shown.main), f"{last} = {shown.another(last, shown.main)}"]
        yield _compared(f"{shown.call()}{real}", f"{shown.call('other')}{real}", *hidden, *other)
        short = "{name: value[:, :-1] for name, value in given.items()}"
        yield _compared(f"{shown.call()}{real}", shown.call(short), *hidden)


def _is_mask_of(value: Any, ids: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == ids.shape and bool((value == 1).all())


def _ignored_inputs(shown: Shown) -> Iterator[Body]:
    for name, value in shown.given.items():
        if isinstance(value, Tensor) and value.numel() and (value.is_floating_point() or int(value.max()) > 1):
            others = f"other = {{**given, {name!r}: {shown.another(f'given[{name!r}]', name)}}}"
            yield _alike(shown, others, f"another {name} changes nothing")
            for part in _parts_of(value):
                place = f"other[{name!r}][{part}]"
                changed = f"{place} = {shown.another(place, name)}"
                yield _alike(shown, f"{_copy_of(name)}; {changed}", f"another {name}[{part}] changes nothing")


def _alike(shown: Shown, others: str, told: str) -> Body:
    """Two results that should differ."""
    return [*_compared(shown.call(), shown.call("other"), others)[:-1], f'assert not torch.equal(left, right), "{told}"']


def _parts_of(value: Tensor) -> Iterator[str]:
    """The halves of a tensor along each axis behind the first, and the places of a short one."""
    for axis in range(1, value.ndim):
        before, size = ":, " * axis, value.shape[axis]
        yield from (f"{before}{half}" for half in (f":{size // 2}", f"{size // 2}:") if size > 1)
        yield from (f"{before}{place}" for place in range(size if size <= _SHORT else 0))


def _vanishes(shown: Shown) -> Iterator[Body]:
    tensors = {name: each for name, each in shown.given.items() if isinstance(each, Tensor)}
    varied = [name for name, each in tensors.items() if name == shown.main or len(each.unique()) > 1]
    others = [f"{name!r}: {shown.another(f'given[{name!r}]', name)}" for name in varied]
    near = 'assert (left - right).abs().max() > 1e-6 * left.abs().max(), "other inputs change nothing"'
    yield [*_compared(shown.call(), shown.call("other"), f"other = {{**given, {', '.join(others)}}}")[:-1], near]


def _gradients(shown: Shown) -> Iterator[Body]:
    backward = f"{shown.call()}{_BACKWARD}"
    if shown.evidence.code == "backward_raises":
        yield [backward]
        yield ["model.train()", backward]
    elif shown.evidence.code == "gradient_not_finite":
        bad = "bad = [name for name, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]"
        yield [backward, bad, "assert not bad, bad"]
    elif unreached := shown.evidence.details.get("unreached"):
        yield [
            backward,
            f"gradient = model.get_parameter({unreached[0]!r}).grad",
            "assert gradient is not None and gradient.any(), gradient",
        ]


def _bounded_scores(shown: Shown) -> Iterator[Body]:
    activations = ("Softmax",) if "softmax" in shown.evidence.message else ("Sigmoid", "Relu", "Gelu", "Silu", "Softplus")
    for name in activations:
        last = f'assert "{name}" not in logits.grad_fn.name(), f"{{logits.grad_fn.name()}}, lowest {{logits.min().item():.2g}}"'
        yield [f"logits = {shown.call()}", last]


def _depends_on_modes(shown: Shown) -> Iterator[Body]:
    yield [_WITHOUT_GRADIENTS, f"    left = {shown.call()}", "    model.train().eval()", f"    right = {shown.call()}", _SAME]


def _depends_on_calls(shown: Shown) -> Iterator[Body]:
    between = "    model(**{name: value.flip(0) + 0 * value for name, value in given.items()})"
    yield [_WITHOUT_GRADIENTS, f"    left = {shown.call()}", between, f"    right = {shown.call()}", _SAME]


def _draws_numbers(shown: Shown) -> Iterator[Body]:
    state = "torch.get_rng_state()"
    yield [f"before = {state}", "model(**given)", f'assert torch.equal(before, {state}), "forward draws or seeds"']


def _writes_inputs(shown: Shown) -> Iterator[Body]:
    yield [f"before = given[{shown.main!r}].clone()", "model(**given)", f"assert torch.equal(before, given[{shown.main!r}])"]


def _depends_on_layout(shown: Shown) -> Iterator[Body]:
    turned = "value.transpose(0, -1).contiguous().transpose(0, -1)"
    other = f"other = {{name: {turned} if hasattr(value, 'ndim') else value for name, value in given.items()}}"
    if shown.evidence.code == "raises_on_layout":
        yield [other, shown.call("other")]
    else:
        yield _compared(shown.call(), shown.call("other"), other)


def _refuses_dtype(shown: Shown) -> Iterator[Body]:
    if shown.dtype:
        moved = f"value.to(torch.{shown.dtype}) if getattr(value, 'is_floating_point', bool)() else value"
        given = f"given = {{name: {moved} for name, value in given.items()}}"
        yield [f"model.to(torch.{shown.dtype})", given, shown.call()]
        yield [f"model.to(torch.{shown.dtype})", given, *next(_not_finite(shown))]


def _lost_by_saving(shown: Shown) -> Iterator[Body]:
    moved = "for parameter in model.parameters(): parameter.data.mul_(1.1)"
    twin = f"twin = {shown.building}.eval()"
    load = "twin.load_state_dict(model.state_dict())"
    yield _compared(shown.call(), shown.call(model="twin"), moved, "torch.manual_seed(1)", twin, load)
    yield [twin, load]
    yield ["import copy", "copy.deepcopy(model)"]


_WAYS: dict[str, Callable[[Shown], Iterator[Body]]] = {
    "shape_contract": _wrong_shape,
    "eval_deterministic": _random,
    "finite_output": _not_finite,
    "batch_independence": _other_rows,
    "causal": _later_positions,
    "padding_ignored": _padding,
    "input_dependence": _ignored_inputs,
    "gradient_flow": _gradients,
    "initialisation": _vanishes,
    "logit_range": _bounded_scores,
    "mode_round_trip": _depends_on_modes,
    "stateless": _depends_on_calls,
    "rng_untouched": _draws_numbers,
    "inputs_unchanged": _writes_inputs,
    "memory_layout": _depends_on_layout,
    "dtype_move": _refuses_dtype,
    "serialisation": _lost_by_saving,
}
"""By the name of the property."""
