"""The model under test, with what is needed to call it and to judge differences of its logits."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from harness.adapters import Adapter
from harness.batches import Batch, Sizes, make_batch, smallest_sizes, to_device, typical_sizes
from harness.errors import ForwardError, UserError
from harness.evidence import Evidence, Status, counted
from harness.models.axis_order import reading_length_first
from harness.models.copies import Copies
from harness.owners import owned_by
from harness.properties.difference import difference
from harness.properties.noise import NoiseFloor, measure_floor
from harness.properties.tracing import path_of
from harness.randomness import seeded
from harness.tasks import TaskSpec
from harness.user_code import raised

_CHECKED = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

REPEATS = 4
"""How often a call is repeated to see whether it is random; one more draw may show what is random only now and then."""


class NoGradientError(UserError, RuntimeError):
    """The loss depends on nothing that asks for a gradient."""


class ModelRaisedError(ForwardError):
    """The model's own code raised.

    Attributes:
        module: Path of the innermost module that was running; empty for the model itself.
        error: What it raised.
    """

    def __init__(self, module: str, error: BaseException) -> None:
        self.module = module
        self.error = error
        super().__init__(raised(error))


class BackwardRaisedError(ModelRaisedError):
    """The backward pass of the model's loss raised."""


SHAPE_OWNER = "shape_contract"
"""The test that fails when the model cannot be called, or its logits have the wrong shape."""

FINITE_OWNER = "finite_output[typical]"
"""The test that fails when the logits are not finite."""

RANDOM_OWNER = "eval_deterministic"
"""The test that fails when the logits are random in eval mode."""

GRADIENT_OWNER = "gradient_flow[reaches_every_parameter]"
"""The test that fails when the backward pass raises."""

WEIGHTS_OWNERS = ("parameter_validation", FINITE_OWNER)
"""The tests that fail on NaN weights; the second one where the first does not run."""

BACKWARD_RAISES = "the backward pass raises "

RANDOM = "logits in eval mode are random"


@dataclass(frozen=True)
class BrokenWeight:
    """A parameter or buffer that no model can compute with.

    Attributes:
        path: Its path.
        holds: What it holds, such as ``2 NaN values``.
    """

    path: str
    holds: str

    def evidence(self, name: str) -> Evidence:
        """A failure of a property that cannot hold because of it."""
        return Evidence(
            name,
            Status.FAIL,
            f"`{self.path}` holds {self.holds}",
            module=self.path,
            cause="a training run that diverged, or an initialisation that divides by zero",
            details=owned_by(*WEIGHTS_OWNERS),
        )


@dataclass(frozen=True)
class Trouble:
    """What keeps other properties from being judged, and is itself judged by one.

    Attributes:
        raises: What forward raised at an anchor; ``shape_contract`` fails on it, or leaves it to ``full_vocabulary``.
        not_finite: At which anchor the logits are not finite; ``finite_output`` fails on it.
        random: Whether logits in eval mode depend on the global random state; ``eval_deterministic`` fails on it.
        weight: A weight that is NaN or infinite; ``parameter_validation`` fails on it, or ``finite_output``.
    """

    raises: str = ""
    not_finite: str = ""
    random: bool = False
    weight: BrokenWeight | None = None


@dataclass(frozen=True)
class Unusable:
    """Why no property can be judged; false where it can.

    Attributes:
        owner: The test that fails for it.
        reason: What is wrong.
    """

    owner: str = ""
    reason: str = ""

    def __bool__(self) -> bool:
        return bool(self.owner)


@dataclass
class Shared:
    """What is found out once about a model.

    Attributes:
        floor: Its rounding noise.
        trouble: What is wrong with it at its anchors.
        length_first: Whether it reads token ids as ``[length, batch]``.
        calibrated: The model with running statistics that saw a few batches.
        outputs: Its further outputs.
        unusable: Whether anything can be judged.
        backward: What a backward pass raises in train mode and in eval mode; empty where it does not.
    """

    floor: NoiseFloor | None = None
    trouble: Trouble | None = None
    length_first: bool | None = None
    calibrated: nn.Module | None = None
    outputs: tuple[Any, ...] | None = None
    unusable: Unusable | None = None
    backward: dict[bool, str] = field(default_factory=dict)


