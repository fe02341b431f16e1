"""Calls of a model: how many, in which mode, and whose code raised."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from harness.compat import TorchDispatchMode
from harness.errors import ForwardError, UserError
from harness.internal_errors import refuse_full_memory
from harness.process_state import kept_for_calls
from harness.properties.tracing import path_of
from harness.user_code import raised

_DROPOUTS = ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_dropout", "feature_alpha_dropout")
"""Functions that drop at random, of ``torch`` and of ``torch.nn.functional``."""


@dataclass
class Calls:
    """How often models were called, and with how many rows in all."""

    forwards: int = 0
    rows: int = 0

    def since(self, before: Calls) -> Calls:
        """Those that were made after an earlier count."""
        return Calls(self.forwards - before.forwards, self.rows - before.rows)

    def add(self, rows: int) -> None:
        """Counts one more call."""
        self.forwards += 1
        self.rows += rows


CALLS = Calls()
"""The calls that were made of subjects in this process, for the report: how long a test takes depends on them, and on the machine."""


class NoGradientError(UserError, RuntimeError):
    """The loss depends on nothing that asks for a gradient."""

    code = "no_gradient"


class ModelRaisedError(ForwardError):
    """The model's own code raised.

    Attributes:
        module: Path of the innermost module that was running; empty for the model itself.
        error: What it raised.
    """

    def __init__(self, module: str, error: BaseException, told: str = "") -> None:
        self.module = module
        self.error = error
        super().__init__(told or raised(error))


class BackwardRaisedError(ModelRaisedError):
    """The backward pass of the model's loss raised."""


@contextmanager
def blaming(model: nn.Module, kind: type[ModelRaisedError] = ModelRaisedError) -> Iterator[None]:
    """Turns an exception of the model's code into a ModelRaisedError that names the module, and puts back what the next call meets.

    Args:
        model: The model.
        kind: The class of the error, for a backward pass another one than for forward.

    Raises:
        MemoryFullError: Memory is full, which is no fault of the model.
    """
    try:
        with kept_for_calls():
            yield
    except UserError:
        raise
    except Exception as error:
        refuse_full_memory(error)
        raise kind(_running_module(model, error), error, _without_forward(model, error)) from error


def _without_forward(model: nn.Module, error: Exception) -> str:
    """What to do where a model's class has no forward, as Lightning modules that only train; empty for any other error."""
    name = type(model).__name__
    if not (isinstance(error, NotImplementedError) and f'Module [{name}] is missing the required "forward"' in str(error)):
        return ""
    part = next((path for path, _ in model.named_children()), "model")
    return f"`{name}` has no `forward`: add one that returns the outputs, such as `def forward(self, x): return self.{part}(x)`"


@contextmanager
def mode(model: nn.Module, train: bool) -> Iterator[None]:
    """The model in train or eval mode, and afterwards every module in the mode it was in."""
    before = [(module, module.training) for module in model.modules()]
    is_training = model.training
    model.train(train)
    try:
        yield
    finally:
        # A model's own train() may do more than set a flag, such as taking adapters out of the weights into which eval() folded them.
        model.train(is_training)
        for module, training in before:
            module.training = training


def _running_module(model: nn.Module, error: BaseException) -> str:
    """Path of the innermost module that was in its forward when an exception was raised."""
    names = {id(module): path_of(name) for name, module in model.named_modules()}
    found = ""
    frame = error.__traceback__
    while frame is not None:
        owner = frame.tb_frame.f_locals.get("self")
        if isinstance(owner, nn.Module):
            found = names.get(id(owner), found)
        frame = frame.tb_next
    return found


class WithoutNoise(TorchDispatchMode):
    """A block in which every draw of Gaussian noise gives its mean, whichever function draws it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        drawn, name = func(*args, **(kwargs or {})), func.overloadpacket.__name__
        if name in ("randn", "randn_like"):
            return drawn.zero_()
        if name in ("normal", "normal_", "normal_functional"):
            given = args[1:] if name != "normal" else args
            mean = given[0] if given else (kwargs or {}).get("mean", 0.0)
            return drawn.copy_(mean) if isinstance(mean, Tensor) else drawn.fill_(mean)
        return drawn


class WithoutDropout(TorchFunctionMode):
    """A block in which functions of dropout drop nothing, also where their rate is a number in the code, which no attribute sets."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, given = getattr(func, "__name__", ""), kwargs or {}
        if name in _DROPOUTS:
            return args[0] if args else given["input"]
        if name == "scaled_dot_product_attention":
            if len(args) > 4:
                args = (*args[:4], 0.0, *args[5:])
            else:
                given = {**given, "dropout_p": 0.0}
        return func(*args, **given)
