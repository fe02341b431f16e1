"""Attention weights of a model, taken where they are used.

A hand-written attention is recognised by its dataflow: what ``softmax`` returns is followed through dropout, masks and changes of shape to
the product with the values, and the axis that this product sums over is the axis of the keys, whatever the axis of the softmax was. Those of
``F.scaled_dot_product_attention``, which keeps its weights to itself, are computed again from its arguments, and ``nn.MultiheadAttention`` is
asked for them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from harness.batches import Batch
from harness.compat import unwrapped
from harness.properties.subject import Subject
from harness.properties.tracing import hooked
from harness.tasks.axes import BATCH, Formula, rows_first
from harness.tasks.signature import Signature
from harness.tasks.values import Ids, IndexOf

_SOFTMAX = {"softmax"}
_PRODUCTS = {"matmul", "__matmul__", "bmm", "einsum"}
_SAME_VALUES = {
    *("dropout", "dropout1d", "alpha_dropout", "to", "type", "type_as", "float", "double", "half", "bfloat16", "nan_to_num"),
    *("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "expand", "contiguous", "clone"),
    *("transpose", "permute", "movedim", "swapaxes", "swapdims", "__get__", "detach"),
}
"""Functions that leave weights what they are; ``__get__`` reads ``.T``, ``.mT`` and the like."""

_MASKING = {"masked_fill", "masked_fill_", "where", "mul", "mul_", "__mul__", "__rmul__", "__imul__"}


@dataclass(frozen=True)
class AttentionMap:
    """The weights of one call.

    Attributes:
        module: Path of the module that attended.
        weights: Floating ``[..., T, S]``: of each query, the weights of the keys.
        epsilon: Machine epsilon of the coarsest dtype they were computed in.
        values: What they weigh; ``None`` where that is not known.
        whole: Whether all the keys are there; not where the weight of a sink was dropped.
    """

    module: str
    weights: Tensor
    epsilon: float
    whole: bool = True
    values: Tensor | None = None

    @property
    def queries(self) -> int:
        """T."""
        return self.weights.shape[-2]

    @property
    def keys(self) -> int:
        """S."""
        return self.weights.shape[-1]

    @property
    def rounding(self) -> float:
        """What rounding may add to the sum of a query's weights: each exponential and the sum of all are off by a few units."""
        return self.epsilon * (self.keys + 4)

    def by_head(self, batch: int) -> Tensor:
        """The weights as ``[N, H, T, S]``, float64; N is the batch, or a multiple of it where a row is cut into windows."""
        weights = self.weights.double()
        if weights.ndim >= 4:
            return weights.flatten(0, -4)
        rows = len(weights) if weights.ndim == 3 else 1
        return weights.reshape(batch if rows % batch == 0 else rows, -1, self.queries, self.keys)


def attention_maps(subject: Subject, batch: Batch, model: nn.Module | None = None) -> list[AttentionMap]:
    """The attention weights of one call in eval mode, in the order in which they are used; empty where there are none to be seen.

    Args:
        subject: The model, and how it is called.
        batch: Its input.
        model: Another copy of the model; by default a fresh one.

    Raises:
        ModelRaisedError: The model's code raised.
    """
    model = subject.fresh() if model is None else model
    watch = _Watch(sequence_lengths(subject.task.signature, batch))
    with hooked(model, lambda path, *_: watch.running.append(path), lambda *_: watch.leave()), watch:
        subject.raw_logits(batch, model)
    return watch.maps


def sequence_lengths(signature: Signature, batch: Batch) -> set[int]:
    """Sizes of the axes along which a batch is a sequence or a set: those of ids, of inputs with one free axis beside the rows, and of outputs.

    The height and the width of an image are none: what attends there has patches or pixels for its positions.
    """
    sizes = dict[str, int]()
    found = set[int]()
    for each in signature.inputs:
        if each.name not in batch:
            continue
        shape = dict(zip((each.axes[place] for place in rows_first(each.axes)), batch[each.name].shape, strict=False))
        free = {axis: size for axis, size in shape.items() if isinstance(axis, str) and axis != BATCH}
        sizes |= free
        if isinstance(each.values, Ids):
            found |= {size for axis, size in shape.items() if axis != BATCH}
        elif len(free) == 1 and not isinstance(each.values, IndexOf):
            found |= set(free.values())
    followed = (axis.source for axis in signature.axes.values())
    known = (source for source in followed if isinstance(source, Formula) and set(source.axes) <= set(sizes))
    return found | ({int(source.value(sizes)) for source in known} if found else set())


