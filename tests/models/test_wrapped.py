"""Models that come compiled, scripted, exported or quantised are taken, or refused in a true sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.catalogue import CATALOGUE
from harness.errors import FactoryError
from harness.evidence import Status
from harness.export.export_model import export_model
from harness.models.loading import ModelSource
from harness.tasks import TaskSpec, TaskType
from pytest_modeltiers.live import judge_model

TABLE = TaskSpec(TaskType.TABULAR_CLASSIFICATION, num_features=4, num_classes=3)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
        self.head = nn.Linear(8, 3)

    def forward(self, features: Tensor) -> Tensor:
        return self.head(self.body(features))


def compiled() -> Any:
    return torch.compile(Net(), backend="eager")


def compiled_inside() -> nn.Module:
    model = Net()
    model.body = torch.compile(model.body, backend="eager")  # type: ignore[assignment]
    model.head.compile(backend="eager")
    return model


def scripted() -> nn.Module:
    return torch.jit.script(Net())


def scripted_inside() -> nn.Module:
    model = Net()
    model.body = torch.jit.script(model.body)
    return model


def exported() -> nn.Module:
    return torch.export.export(Net(), (torch.randn(2, 4),)).module()


@pytest.mark.parametrize("factory", [compiled, compiled_inside])
def test_a_compiled_model_is_the_model_inside(factory: Any, tmp_path: Path) -> None:
    weights = tmp_path / "compiled.pt"
    torch.save(factory().state_dict(), weights)
    model = ModelSource(factory, "model.py:build_model", weights=weights).build()
    assert type(model) is Net
    assert model.state_dict().keys() == Net().state_dict().keys()
    assert not any(module._compiled_call_impl for module in model.modules())
    evidence = judge_model(factory, TABLE, only=("shape_contract",), share=0.2)["shape_contract"]
    assert evidence.status is Status.OK


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("factory", "says"),
    [
        (scripted, "model.py:build_model: the model is a TorchScript module"),
        (scripted_inside, "model.py:build_model: `body` is a TorchScript module"),
        (exported, "model.py:build_model: the model is the module of an exported program"),
    ],
)
def test_one_whose_code_is_gone_is_refused(factory: Any, says: str) -> None:
    with pytest.raises(FactoryError) as refused:
        ModelSource(factory, "model.py:build_model").build()
    assert str(refused.value).startswith(says)
    assert "return the nn.Module that it was made of" in str(refused.value)


class Leaky(Net):
    def forward(self, features: Tensor) -> Tensor:
        hidden = self.body(features)
        return self.head(hidden - hidden.mean(0))


def exported_freely(kind: type[nn.Module] = Net) -> Any:
    return torch.export.export(kind(), (torch.randn(2, 4),), dynamic_shapes=({0: torch.export.Dim.AUTO},))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("factory", "skips"),
    [
        (scripted, {"gradient_flow[reaches_every_parameter]", "gradient_flow[finite]", "device_move", "serialisation[pickle]"}),
        (lambda: torch.jit.trace(Net(), torch.randn(2, 4)), {"device_move"}),
        (exported_freely, {"mode_round_trip", "serialisation[pickle]", "serialisation[deepcopy]"}),
        (lambda: exported_freely().module(), {"mode_round_trip"}),
    ],
    ids=["scripted", "traced", "program", "module"],
)
def test_tier_1_judges_the_answers_of_one_whose_code_is_gone(factory: Any, skips: set[str]) -> None:
    found = judge_model(factory, TABLE, share=0.2)
    assert {name: each.message for name, each in found.items() if each.status in (Status.FAIL, Status.WARN)} == {}
    assert skips <= {name for name, each in found.items() if each.status is Status.SKIPPED}
    for name in ("shape_contract", "batch_independence[forward]", "input_dependence[features]", "dtype_move[float64]"):
        assert found[name].status is Status.OK


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "factory", [lambda: torch.jit.script(Leaky()), lambda: exported_freely(Leaky)], ids=["scripted", "program"]
)
def test_a_leak_of_one_whose_code_is_gone_is_found(factory: Any) -> None:
    found = judge_model(factory, TABLE, share=0.2, only=("batch_independence", "eval_deterministic"))
    assert found["batch_independence[forward]"].status is Status.FAIL
    assert found["eval_deterministic"].status is Status.OK


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_only_tier_1_judges_one_whose_code_is_gone() -> None:
    with pytest.raises(FactoryError, match='only `"tier": "1"` judges it'):
        judge_model(scripted, TABLE, tiers=(1, 2))
    source = ModelSource(scripted_inside, "model.py:build_model", takes_compiled=True)
    with pytest.raises(FactoryError, match="`body` is a TorchScript module"):
        source.build()


def with_lora() -> nn.Module:
    peft = pytest.importorskip("peft")
    return peft.get_peft_model(Net(), peft.LoraConfig(r=2, target_modules=["body.0", "head"]))  # type: ignore[no-any-return]


def of_torchao() -> nn.Module:
    quantization = pytest.importorskip("torchao.quantization")
    model = Net()
    quantization.quantize_(model, quantization.Int8WeightOnlyConfig())
    return model


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("factory", [with_lora, of_torchao])
def test_adapters_and_quantised_weights_of_packages_are_judged(factory: Any) -> None:
    found = judge_model(factory, TABLE, share=0.2)
    assert {name: each.message for name, each in found.items() if each.status is Status.FAIL} == {}
    assert found["batch_independence[forward]"].status is Status.OK


def test_a_compiled_object_is_exported_and_left_as_it_is(tmp_path: Path) -> None:
    model = compiled()
    assert export_model(model, None, TABLE, tmp_path, ["pytorch"])["pytorch"].is_file()
    assert type(model).__name__ == "OptimizedModule"


class Packed(Tensor):
    """A weight of 8-bit integers and a scale, which knows a linear layer and little else, as those of torchao."""

    values: Tensor
    scale: Tensor

    @staticmethod
    def __new__(cls, values: Tensor, scale: Tensor) -> Packed:
        return torch.Tensor._make_wrapper_subclass(cls, values.shape, dtype=torch.float32)  # type: ignore[attr-defined]

    def __init__(self, values: Tensor, scale: Tensor) -> None:
        self.values, self.scale = values, scale

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["values", "scale"], None

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.linear:
            values, weight, bias = args
            return F.linear(values, weight.values.to(values.dtype) * weight.scale, bias)
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten.detach.default, torch.ops.aten.clone.default):
            return cls(args[0].values, args[0].scale)
        if func is torch.ops.aten.copy_.default:
            args[0].values.copy_(args[1].values)
            args[0].scale.copy_(args[1].scale)
            return args[0]
        raise NotImplementedError(f"Packed dispatch: attempting to run unimplemented operator/function: func={func!r}")


def quantised() -> nn.Module:
    model = Net()
    for layer in (model.body[0], model.head):
        scale = layer.weight.detach().abs().max() / 127  # type: ignore[union-attr, operator]
        values = (layer.weight.detach() / scale).round().to(torch.int8)  # type: ignore[union-attr, operator]
        layer.weight = nn.Parameter(Packed(values, scale), requires_grad=False)  # type: ignore[union-attr]
    return model


def test_a_probe_that_a_quantised_weight_does_not_allow_is_skipped() -> None:
    # Whether a file with such weights loads is the matter of those who wrote the class.
    names = {name for name, entry in CATALOGUE.items() if entry.tier == 1} - {"serialisation"}
    found = judge_model(quantised, TABLE, only=names, share=0.2)
    assert {name: evidence.message for name, evidence in found.items() if evidence.status is Status.FAIL} == {}
    assert found["shape_contract"].status is Status.OK
    assert found["batch_independence[forward]"].status is Status.OK
    assert any("are of a kind without `aten." in e.message for e in found.values() if e.status is Status.SKIPPED)
