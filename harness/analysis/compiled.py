"""Whether ``torch.compile`` gives the model's own logits and gradients.

The compiler is taken stage by stage, by its backends, the cheap ones first: the capture of the model's code, at two shapes (``eager``),
its autograd (``aot_eager``), and the code generator (``inductor``), which takes many times as long and needs a C++ compiler. The meaning of a
model's code may change in each of them; those for which the time budget has no room are left out, and the verdict names the ones it rests on.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from harness.analysis import Study, combined, values_of
from harness.analysis.compiled_blame import first_that_differs
from harness.batches import Batch, Sizes
from harness.compat import compiler_counters, compiling_in_this_process
from harness.evidence import Evidence, Status
from harness.properties.calling import BackwardRaisedError, ModelRaisedError, blaming
from harness.properties.large_tensors import largest_absolute, reading_gradients
from harness.properties.noise import FACTOR, difference, nudged
from harness.properties.subject import Subject
from harness.properties.tracing import hooked, path_of
from harness.runtime import processor_seconds
from harness.tasks.axes import BATCH
from harness.tasks.signature import Signature
from harness.user_code import is_users_file, raised
from harness.wording import counted
from harness.written_in import short_name

_NAME = "compiled"
_LEAST = 10.0
"""Seconds that the smallest models need."""

_LOGITS = "the logits"


@dataclass(frozen=True)
class _Stage:
    """A part of the compiler.

    Attributes:
        backend: Its name in PyTorch.
        shapes: At how many shapes it is tried; from the second on, the compiler leaves the axes open that changed.
        cost: About how many times as long as the first stage it takes at most.
        least: Seconds that there must be for it.
    """

    backend: str
    shapes: int
    cost: float
    least: float = _LEAST


_STAGES = (_Stage("eager", 2, 1), _Stage("aot_eager", 1, 6), _Stage("inductor", 1, 40, least=120.0))

_CAUSE = (
    "a branch on torch.compiler.is_compiling() or on a tensor's type, a side effect in forward (a counter, a cache, an edit through .data), "
    "or a custom operator whose fake kernel differs from its real one"
)
_REFUSED = (
    "an operator or a Python feature that the compiler does not support: change the line, or exclude it by torch.compiler.disable"
)

Quantities = dict[str, Tensor]
"""Logits and gradients, by name."""


@dataclass
class _Run:
    """A compiled model beside the model itself.

    Attributes:
        gaps: How far its logits and gradients are from the model's own, of one batch after the other.
        graph_breaks: Why the compiler had to leave off, and how often.
        graphs: How many it made.
        seconds: How long it took.
    """

    gaps: list[_Gap] = field(default_factory=list)
    graph_breaks: dict[str, int] = field(default_factory=dict)
    graphs: int = 0
    seconds: float = 0.0


def compiled(study: Study) -> Evidence:
    """The compiled model gives the same logits and gradients, at the shape it was compiled for and at another."""
    subject = study.subject
    if study.seconds < _LEAST:
        message = f"`time_budget` leaves {study.seconds:.0f} s, and compiling takes {_LEAST:.0f} or more"
        return Evidence.skipped(_NAME, message)
    try:
        torch.compile(nn.Identity(), backend="aot_eager")
    except RuntimeError as error:
        return Evidence.skipped(_NAME, f"torch.compile does not work here: {raised(error)}")
    started = processor_seconds()
    found = _judge(subject, _STAGES[0])
    first = processor_seconds() - started
    passed = [_STAGES[0].backend]
    for stage in _STAGES[1:]:
        left = study.seconds - (processor_seconds() - started)
        if found.status is not Status.OK or max(stage.least, stage.cost * first) > left:
            break
        later = _judge(subject, stage)
        if later.status is Status.WARN and _lacks_compiler(later):
            break
        found = later if later.status is not Status.OK or later.excess > found.excess else found
        passed.append(stage.backend)
    return _concluded(found, passed) if found.status is Status.OK else found


def _concluded(found: Evidence, backends: list[str]) -> Evidence:
    breaks = found.details["graph_breaks"]
    broken = f", with {counted(breaks, 'graph break')}" if breaks else ""
    message = f"logits and gradients are the same when compiled{broken} (backends {', '.join(backends)})"
    return replace(found, message=message, details={**found.details, "backends": backends})


def _judge(subject: Subject, stage: _Stage) -> Evidence:
    shapes = _shapes(subject)[: stage.shapes]
    batches = [subject.batch(sizes) for sizes in shapes]
    shown = f"{', then '.join(sizes.describe(subject.task) for sizes in shapes)}; backend {stage.backend}"
    try:
        run = _compile(subject, subject.fresh, batches, stage)
    except ModelRaisedError as error:
        if isinstance(error, BackwardRaisedError) and subject.backward_raises():
            raise
        message = f"torch.compile ({stage.backend}) cannot compile the model: {_said(error)}"
        return Evidence.warned(_NAME, message, counterexample=shown, module=error.module, cause=_REFUSED, code="cannot_compile")
    if not run.graphs and not _called_first(subject, batches[0]):
        message = "the adapter calls no module of the model, so there is nothing to compile"
        return Evidence.skipped(_NAME, message)
    recurrent = sorted({type(module).__name__ for module in subject.model.modules() if isinstance(module, nn.RNNBase)})
    if not run.graphs and recurrent:
        message = f"torch.compile leaves a forward that calls nn.{recurrent[0]} uncompiled, so there is nothing to compare"
        return Evidence.skipped(_NAME, message)
    if not run.graphs:
        message = f"torch.compile ({stage.backend}) compiles no part of the model: {_why_refused(subject, batches[0], stage)}"
        return Evidence.warned(_NAME, message, counterexample=shown, cause=_REFUSED, code="nothing_compiled")
    real = _confirmed(subject, batches, stage, [gap for gap in run.gaps if not gap.measured <= gap.bound])
    details = {
        "seconds": round(run.seconds, 1),
        "graphs": run.graphs,
        "graph_breaks": sum(run.graph_breaks.values()),
        "graph_break_reasons": list(run.graph_breaks),
    }
    if not real:
        worst = max(run.gaps, key=lambda gap: gap.measured / gap.bound if gap.bound else 0.0)
        return Evidence.ok(_NAME, "the same", (worst.measured, worst.bound, ""), counterexample=shown, details=details)
    first = real[0]
    others = f" (and {len(real) - 1} more)" if len(real) > 1 else ""
    return Evidence.failed(
        _NAME,
        f"compiled ({stage.backend}), {first.name} differ{'' if first.name == _LOGITS else 's'} from the uncompiled model's{others}",
        (first.measured, first.bound, ""),
        counterexample=shown,
        cause=_CAUSE,
        details=details,
        investigate=lambda: first_that_differs(subject, batches[first.batch], stage.backend),
        code="differs",
    )


_GRADIENT = "the gradient of "


def _is_gradient(name: str) -> bool:
    return name.startswith(_GRADIENT)


@dataclass(frozen=True)
class _Gap:
    """How far a quantity of the compiled model is from the model's own.

    Attributes:
        name: What it is.
        batch: Number of the batch.
        measured: The difference.
        bound: What rounding explains.
    """

    name: str
    batch: int
    measured: float
    bound: float


class _Own:
    """Logits and gradients of the model itself for a batch, and how far those of others are from them.

    Only its own gradients are kept: those of others are compared one by one as they are computed.
    """

    def __init__(self, subject: Subject, model: nn.Module, batch: Batch) -> None:
        self._subject, self._batch = subject, batch
        self._in_parts = False
        self.values: Quantities = {}
        _take(subject, model, batch, self._keep)
        gradients = [name for parameter, _ in model.named_parameters() if (name := f"{_GRADIENT}`{parameter}`") in self.values]
        names = [
            *(name for name in self.values if not _is_gradient(name)),
            *gradients,
        ]  # in the model's order, not the backward pass's
        self.values = {name: self.values[name] for name in names}

    def _keep(self, name: str, tensor: Tensor) -> None:
        self._in_parts = self._in_parts or name in self.values  # as reentrant checkpointing gives a gradient
        self.values[name] = self.values[name] + tensor if name in self.values else tensor

    def distances(self, model: nn.Module) -> dict[str, float]:
        """The distance of each quantity of another model; infinite of one that it does not have."""
        found = dict.fromkeys(self.values, float("inf"))

        def compare(name: str, tensor: Tensor) -> None:
            if name in self.values:
                found[name] = difference(self.values[name], tensor)

        if self._in_parts:
            for name, tensor in _Own(self._subject, model, self._batch).values.items():
                compare(name, tensor)
        else:
            _take(self._subject, model, self._batch, compare)
        return found

    def gaps(self, number: int, measured: dict[str, float]) -> list[_Gap]:
        """Distances beside what rounding explains, which is measured only where the resolution of the dtype does not explain them."""
        loudest = max((largest_absolute(t) for name, t in self.values.items() if _is_gradient(name)), default=0.0)
        noise = {
            name: torch.finfo(tensor.dtype).eps * (loudest if _is_gradient(name) else largest_absolute(tensor))
            for name, tensor in self.values.items()
        }
        tolerances = self._subject.task.tolerances

        def bound(name: str) -> float:
            own = FACTOR * noise[name]
            return own if _is_gradient(name) else tolerances.get(_NAME, own)

        for other in (lambda: nudged(self._subject.fresh(), 0), lambda: _double(self._subject)):
            if all(gap <= bound(name) for name, gap in measured.items()) or (model := other()) is None:
                break
            noise = {name: max(noise[name], gap) for name, gap in self.distances(model).items()}
            del model  # before the next one is made
        return [_Gap(name, number, gap, bound(name)) for name, gap in measured.items()]


def _double(subject: Subject) -> nn.Module | None:
    return None if subject.double is None else subject.fresh_double()


def _confirmed(subject: Subject, batches: list[Batch], stage: _Stage, suspects: list[_Gap]) -> list[_Gap]:
    """Those of the differences that are as large in float64: rounding shrinks there."""
    if not suspects or subject.double is None:
        return suspects
    again = _compile(subject, subject.fresh_double, batches, stage, is_exact=True)
    exact = {(gap.name, gap.batch): gap.measured for gap in again.gaps}
    return [gap for gap in suspects if exact[gap.name, gap.batch] >= gap.measured / FACTOR]


def _compile(
    subject: Subject, fresh: Callable[[], nn.Module], batches: list[Batch], stage: _Stage, is_exact: bool = False
) -> _Run:
    """Compiles a model and compares it with itself.

    Args:
        subject: What the model is called as.
        fresh: Makes copies of the model.
        batches: What they are called on.
        stage: The compiler.
        is_exact: Whether what rounding explains is of no interest.
    """
    run = _Run()
    with _own_compiler():
        counters = compiler_counters()
        counters.clear()
        model = fresh()
        _compile_in_place(subject, model, batches[0], backend=stage.backend)
        for number, batch in enumerate(batches):
            own = _Own(subject, fresh(), batch)
            started = processor_seconds()
            measured = own.distances(model)
            run.seconds += processor_seconds() - started
            exact = [_Gap(name, number, gap, 0.0) for name, gap in measured.items()]
            run.gaps += exact if is_exact else own.gaps(number, measured)
            del own  # with its gradients, before those of the next batch are computed
        run.graph_breaks = {str(reason).splitlines()[0]: int(times) for reason, times in counters["graph_break"].items()}
        run.graphs = int(counters["stats"]["unique_graphs"])
    return run


def _compile_in_place(subject: Subject, model: nn.Module, batch: Batch, **options: Any) -> None:
    """Has a model compiled when it is called; where an adapter calls parts of it rather than the model, those parts."""
    for path in _called_first(subject, batch):
        model.get_submodule(path).compile(**options)


def _called_first(subject: Subject, batch: Batch) -> list[str]:
    """Paths of the modules that the adapter itself calls: of the model as a rule, which is the empty path."""
    found, running = dict[str, None](), list[str]()

    def enter(path: str, _module: nn.Module, _args: Any, _kwargs: Any) -> None:
        if not running:
            found[path] = None
        running.append(path)

    def leave(_path: str, _output: Any) -> None:
        running.pop()

    model = subject.fresh()
    with hooked(model, enter, leave):
        subject.logits(batch, model)
    return ["" if path == path_of("") else path for path in found]


def _why_refused(subject: Subject, batch: Batch, stage: _Stage) -> str:
    """What the compiler says when it may not leave anything to Python, and the user's line that it says it of."""
    model = subject.fresh()
    with _own_compiler():
        _compile_in_place(subject, model, batch, backend=stage.backend, fullgraph=True)
        try:
            subject.logits(batch, model)
        except ModelRaisedError as error:
            return _said(error)
    return "it finds no operation to compile"