class _Watch(TorchFunctionMode):
    """Follows what softmax returns to where it is used.

    Args:
        lengths: Of the sequences of the batch, by which the weights of an attention are told from those of a choice between experts.
    """

    def __init__(self, lengths: set[int]) -> None:
        super().__init__()
        self._lengths = lengths
        self.maps: list[AttentionMap] = []
        self.running = ["(model)"]
        # The tensors are kept, as the number of one that is gone would be given to another.
        self._followed: dict[int, tuple[Tensor, AttentionMap]] = {}

    def leave(self) -> None:
        """A module's forward ends."""
        self.running.pop()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in _PRODUCTS:
            self._use(name, args)
        result = func(*args, **kwargs)
        if name == "scaled_dot_product_attention":
            self._keep(_recomputed(*args, **kwargs), args[2] if len(args) > 2 else kwargs.get("value"))
        elif name == "multi_head_attention_forward":
            self._keep(_asked_for(func, args, kwargs), args[2] if len(args) > 2 else kwargs.get("value"))
        elif isinstance(result, Tensor):
            self._follow(name, args, result)
        return result

    def _follow(self, name: str, args: tuple[Any, ...], result: Tensor) -> None:
        if name in _SOFTMAX:
            self._mark(result, AttentionMap(self.running[-1], result, torch.finfo(result.dtype).eps))
            return
        known = next((found for arg in args if (found := self._found(arg))), None)
        if known is None or not result.is_floating_point():
            return
        coarsest = max(known.epsilon, torch.finfo(result.dtype).eps)
        if name in _SAME_VALUES or (name in _MASKING and self._is_masking(name, args)):
            self._mark(result, replace(known, epsilon=coarsest))
        elif name == "__getitem__" and result.ndim == known.weights.ndim:
            self._mark(result, replace(known, epsilon=coarsest, whole=False))

    def _is_masking(self, name: str, args: tuple[Any, ...]) -> bool:
        """Whether weights are masked, rather than gated: multiplied by nothing but 0 and 1."""
        if "mul" not in name:
            return True
        others = [unwrapped(arg) if isinstance(arg, Tensor) else arg for arg in args[:2] if self._found(arg) is None]
        return all(isinstance(arg, Tensor) and bool(((arg == 0) | (arg == 1)).all()) for arg in others) and len(others) == 1

    def _mark(self, tensor: Tensor, about: AttentionMap) -> None:
        self._followed[id(tensor)] = tensor, replace(about, weights=tensor)

    def _found(self, candidate: Any) -> AttentionMap | None:
        return self._followed[id(candidate)][1] if id(candidate) in self._followed else None

    def _use(self, name: str, args: tuple[Any, ...]) -> None:
        """Keeps the weights among the factors of a product, their keys as the last axis."""
        equation, factors = (args[0], args[1:]) if name == "einsum" else ("", args)
        for number, factor in enumerate(factors[:2]):
            known = self._found(factor)
            if known is None:
                continue
            if equation:
                weights = _by_equation(factor, str(equation), number)
            else:
                weights = factor if number == 0 else factor.transpose(-1, -2) if factor.ndim > 1 else None
            if weights is not None and self._is_attention(weights):
                other = factors[1 - number] if len(factors) > 1 else None
                values = unwrapped(other.detach().clone()) if isinstance(other, Tensor) else None
                self.maps.append(replace(known, weights=unwrapped(weights.detach().clone()), values=values))

    def _is_attention(self, weights: Tensor) -> bool:
        if weights.ndim < 2:
            return False
        queries, keys = weights.shape[-2:]
        return {queries, keys} <= self._lengths or (queries == keys > 1 and keys >= min(self._lengths, default=0))

    def _keep(self, weights: Tensor | None, values: Any) -> None:
        if weights is not None:
            known = unwrapped(values.detach().clone()) if isinstance(values, Tensor) else None
            epsilon = torch.finfo(weights.dtype).eps
            self.maps.append(AttentionMap(self.running[-1], unwrapped(weights.detach()), epsilon, values=known))


def _by_equation(weights: Tensor, equation: str, number: int) -> Tensor | None:
    """The weights with the summed axis last and the axis of the queries before it; ``None`` for a product of another kind."""
    inputs, arrow, output = equation.replace(" ", "").replace("...", "").partition("->")
    terms = inputs.split(",")
    if not arrow or len(terms) != 2:
        return None
    own, other = terms[number], terms[1 - number]
    summed = [axis for axis in own if axis in other and axis not in output]
    queries = [axis for axis in own if axis in output and axis not in other]
    if len(summed) != 1 or len(queries) != 1:
        return None
    places = {axis: place - len(own) for place, axis in enumerate(own)}
    return weights.movedim((places[queries[0]], places[summed[0]]), (-2, -1))


def _recomputed(
    query: Tensor,
    key: Tensor,
    _value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """The weights that ``F.scaled_dot_product_attention`` uses, in the dtype of its queries."""
    exact, keys = query.detach().double(), key.detach().double()
    if enable_gqa:
        keys = keys.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
    scores = exact @ keys.transpose(-1, -2) * (1 / sqrt(query.shape[-1]) if scale is None else scale)
    if is_causal:
        scores = scores.masked_fill(~torch.ones_like(scores, dtype=torch.bool).tril(), float("-inf"))
    if attn_mask is not None:
        scores = (
            scores.masked_fill(~attn_mask, float("-inf"))
            if attn_mask.dtype == torch.bool
            else scores + attn_mask.detach().double()
        )
    return scores.softmax(-1).to(query.dtype)


def _asked_for(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """The weights of every head, from ``F.multi_head_attention_forward``."""
    call = inspect.signature(func).bind(*args, **kwargs)
    call.arguments |= {"need_weights": True, "average_attn_weights": False}
    weights: Tensor | None = func(*call.args, **call.kwargs)[1]
    return weights