@dataclass
class Subject:
    """A model under test.

    Attributes:
        model: The model, in eval mode; a property may change it.
        adapter: How it is called.
        task: What it is for.
        pristine: A copy that was never called, for properties that need a model without a past.
        rebuild: Builds another instance from a seed; ``None`` where the model came without a factory.
        seed: The seed that the model was built from.
        fresh_weights: Whether the weights are as the factory made them, rather than trained.
        make: Makes a batch for sizes and a seed; by default from the TaskSpec.
        shared: What is found out once, and shared by the subjects of one model.
        isolated: Whether every call of the model is made on a copy that was never called before; see ``isolating``.
        gives_originals: Whether the model is given the very tensors of a batch rather than copies; see ``giving_originals``.
        given_copies: How the model is copied, where that was found out before; by default it is found out when the first copy is made.
    """

    model: nn.Module
    adapter: Adapter
    task: TaskSpec
    pristine: nn.Module | None = None
    rebuild: Callable[[int], nn.Module] | None = None
    seed: int = 0
    fresh_weights: bool = True
    make: Callable[[TaskSpec, Sizes, int], Batch] = make_batch
    shared: Shared = field(default_factory=lambda: Shared())
    isolated: bool = False
    gives_originals: bool = False
    given_copies: Copies | None = None

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
        return self.copies.fresh().eval()

    @cached_property
    def copies(self) -> Copies:
        """How the model is copied: deeply, or built anew where a deep copy is no copy."""
        if self.given_copies is not None:
            return self.given_copies
        build = partial(self.rebuild, self.seed) if self.rebuild is not None else None
        return Copies(self.pristine if self.pristine is not None else self.model, build)

    @cached_property
    def double(self) -> nn.Module | None:
        """The model in float64, where it runs there; the judge of what is rounding and what is real."""
        try:
            model = self.fresh().double()
            self.logits(self.batch(), model)
        except (UserError, RuntimeError, TypeError, NotImplementedError):
            return None
        return model

    def logits(self, batch: Batch, model: nn.Module | None = None) -> Tensor:
        """Logits of a batch in the model's current mode, without gradients.

        A model that is random in eval mode is called under a seed: that it is random is said once, by ``eval_deterministic``, and
        what else is wrong with it can still be seen.

        Raises:
            ModelRaisedError: The model's code raised.
        """
        if not self.trouble.random:
            return self.raw_logits(batch, model)
        with seeded(0):
            return self.raw_logits(batch, model)

    @torch.no_grad()
    def raw_logits(self, batch: Batch, model: nn.Module | None = None) -> Tensor:
        """Logits of a batch, under whatever the global random state is."""
        return self.logits_with_grad(batch, model)

    def logits_with_grad(self, batch: Batch, model: nn.Module | None = None) -> Tensor:
        """Logits of a batch, with the graph."""
        model = self._without_past(self.model if model is None else model)
        with blaming(model):
            return self.adapter.logits(model, self._given(batch, model))

    @contextmanager
    def isolating(self) -> Iterator[None]:
        """A block in which no call knows of an earlier one: what differs in it does not differ because of state."""
        self.isolated = True
        try:
            yield
        finally:
            self.isolated = False

    @contextmanager
    def giving_originals(self) -> Iterator[None]:
        """A block in which the model is given the tensors of a batch as they lie in memory.

        Otherwise it is given copies, so that one that writes into its inputs spoils no later call: that it writes is said once, by
        ``inputs_unchanged``.
        """
        self.gives_originals = True
        try:
            yield
        finally:
            self.gives_originals = False

    def _given(self, batch: Batch, model: nn.Module) -> Batch:
        taken = _as_the_model_takes(batch, model)
        return taken if self.gives_originals else {name: tensor.clone() for name, tensor in taken.items()}

    def _without_past(self, model: nn.Module) -> nn.Module:
        if self.isolated and (model is self.model or model is self.double):
            return self.fresh().to(floating_dtype(model))
        return model

    def backward(self, batch: Batch, model: nn.Module | None = None) -> Tensor:
        """Runs forward, loss and backward; returns the loss and leaves gradients in the parameters."""
        model = self.model if model is None else model
        with blaming(model):
            loss = self.adapter.loss(self.adapter.logits(model, self._given(batch, model)), batch)
            if not loss.requires_grad:
                raise NoGradientError("the loss depends on nothing that asks for a gradient")
        with blaming(model, BackwardRaisedError):
            loss.backward()
        return loss.detach()

    @property
    def unusable(self) -> Unusable:
        """Whether a typical call raises or its logits have the wrong shape, so that no other property can be judged."""
        if self.shared.unusable is None:
            from harness.properties.usability import find_unusable

            self.shared.unusable = find_unusable(self)
        return self.shared.unusable

    def backward_raises(self, train: bool = True) -> str:
        """What a backward pass at typical sizes raises; empty where it does not.

        Args:
            train: The mode that the model is in.
        """
        if train not in self.shared.backward:
            self.shared.backward[train] = find_backward_error(self, train)
        return self.shared.backward[train]

    @property
    def trouble(self) -> Trouble:
        """What is wrong with the model at its anchors, in every property alike."""
        if self.shared.trouble is None:
            self.shared.trouble = Trouble()  # while it is looked for, there is none
            try:
                self.shared.trouble = find_trouble(self)
            except BaseException:  # a test that is cut short has not found that there is none
                self.shared.trouble = None
                raise
        return self.shared.trouble

    @property
    def reads_length_first(self) -> bool:
        """Whether forward reads token ids as ``[length, batch]``, and is given them as ``[batch, length]``."""
        if self.shared.length_first is None:
            self.shared.length_first = reading_length_first(self.adapter, self.fresh())
        return self.shared.length_first

    @property
    def anchors(self) -> tuple[tuple[Sizes, int], ...]:
        """Sizes and seeds that the properties of shape, finiteness and determinism always judge, before any are drawn."""
        longest = self.task.max_seq_len or 1
        return (
            (self.typical, 0),
            (self.typical, 1),
            (smallest_sizes(self.task), 0),
            (Sizes(2, longest, longest), 0),
            (Sizes(5, longest, longest), 1),
        )

    @property
    def floor(self) -> NoiseFloor:
        """The rounding noise of the model's logits."""
        if self.shared.floor is None:
            self.shared.floor = measure_floor(self)
        return self.shared.floor

    @property
    def rounding(self) -> float:
        """Largest difference of logits that is rounding.

        A model that is random draws other numbers in float64, so that its distance from there says nothing about rounding.
        """
        return self.floor.repeat_bound if self.trouble.random else self.floor.bound

    def bound(self, name: str) -> float:
        """Largest difference of logits that counts as equal: the user's tolerance, or the one derived from the noise floor."""
        return self.task.tolerances.get(name, self.rounding)


