"""Private parts of other packages: named in one place only, and there in the versions that are installed."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness import compat
from pytest_modeltiers.compat import fixtures_by_name, modules_may_raise

ROOT = Path(__file__).parent.parent
OTHERS = ("torch", "lightning", "pytest", "_pytest", "hypothesis")
FILES = [path for package in ("harness", "pytest_modeltiers") for path in (ROOT / package).rglob("*.py")]
TREES = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in FILES}
OF_PYTHON = {"_getframe", "_current_frames", "_exit", "_replace", "_asdict", "_slotnames", "_value_"}
"""Private in name only, or Python's own."""
OF_OTHER_PACKAGES = {"_mapping", "_attn_implementation", "_inheriting"}
"""Of SQLAlchemy, transformers and multiprocessing."""
OPERATORS = "torch.ops.aten."
"""An operator's name is part of no private interface, whatever it begins with."""


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def own_names() -> set[str]:
    """Every name that the project itself defines."""
    names: set[str] = set(sys.builtin_module_names)
    for node in (node for tree in TREES.values() for node in ast.walk(tree)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) in ("self", "cls"):
            names.add(node.attr)
    return names - {"_parameters", "_modules", "_buffers"}


def foreign_names(tree: ast.AST, own: set[str]) -> Iterator[str]:
    """Private names of other packages: imported, read as attributes, or asked for by ``getattr``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] in OTHERS:
            yield from (f"{node.module}.{alias.name}" for alias in node.names if _has_private(f"{node.module}.{alias.name}"))
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] in OTHERS and _has_private(alias.name))
        elif isinstance(node, ast.Attribute) and is_private(node.attr) and ast.unparse(node.value) not in ("self", "cls"):
            whole = ast.unparse(node)
            if node.attr not in own | OF_PYTHON | OF_OTHER_PACKAGES and not whole.startswith(OPERATORS):
                yield whole
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr", "setattr") and len(node.args) > 1:
            name = node.args[1]
            if isinstance(name, ast.Constant) and is_private(str(name.value)):
                yield from {str(name.value)} - own - OF_PYTHON - OF_OTHER_PACKAGES


def _has_private(dotted: str) -> bool:
    parts = dotted.split(".")
    return parts[0] == "_pytest" or "internal" in parts or any(map(is_private, parts))


def test_nothing_private_of_another_package_is_named_outside_compat() -> None:
    own = own_names()
    found = {file: sorted(set(foreign_names(tree, own))) for file, tree in TREES.items() if not file.endswith("/compat.py")}
    assert {file: names for file, names in found.items() if names} == {}


def test_the_scan_finds_what_is_private() -> None:
    code = """
import torch._dynamo
from torch.utils._pytree import tree_map
from _pytest.fixtures import SubRequest
from hypothesis.internal.conjecture import engine
trainer.fit_loop._load_combined_loader_states()
getattr(model, "_jit_is_scripting")
model._parameters
"""
    assert len(set(foreign_names(ast.parse(code), own_names()))) == 7


@pytest.mark.parametrize("name", compat.PRIVATE)
def test_the_installed_version_has_each_private_name(name: str) -> None:
    private = compat.PRIVATE[name]
    assert getattr(compat, name) is getattr(importlib.import_module(private.module), private.name)
    assert private.use
    assert private.without


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'tree_leave'"):
        compat.tree_leave  # type: ignore[attr-defined]  # noqa: B018


def test_compat_imports_nothing_heavy() -> None:
    code = "import harness.compat, sys; sys.exit(bool({'torch', 'lightning', 'pytest'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


class Undefined(nn.Module):
    pass


class Raises(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise ValueError


def functions_of(error: BaseException) -> list[str]:
    found, trace = [], error.__traceback__
    while trace is not None:
        found.append(trace.tb_frame.f_code.co_name)
        trace = trace.tb_next
    return found


def test_names_of_functions() -> None:
    assert Undefined.forward.__name__ == compat.UNDEFINED_FORWARD
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        Raises()(torch.ones(1))
    assert [name for name in functions_of(caught.value) if name in compat.FORWARD_FUNCTIONS][-1] == "forward"
    assert {*functions_of(caught.value)} & {*compat.FORWARD_FUNCTIONS[1:]}
    with pytest.raises(RuntimeError) as caught_backward:
        torch.ones(1).sum().backward()
    assert compat.BACKWARD_FUNCTION in functions_of(caught_backward.value)


def test_what_a_module_keeps() -> None:
    module = nn.BatchNorm1d(2)
    module.register_buffer("cache", torch.ones(1), persistent=False)
    module.register_buffer("empty", None)
    module.register_forward_hook(lambda *_: None)
    module.add_module("inner", nn.Linear(1, 1))
    assert {*compat.CONTENTS_OF_MODULE} <= {*vars(module)}
    hooks = {name for name, value in vars(module).items() if "hook" in name and isinstance(value, dict)}
    assert hooks
    assert {name for name in hooks if not name.endswith(compat.HOOKS_OF_MODULE)} == set()
    assert compat.saved_names(module) == {
        "weight",
        "bias",
        "running_mean",
        "running_var",
        "num_batches_tracked",
        "empty",
        "inner",
    }
    assert {*compat.buffers_of(module)} == {"running_mean", "running_var", "num_batches_tracked", "cache", "empty"}
    assert {*compat.parameters_of(module)} <= {*compat.saved_names(module)}
    compat.children_of(module)["inner"] = replaced = nn.Identity()
    assert module.inner is replaced


def test_compiled_modules() -> None:
    module = nn.Linear(1, 1)
    assert getattr(torch.compile(module), compat.COMPILED_MODULE) is module
    module.compile()
    assert vars(module)["_compiled_call_impl"] is not None
    compat.forget_compiled(module)
    assert vars(module)["_compiled_call_impl"] is None
    assert compat.compiler_counters()["graph_break"] is compat.compiler_counters()["graph_break"]
    with compat.compiling_in_this_process():
        from torch._inductor import config

        assert config.compile_threads == 1
    traced = torch.fx.symbolic_trace(module)
    assert {*compat.CONTENTS_OF_GRAPH_MODULE} <= {*vars(traced)}


_WITHOUT_COMPILER = """
import sys
import torch
from torch import nn
from harness.compat import compiler_left_out

