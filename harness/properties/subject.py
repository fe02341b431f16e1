"""The model under test, with what is needed to call it and to judge differences of its logits."""

from __future__ import annotations

import copy
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor, nn

from harness.adapters import Adapter
from harness.batches import Batch, Sizes, make_batch, to_device, typical_sizes
from harness.errors import ForwardError, TimeBudgetError, UserError
from harness.properties.noise import NoiseFloor, measure_floor
from harness.tasks import TaskSpec

_TORCH = Path(torch.__file__).parent


class ModelRaisedError(ForwardError):
    """The model's own code raised.

    Attributes:
        module: Path of the innermost module that was running; empty for the model itself.
        error: What it raised.
    """

    def __init__(self, module: str, error: BaseException) -> None:
        self.module = module
        self.error = error
        text = str(error).strip().splitlines()
        place = _user_line(error)
        super().__init__(f"{type(error).__name__}: {text[0] if text else 'no message'}{f' ({place})' if place else ''}")


@dataclass
class Subject:
    """A model under test.

    Attributes:
        model: The model, in eval mode; a property may change it.
        adapter: How it is called.
        task: What it is for.
        pristine: A copy that was never called, for properties that need a model without a past.
        rebuild: Builds another instance from a seed; ``None`` where the model came without a factory.
        fresh_weights: Whether the weights are as the factory made them, rather than trained.
        make: Makes a batch for sizes and a seed; by default from the TaskSpec.
        floors: Cache of noise floors, shared by the subjects of one model.
    """

    model: nn.Module
    adapter: Adapter
    task: TaskSpec
    pristine: nn.Module | None = None
    rebuild: Callable[[int], nn.Module] | None = None
    fresh_weights: bool = True
    make: Callable[[TaskSpec, Sizes, int], Batch] = make_batch
    floors: dict[str, NoiseFloor] = field(default_factory=dict)

    @cached_property
    def device(self) -> torch.device:
        """Device of the model's first tensor."""
        return next((t.device for t in chain(self.model.parameters(), self.model.buffers())), torch.device("cpu"))

    @cached_property
    def dtype(self) -> torch.dtype:
        """Floating dtype of the model's first floating tensor."""
        return floating_dtype(self.model)

    @cached_property
    def typical(self) -> Sizes:
        """Sizes at which every axis can be told by its length."""
        return typical_sizes(self.task)

    def batch(self, sizes: Sizes | None = None, seed: int = 0) -> Batch:
        """A batch on the model's device."""
        return to_device(self.make(self.task, sizes or self.typical, seed), self.device, self.dtype)

    def fresh(self) -> nn.Module:
        """A copy of the model that was never called."""
        return copy.deepcopy(self.pristine if self.pristine is not None else self.model).eval()

    @cached_property
    def double(self) -> nn.Module | None:
        """The model in float64, where it runs there; the judge of what is rounding and what is real."""
        try:
            model = self.fresh().double()
            self.logits(self.batch(), model)
        except (UserError, RuntimeError, TypeError, NotImplementedError):
            return None
        return model

    @torch.no_grad()
    def logits(self, batch: Batch, model: nn.Module | None = None) -> Tensor:
        """Logits of a batch in the model's current mode, without gradients.

        Raises:
            ModelRaisedError: The model's code raised.
        """
        return self.logits_with_grad(batch, model)

    def logits_with_grad(self, batch: Batch, model: nn.Module | None = None) -> Tensor:
        """Logits of a batch, with the graph."""
        model = self.model if model is None else model
        with blaming(model):
            return self.adapter.logits(model, to_device(batch, self.device, floating_dtype(model)))

    def backward(self, batch: Batch, model: nn.Module | None = None) -> Tensor:
        """Runs forward, loss and backward; returns the loss and leaves gradients in the parameters."""
        model = self.model if model is None else model
        with blaming(model):
            loss = self.adapter.loss(self.adapter.logits(model, to_device(batch, self.device, floating_dtype(model))), batch)
            loss.backward()
        return loss.detach()

    @property
    def floor(self) -> NoiseFloor:
        """The rounding noise of the model's logits."""
        if "typical" not in self.floors:
            self.floors["typical"] = measure_floor(self)
        return self.floors["typical"]

    def bound(self, name: str) -> float:
        """Largest difference of logits that counts as equal: the user's tolerance, or the one derived from the noise floor."""
        return self.task.tolerances.get(name, self.floor.bound)


def floating_dtype(model: nn.Module) -> torch.dtype:
    """Dtype of a model's first floating tensor; the default dtype where it has none."""
    tensors = chain(model.parameters(), model.buffers())
    return next((t.dtype for t in tensors if t.is_floating_point()), torch.get_default_dtype())


@contextmanager
def blaming(model: nn.Module) -> Iterator[None]:
    """Turns an exception of the model's code into a ModelRaisedError that names the module."""
    try:
        yield
    except (UserError, TimeBudgetError):
        raise
    except Exception as error:
        raise ModelRaisedError(_running_module(model, error), error) from error


@contextmanager
def mode(model: nn.Module, train: bool) -> Iterator[None]:
    """The model in train or eval mode, and afterwards every module in the mode it was in."""
    before = [(module, module.training) for module in model.modules()]
    model.train(train)
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


def _running_module(model: nn.Module, error: BaseException) -> str:
    """Path of the innermost module that was in its forward when an exception was raised."""
    names = {id(module): name for name, module in model.named_modules()}
    found = ""
    frame = error.__traceback__
    while frame is not None:
        owner = frame.tb_frame.f_locals.get("self")
        if isinstance(owner, nn.Module):
            found = names.get(id(owner), found)
        frame = frame.tb_next
    return found


def _user_line(error: BaseException) -> str:
    """``model.py, line 7``: the last frame outside torch."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if _TORCH not in Path(f.filename).parents]
    frames = [f for f in frames if Path(__file__).parent.parent not in Path(f.filename).parents]
    return f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""