def find_trouble(subject: Subject) -> Trouble:
    """Calls fresh copies of a model at its anchors."""
    raises, not_finite, random = "", "", False
    for number, (sizes, seed) in enumerate(subject.anchors):
        batch, at = subject.batch(sizes, seed), f"{sizes.describe(subject.task)}, seed={seed}"
        try:
            # Where a model is random at all, it is at typical sizes; the seeds are those of ``eval_deterministic``.
            first, *again = [_drawn(subject, batch, 1 + draw) for draw in range(1 if number else 1 + REPEATS)]
        except ModelRaisedError as error:
            raises = raises or f"forward raises at {at}: {error}"
            continue
        not_finite = not_finite or ("" if bool(first.isfinite().all()) else f"logits are not finite at {at}")
        random = random or any(difference(first.nan_to_num(), other.nan_to_num()) > subject.floor.repeat_bound for other in again)
    return Trouble(raises, not_finite, random, broken_weight(subject.model))


def find_backward_error(subject: Subject, train: bool) -> str:
    """What a backward pass on a fresh copy at typical sizes raises; empty where it does not, or there is none."""
    model = subject.fresh()
    try:
        with mode(model, train), seeded(0):
            subject.backward(subject.batch(), model)
    except BackwardRaisedError as error:
        return BACKWARD_RAISES + re.split(r" Hint: |: \[torch\.", str(error))[0]  # what follows are numbers of torch's own
    except UserError:
        return ""
    return ""


def broken_weight(model: nn.Module) -> BrokenWeight | None:
    """The first parameter that holds NaN or infinity, or buffer that holds NaN; an infinite buffer is usual, such as a mask."""
    parameters = {id(parameter) for parameter in model.parameters()}
    for path, tensor in chain(model.named_parameters(), model.named_buffers()):
        if type(tensor) not in (Tensor, nn.Parameter) or tensor.dtype not in _CHECKED or tensor.layout is not torch.strided:
            continue
        if tensor.is_meta or not tensor.numel() or bool(tensor.isfinite().all()):
            continue
        if nan := int(tensor.isnan().sum()):
            return BrokenWeight(path, counted(nan, "NaN value"))
        if id(tensor) in parameters:
            return BrokenWeight(path, counted(int(tensor.isinf().sum()), "infinite value"))
    return None


def _drawn(subject: Subject, batch: Batch, draw: int) -> Tensor:
    with seeded(draw):
        return subject.raw_logits(batch, subject.fresh())


def gradient_of(parameter: Tensor) -> Tensor | None:
    """A parameter's gradient, dense also where an embedding keeps a sparse one."""
    gradient = parameter.grad
    return gradient.to_dense() if gradient is not None and gradient.is_sparse else gradient


def floating_dtype(model: nn.Module) -> torch.dtype:
    """Dtype of a model's first floating tensor; the default dtype where it has none."""
    tensors = chain(model.parameters(), model.buffers())
    return next((t.dtype for t in tensors if t.is_floating_point()), torch.get_default_dtype())


def _as_the_model_takes(batch: Batch, model: nn.Module) -> Batch:
    """The batch with its floating fields in the model's dtype."""
    if not any(tensor.is_floating_point() for tensor in batch.values()):
        return batch
    return to_device(batch, None, floating_dtype(model))


@contextmanager
def blaming(model: nn.Module, kind: type[ModelRaisedError] = ModelRaisedError) -> Iterator[None]:
    """Turns an exception of the model's code into a ModelRaisedError that names the module.

    Args:
        model: The model.
        kind: The class of the error, for a backward pass another one than for forward.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise kind(_running_module(model, error), error) from error


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
