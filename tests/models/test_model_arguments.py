"""Settings of a factory that lie in the config: as a dict, by attributes, or as the class that the factory asks for."""

from __future__ import annotations

import argparse
import copy
import pickle
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from harness.errors import FactoryError
from harness.models.arguments import Table, factory_arguments
from harness.models.loading import ModelSource

CFG = {"dim": 4, "head": {"classes": 3}, "blocks": [{"width": 8}]}


@dataclass
class Head:
    classes: int = 2


@dataclass
class Config:
    dim: int
    head: Head = field(default_factory=Head)
    blocks: list[Any] = field(default_factory=list)

    @property
    def double(self) -> int:
        return 2 * self.dim


class ByAttribute(nn.Module):
    def __init__(self, cfg) -> None:  # type: ignore[no-untyped-def]
        super().__init__()
        self.cfg = cfg
        self.layer = nn.Linear(cfg.dim, cfg.head.classes)
        self.more = nn.Linear(cfg.blocks[0].width, getattr(cfg, "missing", 5))


class ByKey(nn.Module):
    def __init__(self, cfg: dict[str, Any]) -> None:
        super().__init__()
        self.layer = nn.Linear(cfg["dim"], cfg["head"]["classes"])
        self.more = nn.Linear(in_features=cfg.get("none", 2), out_features=len({**cfg}))


class ByClass(nn.Module):
    def __init__(self, cfg: Config | None = None) -> None:
        super().__init__()
        assert cfg is not None
        assert isinstance(cfg.head, Head)
        self.layer = nn.Linear(cfg.dim, cfg.head.classes)
        self.more = nn.Linear(cfg.double, 1)


class ByNamespace(nn.Module):
    def __init__(self, cfg: argparse.Namespace) -> None:
        super().__init__()
        assert type(cfg) is argparse.Namespace
        self.layer = nn.Linear(cfg.dim, cfg.head.classes)


def by_vars(args: Any) -> nn.Module:
    args.double = 2 * args.dim
    return ByAttribute(SimpleNamespace(**vars(args)))


@pytest.mark.parametrize("factory", [ByAttribute, ByKey, ByClass, ByNamespace, by_vars])
def test_a_table_is_read_as_the_factory_reads_it(factory: Any) -> None:
    kwargs = {"args" if factory is by_vars else "cfg": CFG}
    before = copy.deepcopy(kwargs)
    model = ModelSource(factory, "model.py:build_model", kwargs=kwargs).build()
    assert tuple(model.layer.weight.shape) == (3, 4)  # type: ignore[union-attr, operator]
    assert kwargs == before


def test_a_table_of_omegaconf() -> None:
    config = pytest.importorskip("omegaconf").DictConfig

    def build(cfg: Any) -> nn.Module:
        assert type(cfg) is config
        return nn.Linear(cfg.dim, cfg.head.classes)

    build.__annotations__["cfg"] = config
    assert ModelSource(build, "model.py:build", kwargs={"cfg": CFG}).build().weight.shape == (3, 4)  # type: ignore[union-attr]


def test_a_table_can_be_copied_and_pickled() -> None:
    table = factory_arguments(ByAttribute, {"cfg": CFG})["cfg"]
    for other in (copy.deepcopy(table), copy.copy(table), pickle.loads(pickle.dumps(table))):
        assert type(other) is Table
        assert other == CFG
        assert other.head.classes == 3
    del table.dim
    assert not hasattr(table, "dim")


@pytest.mark.parametrize(
    ("factory", "cfg", "says"),
    [
        (ByAttribute, {"dims": 4}, "`model_kwargs.cfg` has no 'dim'. Did you mean 'dims'? It has: dims"),
        (ByAttribute, {"dim": 4, "head": {}}, "`model_kwargs.cfg.head` has no 'classes'. It has: nothing"),
        (
            ByAttribute,
            {"dim": 4, "head": {"classes": 2}, "blocks": [{"depth": 1}]},
            "`model_kwargs.cfg.blocks[0]` has no 'width'. Did you mean 'depth'? It has: depth",
        ),
        (ByKey, {"head": {}}, "`model_kwargs.cfg` has no 'dim'. It has: head"),
        (ByClass, {"dmi": 4}, "`model_kwargs.cfg`: Config takes no 'dmi'. Did you mean 'dim'? It takes: dim, head, blocks"),
        (ByClass, {"dim": 4, "head": {"class": 4}}, "`model_kwargs.cfg.head`: Head takes no 'class'"),
        (ByClass, {}, "`model_kwargs.cfg`: Config needs `dim`"),
    ],
)
def test_a_setting_that_is_not_there_is_named(factory: Any, cfg: dict[str, Any], says: str) -> None:
    with pytest.raises(FactoryError) as refused:
        ModelSource(factory, "model.py:build_model", kwargs={"cfg": cfg}).build()
    assert says in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1