norm, rows = nn.LayerNorm(4, device="meta"), torch.ones(2, 4, device="meta")
with compiler_left_out():
    norm(rows)
    assert type(sys.modules["torch._dynamo"]).__name__ == "_AbsentCompiler"  # this version asks for it
assert "torch._dynamo" not in sys.modules
with compiler_left_out():
    norm(rows)
    import torch._dynamo
    torch._dynamo.graph_break()  # what the stand-in does not have is the real one's
assert type(sys.modules["torch._dynamo"]).__name__ == "module"
norm(rows)
double = torch.compile(nn.LayerNorm(4), backend="eager")
assert double(torch.ones(2, 4)).shape == (2, 4)
"""


_IMPORTS_WITHOUT_COMPILER = """
import sys
from harness.compat import compiler_left_out

with compiler_left_out():  # as a factory imports what it builds
    from torch.distributed.tensor import DTensor, DeviceMesh
    from torch.distributed.tensor.parallel import parallelize_module
assert type(sys.modules.get("torch._dynamo")).__name__ != "_AbsentCompiler"
assert not any(type(finder).__name__ == "_AbsentCompiler" for finder in sys.meta_path)
"""


@pytest.mark.parametrize("script", [_WITHOUT_COMPILER, _IMPORTS_WITHOUT_COMPILER], ids=["calls", "imports"])
def test_the_compiler_is_left_out_where_nothing_compiles(script: str) -> None:
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)


def test_storages_are_told_apart_also_without_data() -> None:
    one, other = torch.ones(2, device="meta"), torch.ones(2, device="meta")
    assert compat.storage_key(one) == compat.storage_key(one[1:]) != compat.storage_key(other)


def test_memory_is_shared_until_it_is_written() -> None:
    one = torch.ones(4)
    other = compat.shared_until_written(one)
    assert compat.is_shared_until_written(one)
    assert compat.memory_key(one) != compat.memory_key(other)
    other.add_(1)
    assert not compat.is_shared_until_written(other)
    assert one.tolist() == [1.0] * 4


def test_a_mapped_tensor_is_unwrapped() -> None:
    seen: list[Tensor] = []

    def look(x: Tensor) -> Tensor:
        seen.append(compat.unwrapped(x))
        return x * 2

    given = torch.arange(6.0).reshape(2, 3)
    torch.func.vmap(look, in_dims=1)(given)
    assert torch.equal(seen[0], given.T)


def test_objects_of_torchscript_have_a_type() -> None:
    assert "LinearPackedParamsBase" in compat.type_of_script_object(
        torch.ops.quantized.linear_prepack(torch.quantize_per_tensor(torch.ones(2, 2), 0.1, 0, torch.qint8), None)
    )


def test_tensors_are_scaled_in_place() -> None:
    tensors = [torch.ones(2), torch.ones(3)]
    compat.scale_in_place(tensors, torch.tensor(0.5))
    assert [float(tensor.sum()) for tensor in tensors] == [1.0, 1.5]


def test_schedules_in_a_schedule_are_found() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1)
    inner = [torch.optim.lr_scheduler.ConstantLR(optimizer), torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)]
    assert compat.parts_of_schedule(torch.optim.lr_scheduler.SequentialLR(optimizer, inner, [2])) == inner
    assert compat.parts_of_schedule(inner[0]) == []


@pytest.mark.skipif(importlib.util.find_spec("lightning") is None, reason="Lightning is not installed")
def test_lightning() -> None:
    import lightning

    assert hasattr(lightning.LightningModule, compat.JIT_IS_SCRIPTING)
    trainer = lightning.Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    compat.read_loader_states(trainer)
    module: Any = lightning.LightningModule()
    module.trainer = trainer
    module.save_hyperparameters({"rate": 1})
    assert {*vars(module)} - {*vars(lightning.LightningModule())} <= {*compat.NAMES_OF_LIGHTNING_MODULE}


def test_pytest(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    assert fixtures_by_name(request.node)["tmp_path"][-1].func.__module__ == "_pytest.tmpdir"


def test_constants_for_draws_are_read_from_the_modules_of_the_model_and_not_from_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hypothesis.internal.conjecture import providers

    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path / "harness_of_somebody"
    folder.mkdir()
    (folder / "net.py").write_text("LIMIT = 918273\n", encoding="utf-8")
    importlib.import_module("harness_of_somebody.net")
    read: list[str] = []
    monkeypatch.setattr(providers, "constants_from_module", lambda module: read.append(module.__name__) or providers.Constants())
    monkeypatch.setattr(providers, "_seen_modules", set())
    monkeypatch.setattr(providers, "_sys_modules_len", None)
    with modules_may_raise():
        providers._get_local_constants()
    assert "harness_of_somebody.net" in read
    assert not [name for name in read if name.partition(".")[0] in ("harness", "pytest_modeltiers")]
