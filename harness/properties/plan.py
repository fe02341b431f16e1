"""What judging a model takes, found from its structure and this machine before a weight is made: memory, calls, seconds, and what is left out.

The model is called on PyTorch's ``meta`` device, where a call costs nothing: the shapes of its outputs, the floating-point operations, and the
bytes that it holds at its peak are those of a real one. Memory is planned in steps, each of which some properties need.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from harness.adapters import Adapter
from harness.batches import Sizes, largest_sizes, make_batch, smallest_sizes, to_device, typical_sizes
from harness.catalogue import CATALOGUE, of_tier
from harness.catalogue.entry import FLOAT64, GRADIENTS, SECOND
from harness.compat import TorchDispatchMode, compiler_left_out, without_compiler
from harness.models.structure import Structure, structure_of
from harness.properties.resources import LiveBytes
from harness.properties.subject import floating_dtype
from harness.runtime import free_memory, is_large, short_of_memory
from harness.tasks import TaskSpec
from harness.user_code import raised
from harness.wording import aligned, amount_of_memory, counted, duration

_CALLS = {1: 15.0, 2: 25.0}
"""What a test of a tier takes on average, in calls at typical sizes, of which a backward pass is two.

Counted on a GPT-2 of 124 million parameters, whose calls are kept as short as those of a large model are. A larger one takes fewer in tier 1.
"""

_SECONDS_A_GIB = 6.0
"""Processor seconds of a test beside the operations of its calls, for each GiB of weights, which are made, moved, widened, saved and read.