def _said(error: ModelRaisedError) -> str:
    """An exception of the compiler, and the user's line that it is about."""
    frames = getattr(error.error, "real_stack", None) or ()
    own = [frame for frame in frames if is_users_file(frame.filename)]
    return f"{error} ({short_name(own[-1].filename)}, line {own[-1].lineno})" if own else str(error)


@contextmanager
def _own_compiler() -> Iterator[None]:
    """A compiler that remembers nothing, and forgets what it learnt; it starts no processes."""
    silenced = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it says thousands of things, all of which pytest would show beside a failure
    torch.compiler.reset()
    try:
        with compiling_in_this_process(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.compiler.reset()
        logging.disable(silenced)


def _take(subject: Subject, model: nn.Module, batch: Batch, read: Callable[[str, Tensor], None]) -> None:
    """Gives every judged output, and the gradient of every parameter that has one, to a function, which may keep it."""
    model.zero_grad(set_to_none=True)
    values = values_of(subject, batch, model)
    for name, value in values.items():
        read(_LOGITS if len(values) == 1 else f"output `{name}`", value.detach().clone())
    loss = combined(values)
    if loss.requires_grad:
        gradients = reading_gradients(model, lambda name, gradient: read(f"{_GRADIENT}`{name}`", gradient))
        with gradients, blaming(model, BackwardRaisedError):
            loss.backward()


def _shapes(subject: Subject) -> list[Sizes]:
    typical, signature = subject.typical, subject.task.declared
    if signature is not None:
        return [typical, Sizes.of(_other_sizes(signature, typical.by_axis(subject.task)))]
    return [typical, Sizes(typical.batch + 2, max(subject.task.min_seq_len, typical.seq - 3), max(1, typical.target_seq - 2))]


def _other_sizes(signature: Signature, typical: dict[str, int]) -> dict[str, int]:
    """For every free axis another size than the typical one: two rows more, a little less of everything else; as far as the task allows."""
    found = dict(typical)
    for axis in signature.free_axes:
        before = found[axis.name]
        smaller = [size for size in axis.choices() if 1 < size < before]
        larger = next((size for size in axis.choices() if size > before + 1), before)
        for size in (larger, *reversed(smaller)) if axis.name == BATCH else (*reversed(smaller), larger):
            if signature.allows({**found, axis.name: size}):
                found[axis.name] = size
                break
    return found


def _lacks_compiler(evidence: Evidence) -> bool:
    """Whether the code generator failed for want of a C++ compiler rather than because of the model."""
    return any(word in evidence.message for word in ("InvalidCxxCompiler", "CppCompileError", "C++ compile", "No working C++"))
