"""TorchScript: traced, or scripted where tracing would freeze a decision that depends on the data."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.compat import JIT_IS_SCRIPTING
from harness.export.formats import (
    Attempt,
    Exported,
    ExportError,
    Inspection,
    TorchExporter,
    TritonBackend,
    by_position,
)

if TYPE_CHECKING:
    import torch
    from torch import nn

    from harness.export.blame import Blame
    from harness.export.formats import Run, WrongFile
    from harness.export.program import Program


def load_torchscript(path: str, inputs: dict[str, str], threads: int = 0) -> Run:
    """A TorchScript module on the CPU; loading one can run code from the file."""
    import torch

    return by_position(torch.jit.load(path, map_location="cpu"), inputs, threads)


class TorchScriptExporter(TorchExporter):
    """``torch.jit``; deprecated in PyTorch, and still what many servers load."""

    name = "torchscript"
    filename = "model.ts"
    by_default = True
    holds_code = True
    standalone = (by_position, load_torchscript)
    triton = TritonBackend("pytorch", "pytorch_libtorch", "model.pt")

    def export(self, program: Program, path: Path) -> Exported:
        """Traces the program; scripts the model instead where the tracer says that it froze something and scripting works."""
        import torch

        from harness.export import one_line
        from harness.export.formats.exported_program import failures, quiet

        attempts: list[Attempt] = []
        frozen: list[str] = []
        module: torch.jit.ScriptModule | None = None
        try:
            module, frozen = traced(program)
        except Exception as error:
            attempts.append(Attempt("trace", one_line(error)))
        if module is None or frozen:
            scripted, reason = _script(program)
            if scripted is not None:
                attempts += [Attempt("trace", frozen[0])] if frozen else []
                module, frozen = scripted, []
                attempts.append(Attempt("script"))
            elif module is None:
                raise ExportError(failures([*attempts, Attempt("script", reason)]))
            else:
                attempts += [Attempt("script", reason), Attempt("trace")]
        else:
            attempts.append(Attempt("trace"))
        with quiet():
            torch.jit.save(module, str(path))
        return Exported(tuple(attempts), notes={"frozen": frozen} if frozen else {})

    def inspect(self, path: Path, program: Program) -> Inspection:
        """Counts the operators, and looks for those of training."""
        from harness.export.formats.exported_program import trains

        nodes = list(_nodes(_load(path).inlined_graph))
        counts = Counter(node.kind() for node in nodes if not node.kind().startswith("prim::"))
        training = [f"{node.kind()}{_scope(node)}" for node in nodes if trains(node.kind(), _constants(node))]
        facts = {"operators": dict(counts.most_common()), "file_bytes": path.stat().st_size}
        return Inspection(facts, training=tuple(training))

    def module(self, path: Path) -> Callable[..., Any]:
        """Loads the module on the CPU."""
        module: Callable[..., Any] = _load(path)
        return module

    def blame(self, wrong: WrongFile) -> Blame:
        """Compares the file with the model operator by operator."""
        from harness.export.blame.torch_files import blame_torch

        return blame_torch(wrong.run, wrong.program, wrong.batch, wrong.bound)


def _load(path: Path) -> torch.jit.ScriptModule:
    import torch

    from harness.export import one_line
    from harness.export.formats.exported_program import quiet

    try:
        with quiet():
            return torch.jit.load(str(path), map_location="cpu")
    except Exception as error:
        raise ExportError(f"{path.name} is not a TorchScript file that can be loaded: {one_line(error)}") from error


def _nodes(block: Any) -> Iterator[Any]:
    """The nodes of a graph, those of branches and loops too."""
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from _nodes(inner)


def _constants(node: Any) -> list[Any]:
    """A node's arguments: constants by their value, ``None`` for what is computed."""
    return [value.toIValue() if value.node().kind() == "prim::Constant" else None for value in node.inputs()]


def _scope(node: Any) -> str:
    """The module that a traced node came from."""
    from harness.export.program import module_path

    name = node.scopeName().rpartition("/")[2].partition("::")[2]
    return f" in `{module_path(name)}`" if name else ""


def traced(program: Program) -> tuple[torch.jit.ScriptModule, list[str]]:
    """The traced program, and what of the user's code the tracer says it froze."""
    import torch

    from harness.export.formats.exported_program import tracing
    from harness.runtime import seeded

    with tracing() as frozen, seeded(0), torch.no_grad(), _without_trainer(program.forward.model):
        module = torch.jit.trace(program.forward, program.arguments, check_trace=False)
    return module, frozen


@contextmanager
def _without_trainer(model: nn.Module) -> Iterator[None]:
    """Lets torch read every attribute of a LightningModule, whose ``trainer`` otherwise raises where there is none."""
    if not hasattr(type(model), JIT_IS_SCRIPTING):
        yield
        return
    object.__setattr__(model, JIT_IS_SCRIPTING, True)
    try:
        yield
    finally:
        object.__delattr__(model, JIT_IS_SCRIPTING)


def _script(program: Program) -> tuple[torch.jit.ScriptModule | None, str]:
    """The scripted model where its signature is that of an exported function; otherwise the reason."""
    import torch

    from harness.export import one_line
    from harness.export.formats.exported_program import quiet
    from harness.export.program import LOGITS
    from harness.models.copies import clone_with_classes

    model = program.forward.model
    parameters = [
        p for p in inspect.signature(model.forward).parameters.values() if p.default is p.empty or p.name in program.fields
    ]
    wrappers = _wrappers()
    if len(parameters) != len(program.fields) or len(program.fields) > len(wrappers):
        return None, "forward takes other arguments than the exported function"
    try:
        if any(hasattr(module, "__prepare_scriptable__") for module in model.modules()):
            model = clone_with_classes(model)  # that method may change the module, as torchaudio's takes its weight norm away
        with quiet(), _without_trainer(model):
            scripted = torch.jit.script(wrappers[len(program.fields) - 1](model).eval())
            output = scripted(*program.arguments)
    except Exception as error:
        return None, one_line(error)
    if not _gives(program, output):
        given = "the logits" if program.outputs == (LOGITS,) else "the declared outputs in their order"
        return None, f"forward returns something other than {given}"
    return scripted, ""


def _gives(program: Program, returned: Any) -> bool:
    """Whether a scripted model returns what the program does: as many tensors, of the same shapes."""
    from torch import Tensor

    found = list(returned) if isinstance(returned, tuple) else [returned]
    expected = list(program.eager_outputs(program.example).values())
    if len(found) != len(expected) or not all(isinstance(tensor, Tensor) for tensor in found):
        return False
    return [tensor.shape for tensor in found] == [tensor.shape for tensor in expected]


def _wrappers() -> tuple[type[nn.Module], ...]:
    """Modules that pass on one, two or three inputs by position: scripting knows no variable number of arguments.

    An argument without an annotation is a tensor in TorchScript.
    """
    from torch import nn

    class One(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, a):  # type: ignore[no-untyped-def]
            return self.model(a)

    class Two(One):
        def forward(self, a, b):  # type: ignore[no-untyped-def, override]
            return self.model(a, b)

    class Three(One):
        def forward(self, a, b, c):  # type: ignore[no-untyped-def, override]
            return self.model(a, b, c)

    return One, Two, Three