Measured on that GPT-2 and on a Llama of 1.45 billion parameters, in bfloat16, which differ by less than a fifth.
"""


@dataclass(frozen=True)
class CallCost:
    """What a call takes.

    Attributes:
        sizes: Of what it is called with, in words.
        flops: Floating-point operations.
        bytes: What it holds at its peak beside the model.
        kept: What it keeps for a backward pass.
        logits: Shape of the logits.
    """

    sizes: str
    flops: int
    bytes: int
    kept: int
    logits: tuple[int, ...]


@dataclass(frozen=True)
class Step:
    """A part of the memory that is planned.

    Attributes:
        name: What it is for.
        bytes: What it takes, that of the steps it rests on included.
        left_out: What is left out where it does not fit.
    """

    name: str
    bytes: int
    left_out: str


@dataclass(frozen=True)
class Machine:
    """What there is to compute with.

    Attributes:
        device: Such as ``cpu``.
        cores: Threads that compute.
        free: Bytes of memory that are free; 0 where nothing says so.
        flops: Floating-point operations a second of a core or of a GPU, in the model's dtype, measured; 0 where that was not done.
        short: What is said of a machine that waits for memory now; empty of others.
    """

    device: str
    cores: int
    free: int
    flops: float = 0.0
    short: str = ""


@dataclass(frozen=True)
class Plan:
    """What judging a model takes on a machine.

    Attributes:
        structure: The model's.
        machine: The machine.
        calls: What calls of several sizes take; empty where the model cannot be called without data.
        problem: Why it cannot.
        tests: Names of the tests of each tier.
    """

    structure: Structure
    machine: Machine
    calls: tuple[CallCost, ...]
    problem: str
    tests: dict[int, tuple[str, ...]]

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """What memory is for, each with what it rests on."""
        held, own = self.structure.bytes, self.structure.weights
        most = max((call.bytes for call in self.calls), default=0)
        kept = max((call.kept for call in self.calls), default=0)
        typical = self.calls[0].bytes if self.calls else 0
        wide = 8 * self.structure.elements
        return (
            Step("weights", held, "everything: the model cannot be built here"),
            Step("calls", held + most, "tests at the largest sizes"),
            # A gradient is let go when it is read, but weights that are moved are other ones than the model's.
            Step(GRADIENTS, held + most + kept + 2 * own, "tests that go backwards"),
            Step(SECOND, held + kept + 5 * own, "tests with further models, such as one that loads what was saved"),
            # Differences are confirmed in float64 a module at a time, which needs less.
            Step(FLOAT64, held + wide + 2 * typical, "tests of the whole model in float64"),
        )

    @property
    def peak(self) -> int:
        """Bytes at the peak of what fits."""
        return max((step.bytes for step in self.steps if self._fits(step)), default=0)

    @property
    def is_possible(self) -> bool:
        """Whether the model can be judged at all."""
        return self._fits(self.steps[0])

    def _fits(self, step: Step) -> bool:
        return not self.machine.free or step.bytes <= self.machine.free

    def left_out(self, test: str) -> str:
        """Why a test is left out, such as ``serialisation[pickle]``; empty where it fits."""
        name, _, case = test.rstrip("]").partition("[")
        asked = (CATALOGUE[name].memory_of(case) if name in CATALOGUE else "") or "calls"
        lacking = next((step for step in self.steps if step.name in ("weights", asked) and not self._fits(step)), None)
        if lacking is None:
            return ""
        needed, free = amount_of_memory(lacking.bytes), amount_of_memory(self.machine.free)
        return f"not enough memory on {self.machine.device}: {needed} for {lacking.name}, and {free} are free"

    @cached_property
    def without(self) -> dict[str, str]:
        """The tests that are left out, with the reason."""
        named = ((test, self.left_out(test)) for names in self.tests.values() for test in names)
        return {test: reason for test, reason in named if reason}

    @cached_property
    def _running(self) -> dict[int, int]:
        """How many tests of each tier run."""
        return {tier: sum(name not in self.without for name in names) for tier, names in self.tests.items()}

    @property
    def number_of_calls(self) -> int:
        """About how many calls the tests make."""
        return round(sum(_CALLS.get(tier, _CALLS[2]) * number for tier, number in self._running.items()))

    @property
    def seconds(self) -> float:
        """About how many processor seconds they take; 0 where the speed was not measured, without their calls where those are not known."""
        if not self.machine.flops:
            return 0.0
        beside = _SECONDS_A_GIB * self.structure.weights / (1 << 30) * sum(self._running.values())
        return beside + (self.number_of_calls * self.calls[0].flops / self.machine.flops if self.calls else 0.0)

    def text(self) -> str:
        """The plan for people."""
        own, machine = self.structure, self.machine
        lines = [
            f"{own.parameters / 1e6:,.1f} million parameters ({', '.join(own.dtypes)}), {amount_of_memory(own.weights)} of weights, "
            f"{amount_of_memory(own.buffers)} of buffers",
            *(f"{number} equal blocks: {kind}" for kind, number in own.blocks[:3]),
            *(f"tied: {' = '.join(group)}" for group in own.tied[:3]),
            f"{machine.device}: {counted(machine.cores, 'thread')}, {amount_of_memory(machine.free)} of memory are free"
            + (
                f", {machine.flops / 1e9:,.0f} GFLOP/s {'each' if machine.device == 'cpu' else ''}".rstrip()
                if machine.flops
                else ""
            ),
            *([f"{machine.short}: calls may take many times as long"] if machine.short else []),
            "",
        ]
        if self.problem:
            lines += [
                f"The model cannot be called without data, so that memory is planned for its weights only: {self.problem}",
                "",
            ]
        if self.calls:
            head = ("call", "logits", "GFLOP", "holds", "keeps for backward")
            rows = [
                (
                    c.sizes,
                    "x".join(map(str, c.logits)),
                    f"{c.flops / 1e9:,.1f}",
                    amount_of_memory(c.bytes),
                    amount_of_memory(c.kept),
                )
                for c in self.calls
            ]
            lines += [*aligned([head, *rows]).splitlines(), ""]
        steps = [
            (step.name, amount_of_memory(step.bytes), "fits" if self._fits(step) else f"does not fit, left out: {step.left_out}")
            for step in self.steps
        ]
        lines += aligned([("memory for", "needs", ""), *steps]).splitlines()
        return "\n".join([*lines, "", *self._told_of_tests()])

    def _told_of_tests(self) -> list[str]:
        tests = " and ".join(f"{counted(len(names), 'test')} of tier {tier}" for tier, names in self.tests.items())
        if not self.is_possible:
            return [f"None of the {tests} can run: {next(iter(self.without.values()), 'the model does not fit')}"]
        left = (
            [f"{counted(len(self.without), 'test')} left out for want of memory: {', '.join(self.without)}"]
            if self.without
            else []
        )
        took = f", about {duration(self.seconds)} of processor time" if self.seconds and self.calls else ""
        number = f"about {self.number_of_calls:,} calls{took}; at most {amount_of_memory(self.peak)} beside Python itself"
        return [f"{tests}{', without those that are left out' if left else ''}: {number}", *left]

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            **asdict(self),
            "steps": [{**asdict(step), "fits": self._fits(step)} for step in self.steps],
            "tests": {tier: len(names) for tier, names in self.tests.items()},
            "left_out": self.without,
            "number_of_calls": self.number_of_calls,
            "seconds": self.seconds,
            "peak": self.peak,
            "is_possible": self.is_possible,
        }


def plan_of(model: nn.Module, adapter: Adapter, task: TaskSpec, machine: Machine, tests: dict[int, tuple[str, ...]]) -> Plan:
    """Plans the tests of a model.

    Args:
        model: The model on ``meta``, in eval mode.
        adapter: How it is called.
        task: What it is for.
        machine: Where it is to be judged.
        tests: Names of the tests of each tier.
    """
    calls, problem, large = [], "", is_large(model)
    try:
        for sizes in dict.fromkeys((typical_sizes(task, large), smallest_sizes(task), largest_sizes(task, 2 if large else 5))):
            calls.append(_cost(model, adapter, task, sizes))
    except Exception as error:  # of whatever code that reads a number out of a tensor raises
        problem = raised(error)
    return Plan(structure_of(model), machine, tuple(calls), problem, tests)


@without_compiler
class _SaysYes(TorchDispatchMode):
    """Code that asks a tensor without data whether something holds is told that it does, as of a mask in which nothing is padded."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Answers, or runs the operator."""
        if func is torch.ops.aten._local_scalar_dense.default and args[0].dtype is torch.bool:
            return True
        return func(*args, **(kwargs or {}))


