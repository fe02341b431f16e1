"""The model under test, with what is needed to call it and to judge differences of its logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from harness.adapters import Adapter, SignatureAdapter
from harness.batches import Batch, Sizes, make_batch, to_device, typical_sizes
from harness.errors import UserError
from harness.models.answers import reading_length_first
from harness.models.copies import Copies
from harness.process_state import ProcessState
from harness.properties.calling import CALLS, BackwardRaisedError, NoGradientError, blaming
from harness.properties.computed_dtypes import dtypes_computed
from harness.properties.large_tensors import is_widened, widened
from harness.properties.noise import NoiseFloor, measure_floor
from harness.properties.prerequisites import (
    AnchorLogits,
    PrerequisiteFailure,
    Unusable,
    find_backward_error,
    find_prerequisite_failure,
    find_train_mode_failure,
)
from harness.properties.reach import Reach
from harness.runtime import free_memory, is_large, seeded
from harness.tasks import TaskSpec


@dataclass
class Shared:
    """What is computed once about a model.

    Attributes:
        floor: Its rounding noise.
        prerequisite_failure: What is wrong with it at the fixed sizes that are always judged.
        anchor_logits: Its logits there, by sizes and seed.
        length_first: Whether it reads token ids as ``[length, batch]``.
        calibrated: The model with running statistics that saw a few batches.
        outputs: Its further outputs.
        unusable: Whether anything can be judged.
        train_mode: Why nothing can be judged in train mode; empty where it can.
        by_output: The same for each further declared output, by its name.
        decoder: How it reads a text piece by piece, or why it does not.
        backward: What a backward pass raises in train mode and in eval mode; empty where it does not.
        left_by_build: What importing and building it changed in the process, in words; empty where nothing.
        reach: Which sizes it is judged at.
        rounds_inside: Whether forward computes in half precision on the way, whatever the model's own dtype; ``None`` where not asked yet.
        short: The model with few of the blocks that are alike, and what is found out about it; empty where there is none.
        blocks: Which blocks of it are there, in words, where they are not all.
        process: The process before any of the calls that may have changed it.
    """

    floor: NoiseFloor | None = None
    prerequisite_failure: PrerequisiteFailure | None = None
    anchor_logits: dict[tuple[Sizes, int], AnchorLogits] = field(default_factory=dict)
    length_first: bool | None = None
    calibrated: nn.Module | None = None
    outputs: tuple[Any, ...] | None = None
    unusable: Unusable | None = None
    backward: dict[bool, str] = field(default_factory=dict)
    train_mode: str | None = None
    by_output: dict[str, Shared] = field(default_factory=dict)
    decoder: Any = None
    left_by_build: str = ""
    reach: Reach | None = None
    rounds_inside: bool | None = None
    short: list[tuple[nn.Module, Shared]] | None = None
    blocks: str = ""
    process: ProcessState = field(default_factory=ProcessState)

    def apart(self) -> Shared:
        """What is known so far; what is found out from here on is not shared."""
        return replace(self, anchor_logits={**self.anchor_logits}, backward={**self.backward}, by_output={**self.by_output})


@dataclass
class Subject:
    """A model under test.

    Attributes:
        model: The model, in eval mode; a property may change it.
        adapter: How it is called.
        task: What it is for.
        pristine: A copy that was never called, for properties that need a model without earlier calls.
        rebuild: Builds another instance from a seed; ``None`` where the model came without a factory.
        seed: The seed that the model was built from.
        fresh_weights: Whether the weights are as the factory made them, rather than trained.
        make: Makes a batch for sizes and a seed; by default from the TaskSpec.
        shared: What is computed once, and shared by the subjects of one model.
        isolated: Whether every call of the model is made on a copy that was never called before; see ``isolating``.
        gives_originals: Whether the model is given the very tensors of a batch rather than copies; see ``giving_originals``.
        given_copies: How the model is copied, if that is already known; by default it is tried when the first copy is made.
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

    @property
    def reach(self) -> Reach:
        """Which sizes are judged."""
        if self.shared.reach is None:
            self.shared.reach = Reach.of(self)
        return self.shared.reach

    @cached_property
    def is_large(self) -> bool:
        """Whether the model is so large that the work of its calls is counted, and its float64 is computed a module at a time."""
        return is_large(self.model)

    @cached_property
    def typical(self) -> Sizes:
        """Sizes at which every axis can be told by its length."""
        return typical_sizes(self.task, self.is_large)

    def batch(self, sizes: Sizes | None = None, seed: int = 0) -> Batch:
        """A batch on the model's device."""
        return to_device(self.make(self.task, sizes or self.typical, seed), self.device, self.dtype)

    def fresh(self) -> nn.Module:
        """A copy of the model that was never called."""
        return self.copies.fresh().eval()

    @cached_property
    def copies(self) -> Copies:
        """How the model is copied: deeply, or built again where a deep copy is no copy."""
        if self.given_copies is not None:
            return self.given_copies
        build = partial(self.rebuild, self.seed) if self.rebuild is not None else None
        return Copies(self.pristine if self.pristine is not None else self.model, build)

    @cached_property
    def double(self) -> nn.Module | None:
        """The model in float64, where it runs there; the judge of what is rounding and what is real."""
        return None if self._uncalled_double is None else self.fresh_double()

    def fresh_double(self) -> nn.Module:
        """A copy of the model in float64 that was never called; ``double`` says whether there is one."""
        assert self._uncalled_double is not None
        return self.copies.of(self._uncalled_double).eval()

    def fresh_like(self, other: nn.Module) -> nn.Module:
        """A copy of the model that was never called, in the floating dtype of another one."""
        if floating_dtype(other) is torch.float64 and vars(self).get("_uncalled_double") is not None:
            return self.fresh_double()
        return in_dtype_of(other, self.fresh())

    @cached_property
    def _uncalled_double(self) -> nn.Module | None:
        """The model in float64, of which the others are copies: they share its weights; ``None`` also where memory does not hold it.

        A large model keeps its weights and is widened a module at a time, where nothing then computes in their dtype; one without numbers
        is marked to compute in float64, as its dtype does not say so.
        """
        has_numbers = any(tensor.is_floating_point() for tensor in chain(self.model.parameters(), self.model.buffers()))
        first = (widened,) if (self.is_large and not self.copies.fault) or not has_numbers else ()
        for widen in (*first, nn.Module.double):
            needed = sum(8 * parameter.numel() for parameter in self.copies.model.parameters() if not is_lazy(parameter))
            if widen is not widened and 0 < free_memory(self.device) < needed:
                break
            with suppress(UserError, RuntimeError, TypeError, NotImplementedError):
                model = widen(self.fresh())
                called, batch = self.copies.of(model).eval(), self.batch()
                seen = dtypes_computed(partial(self.raw_logits, batch, called))
                if widen is not widened or self.dtype not in seen:
                    return model
        return None

    def logits(self, batch: Batch, model: nn.Module | None = None) -> Tensor:
        """Logits of a batch in the model's current mode, without gradients.

        A model that is random in eval mode is called under a seed: that it is random is said once, by ``eval_deterministic``, and
        what else is wrong with it can still be seen.

        Raises:
            ModelRaisedError: The model's code raised.
        """
        if not self.prerequisite_failure.random:
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

    @torch.no_grad()
    def outputs(self, batch: Batch, model: nn.Module | None = None) -> dict[str, Any]:
        """Every output of the task by name, the rows first, in the model's current mode.

        Raises:
            ModelRaisedError: The model's code raised.
            OutputError: An output is not there.
        """
        with seeded(0):
            return self.outputs_with_grad(batch, model)

    def outputs_with_grad(self, batch: Batch, model: nn.Module | None = None) -> dict[str, Any]:
        """Every declared output of a batch by name, the rows first, with the graph and under whatever the random state is."""
        model = self._without_past(self.model if model is None else model)
        with blaming(model):
            return self.adapter.outputs(model, self._given(batch, model))

    @torch.no_grad()
    def call(self, batch: Batch, further: Mapping[str, Any], model: nn.Module | None = None) -> tuple[Tensor, Any]:
        """The logits of a call with further arguments by name, and all that forward returned.

        Raises:
            ModelRaisedError: The model's code raised.
            OutputError: The output holds no logits.
        """
        model = self.model if model is None else model
        with seeded(0), blaming(model):
            return self.adapter.call(model, self._given(batch, model), further)

    def judging(self, output: str) -> Subject:
        """The subject with another declared output in the place of the main one, whose noise and failures are its own."""
        if output in ("", self.task.signature.main.name) or not isinstance(self.adapter, SignatureAdapter):
            return self
        if output not in self._by_output:
            adapter = self.adapter.with_main(output)
            shared = self.shared.by_output.setdefault(output, Shared())
            other = replace(self, task=adapter.task, adapter=adapter, shared=shared, given_copies=self.copies)
            other._uncalled_double = self._uncalled_double  # the same model: one is enough for all outputs
            self._by_output[output] = other
        return self._by_output[output]

    @cached_property
    def _by_output(self) -> dict[str, Subject]:
        return {}

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
        CALLS.add(self.task.signature.row_count(batch))
        taken = _as_the_model_takes(batch, model)
        # A nested state is copied whole: what a model writes into it may not reach a later call.
        copied: Batch = {name: value.clone() if isinstance(value, Tensor) else deepcopy(value) for name, value in taken.items()}
        return taken if self.gives_originals else copied

    def _without_past(self, model: nn.Module) -> nn.Module:
        if self.isolated and (model is self.model or model is vars(self).get("double")):
            return self.fresh_like(model)
        return model

    def train_loss(self, batch: Batch, model: nn.Module) -> Tensor:
        """The loss that a model is trained by (a scalar), with the graph, in the model's current mode."""
        with blaming(model):
            return self.adapter.loss_of_call(model, self._given(batch, model))

    def backward(self, batch: Batch, model: nn.Module | None = None) -> Tensor:
        """Runs forward, loss and backward; returns the loss and leaves gradients in the parameters."""
        model = self.model if model is None else model
        with blaming(model):
            loss = self.adapter.backward_loss(model, self._given(batch, model))
            if not loss.requires_grad:
                raise NoGradientError("the loss does not depend on anything that requires a gradient")
        with blaming(model, BackwardRaisedError):
            loss.backward()
        return loss.detach()

    def backward_raises(self, train: bool = True) -> str:
        """What a backward pass at typical sizes raises; empty where it does not.

        Args:
            train: The mode that the model is in.
        """
        if train not in self.shared.backward:
            self.shared.backward[train] = find_backward_error(self, train)
        return self.shared.backward[train]

    @property
    def train_mode_failure(self) -> str:
        """Why nothing can be judged in train mode; empty where it can."""
        if self.shared.train_mode is None:
            failure = self.prerequisite_failure
            self.shared.train_mode = "" if failure.raises and not failure.small_only else find_train_mode_failure(self)
        return self.shared.train_mode

    @property
    def prerequisite_failure(self) -> PrerequisiteFailure:
        """What is wrong with the model at its anchors, in every property alike."""
        if self.shared.prerequisite_failure is None:
            self.shared.prerequisite_failure = PrerequisiteFailure()  # while it is looked for, there is none
            try:
                self.shared.prerequisite_failure = find_prerequisite_failure(self)
            except BaseException:  # a test that is cut short has not found that there is none
                self.shared.prerequisite_failure = None
                raise
        return self.shared.prerequisite_failure

    def seen_at(self, sizes: Sizes, seed: int) -> AnchorLogits | None:
        """What is known of the logits at an anchor, which need not be computed again; ``None`` elsewhere, and where forward raised."""
        return None if self.prerequisite_failure.raises else self.shared.anchor_logits.get((sizes, seed))

    @property
    def reads_length_first(self) -> bool:
        """Whether forward reads token ids as ``[length, batch]``, and is given them as ``[batch, length]``."""
        if self.shared.length_first is None:
            self.shared.length_first = reading_length_first(self.adapter, self.fresh())
        return self.shared.length_first

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
        return self.floor.repeat_bound if self.prerequisite_failure.random else self.floor.bound

    def bound(self, name: str) -> float:
        """Largest difference of logits that counts as equal: the user's tolerance, or the one derived from the noise floor."""
        return self.task.tolerances.get(name, self.rounding)


def floating_dtype(model: nn.Module) -> torch.dtype:
    """Dtype that a model computes in, that of its first floating tensor; the default dtype where it has none."""
    if is_widened(model):
        return torch.float64
    tensors = chain(model.parameters(), model.buffers())
    return next((t.dtype for t in tensors if t.is_floating_point()), torch.get_default_dtype())


def in_dtype_of(like: nn.Module, model: nn.Module) -> nn.Module:
    """Casts a model to the floating dtype of another one; complex tensors stay, of which ``to(dtype)`` would drop the imaginary part."""
    dtype = floating_dtype(like)
    casts = {torch.float64: model.double, torch.float32: model.float, torch.bfloat16: model.bfloat16, torch.float16: model.half}
    return casts[dtype]() if dtype in casts else model.to(dtype)


def _as_the_model_takes(batch: Batch, model: nn.Module) -> Batch:
    """The batch with its floating fields in the model's dtype."""
    if not any(isinstance(tensor, Tensor) and tensor.is_floating_point() for tensor in batch.values()):
        return batch
    return to_device(batch, None, floating_dtype(model))
