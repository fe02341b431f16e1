"""What is asked of large tensors a piece at a time, with no result on the way that is larger, and gradients that are read and not kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_PIECE = 1 << 20
"""Elements of a piece."""


def pieces(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Tensors of one shape, flat and in pieces; those of contiguous tensors are views of them."""
    return zip(*(tensor.reshape(-1).split(_PIECE) for tensor in tensors), strict=True)


def largest_gap(left: Tensor, right: Tensor) -> float:
    """Largest absolute difference of two tensors of one shape, in float64; NaN where one is met."""
    gaps = torch.stack([(one.double() - other.double()).abs().max() for one, other in pieces(left.detach(), right.detach())])
    return float(gaps.max())


def all_finite(tensor: Tensor) -> bool:
    """Whether a tensor holds neither NaN nor infinity. Its sum only acquits: that of large numbers may overflow."""
    return bool(tensor.sum().isfinite()) or all(bool(piece.isfinite().all()) for (piece,) in pieces(tensor))


def root_mean_square(tensor: Tensor) -> float:
    """Root of the mean of the squares, in float64."""
    squares = [piece.abs().double().square().sum() for (piece,) in pieces(tensor.detach())]
    return float((torch.stack(squares).sum() / tensor.numel()).sqrt())


def moments(tensor: Tensor) -> tuple[float, float]:
    """Mean and standard deviation of the absolute values of complex numbers, or of real ones, in float64."""
    values = tensor.detach()
    mean = float(sum(float(_real(piece).sum()) for (piece,) in pieces(values))) / tensor.numel()
    squares = [(_real(piece) - mean).square().sum() for (piece,) in pieces(values)]
    return mean, float((torch.stack(squares).sum() / tensor.numel()).sqrt())


def _real(piece: Tensor) -> Tensor:
    return piece.abs().double() if piece.is_complex() else piece.double()


@contextmanager
def reading_gradients(model: nn.Module, read: Callable[[str, Tensor], None]) -> Iterator[None]:
    """In the block, a backward pass gives the gradient of each parameter to a function, once it is complete, and keeps none.

    Args:
        model: The model.
        read: Takes the parameter's name and its gradient, which is dense.
    """

    def hook(name: str) -> Callable[[Tensor], None]:
        def take(parameter: Tensor) -> None:
            gradient, parameter.grad = parameter.grad, None
            if gradient is not None:
                read(name, gradient.to_dense() if gradient.is_sparse else gradient)

        return take

    hooks = [
        parameter.register_post_accumulate_grad_hook(hook(name))
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter.is_leaf
    ]
    try:
        yield
    finally:
        for each in hooks:
            each.remove()