def _cost(model: nn.Module, adapter: Adapter, task: TaskSpec, sizes: Sizes) -> CallCost:
    batch = to_device(make_batch(task, sizes), "meta")
    with compiler_left_out(), torch.no_grad(), _SaysYes(), LiveBytes() as held, FlopCounterMode(display=False) as operations:
        logits = adapter.logits(model, batch)
    with compiler_left_out(), torch.enable_grad(), _SaysYes(), LiveBytes() as kept:
        result = adapter.logits(model, batch)
        alive = kept.live
        del result
    return CallCost(sizes.describe(task), int(operations.get_total_flops()), held.peak, alive, tuple(logits.shape))


_SIDE = 512


def flops_a_second(dtype: torch.dtype, device: str = "cpu") -> float:
    """How fast a core, or a GPU, multiplies matrices: the median of a few products. On a CPU it does not matter how busy the machine is."""
    left = torch.ones(_SIDE, _SIDE, dtype=dtype, device=device)
    clock = time.process_time if device == "cpu" else time.perf_counter
    times = []
    for _ in range(5):
        began = clock()
        float((left @ left)[0, 0])  # reading it waits for the device
        times.append(max(clock() - began, 1e-6))
    return 2.0 * _SIDE**3 / sorted(times)[len(times) // 2]


def names_of_tests(task: TaskSpec, tiers: Iterable[int]) -> dict[int, tuple[str, ...]]:
    """The tests of each tier that is planned: those that need nothing but a model."""
    return {
        tier: tuple(
            f"{entry.name}[{case}]" if case else entry.name
            for entry in of_tier(tier)
            if entry.applies_to(task)
            for case in (entry.cases_for(task) if entry.has_cases else ("",))
        )
        for tier in tiers
        if tier in _CALLS
    }


def plan_of_built(
    model: nn.Module, without_data: nn.Module, adapter: Adapter, task: TaskSpec, device: str, tests: dict[int, tuple[str, ...]]
) -> Plan:
    """Plans the tests of a model that is there already.

    Args:
        model: The model, whose memory counts as free.
        without_data: A copy of it on ``meta``, in eval mode, where weights that are tied may no longer be.
        adapter: How it is called.
        task: What it is for.
        device: Where it is to be judged.
        tests: Names of the tests of each tier.
    """
    structure = structure_of(model)
    machine = machine_of(device, floating_dtype(model), structure.bytes)
    return replace(plan_of(without_data, adapter, task, machine, tests), structure=structure)


def machine_of(device: str, dtype: torch.dtype | None = None, held: int = 0) -> Machine:
    """This machine.

    Args:
        device: Where the model is judged.
        held: Bytes that the model holds already, which count as free.
        dtype: Its weights' dtype, in which the speed is measured; ``None`` to leave that out.
    """
    speed = 0.0 if dtype is None else flops_a_second(dtype, device)
    free = free_memory(device)
    return Machine(device, torch.get_num_threads(), free + held if free else 0, speed, short_of_memory())
