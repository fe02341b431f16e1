"""The call of a repository that makes its model, found by following scripts that need packages, data and a GPU which are not here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from harness.config import load_config
from harness.models.factories import factories
from harness.models.factory import Factory
from harness.models.followed.call_sites import FoundCall, found_call, written_examples
from harness.models.loading import model_source
from harness.scaffold import scaffold
from harness.user_code import import_file

MODEL = """
from dataclasses import dataclass
import torch
from torch import nn

@dataclass
class Sizes:
    width: int = 4096
    depth: int = 32
    rate: float = None

class Net(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(cfg.width, cfg.width) for _ in range(cfg.depth)))
        self.head = nn.Linear(cfg.width, cfg.classes if hasattr(cfg, "classes") else 2)

    def forward(self, x):
        return self.head(self.layers(x))

class Plain(nn.Module):
    def __init__(self, width, depths, drop):
        super().__init__()
        self.layer = nn.Linear(width, sum(depths))

    def forward(self, x):
        return self.layer(x)
"""


def repository(tmp_path: Path, files: Mapping[str, str]) -> Any:
    """The model of a repository, imported."""
    for name, text in {"README.md": "", "net.py": MODEL, **files}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return import_file(tmp_path / "net.py", "net.py")


def call_of(tmp_path: Path, files: Mapping[str, str], name: str = "Net", required: tuple[str, ...] = ("cfg",)) -> FoundCall:
    found = found_call(getattr(repository(tmp_path, files), name), required)
    assert found is not None
    return found


def test_the_defaults_of_a_command_line_reach_the_model_through_functions(tmp_path: Path) -> None:
    script = """
import argparse, visdom, torch
import torch.distributed as dist
from net import Net as Network

def parse():
    parser = argparse.ArgumentParser()
    group = parser.add_argument_group("model")
    group.add_argument("-w", "--width", type=int, default="8")
    group.add_argument("--num-layers", dest="depth", default=2)
    parser.add_argument("--name", required=True)
    parser.add_argument("--data", default="train.csv")
    return parser.parse_args()

def train(args):
    dist.init_process_group(backend="nccl")
    loader = load(args.data)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = torch.nn.DataParallel(Network(args)).to(device)

if __name__ == "__main__":
    args = parse()
    args.classes = 5 if args.depth == 2 else len(loader.classes)
    train(args)
"""
    found = call_of(tmp_path, {"train.py": script})
    assert found.values == {"cfg": {"width": 8, "depth": 2, "classes": 5}}  # what the model's file never names is left out
    assert found.place == "train.py, line 19"


@pytest.mark.parametrize(
    "script",
    [
        "from yacs.config import CfgNode as CN\nfrom net import Net\n_C = CN()\n_C.width = 4\n_C.depth = 1\n_C.merge_from_file(ARGS)\n"
        "import argparse\nparser = argparse.ArgumentParser()\nparser.add_argument('--cfg', required=True)\n"
        "_C.merge_from_file(parser.parse_args().cfg)\nmodel = eval('Net')(_C)\n",
        "import yaml\nfrom easydict import EasyDict\nimport net\nwith open('configs/missing.yaml') as f:\n"
        "    settings = EasyDict(yaml.safe_load(f))\nmodel = net.Net(settings)\n",
        "from omegaconf import OmegaConf\nfrom net import Net\nmodel = Net(OmegaConf.load('configs/base.yaml'))\n",
        "import json\nfrom net import Net\nclass HParams:\n    def __init__(self, **kwargs):\n        self.__dict__.update(kwargs)\n"
        "model = Net(HParams(**json.loads(open('configs/base.json').read())))\n",
    ],
    ids=["yacs", "easydict", "omegaconf", "hparams"],
)
def test_config_files_are_read(tmp_path: Path, script: str) -> None:
    files = {"configs/base.yaml": "width: 6\ndepth: 3\n", "configs/base.json": '{"width": 6, "depth": 3}', "main.py": script}
    assert call_of(tmp_path, files).values == {"cfg": {"width": 6, "depth": 3}}


def test_plain_arguments_are_computed(tmp_path: Path) -> None:
    script = """
from net import Plain
WIDTHS = {"small": 4, "large": 64}
def defaults():
    found = dict(depths="1,2,3", drop=None)
    found.update({"width": WIDTHS["small"]})
    return found
def create(width, depths, drop=None, **kwargs):
    sizes = []
    for each in depths.split(","):
        sizes.append(int(each) * 2)
    if drop is None:
        drop = 0.5
    return Plain(width=width, depths=tuple(sizes), drop=drop)
if __name__ == "__main__":
    create(**defaults())
"""
    found = call_of(tmp_path, {"scripts/build.py": script}, "Plain", ("width", "depths", "drop"))
    assert found.values == {"width": 4, "depths": [2, 4, 6], "drop": 0.5}


def test_a_function_that_no_script_calls_is_followed_from_its_defaults(tmp_path: Path) -> None:
    script = "from net import Plain\ndef make(width=3):\n    return Plain(width, [1], drop=0.1)\n"
    assert call_of(tmp_path, {"makers.py": script}, "Plain", ("width",)).values == {"width": 3, "depths": [1], "drop": 0.1}


def test_what_is_not_known_is_left_out_and_nothing_runs(tmp_path: Path) -> None:
    script = """
import os, subprocess
from net import Plain
open("written.txt", "w").write("x")
os.makedirs("made")
subprocess.run(["touch", "ran.txt"])
while True:
    pass
Plain(int(os.environ["WIDTH"]), [1] * 10**9, drop=0.1)
"""
    module = repository(tmp_path, {"train.py": script})
    found = found_call(module.Plain, ("width",))
    assert found is None
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "__pycache__") == ["README.md", "net.py", "train.py"]


def test_endless_recursion_ends(tmp_path: Path) -> None:
    module = repository(tmp_path, {"train.py": "from net import Plain\ndef f(x):\n    return f(x + 1)\nPlain(f(0), [1], 0.1)\n"})
    assert found_call(module.Plain, ("width",)) is None


def test_the_factory_is_called_as_the_script_calls_it(tmp_path: Path) -> None:
    script = "from net import Net, Sizes\nsizes = dict(width=8, depth=2)\nmodel = Net(Sizes(**sizes))\n"
    module = repository(tmp_path, {"train.py": script})
    made = next(each for each in factories(module, {}, "Net"))
    assert isinstance(made, Factory)
    assert made.place == "train.py, line 3"
    assert "None" in made.objects[0].expression  # which no TOML has a word for: the table is written in Python
    assert len(made.source.build().layers) == 2


def test_only_modules_of_the_repository_say_which_settings_matter(tmp_path: Path) -> None:
    script = "from argparse import Namespace\nfrom net import Net\nNet(Namespace(width=2, depth=1, learning_rate=0.1))\n"
    assert call_of(tmp_path, {"train.py": script}).values == {"cfg": {"width": 2, "depth": 1}}


DETECTOR = """
import torch
from torch import nn

class Detector(nn.Module):
    def __init__(self, opt=None):
        super().__init__()
        self.backbone = nn.Conv2d(3, opt["width"], 3)
        if opt["pretrain"]:
            torch.load("weights/backbone.pth")
        self.head = nn.Conv2d(opt["width"], opt.num_classes, 1) if opt.mode == "dense" else None

    def forward(self, x):
        return self.head(self.backbone(x).relu()), x
"""
SCRIPT = """
import cv2, argparse
from data import CONFIGS
from detector import Detector
parser = argparse.ArgumentParser()
parser.add_argument("--network", default="small")
args = parser.parse_args()
cfg = None
if args.network == "small":
    cfg = CONFIGS["small"]
elif args.network == "large":
    cfg = CONFIGS["large"]
net = Detector(opt=cfg)
"""


def test_a_config_is_written_that_builds_the_model_as_the_script_does(tmp_path: Path) -> None:
    settings = (
        "from argparse import Namespace\nCONFIGS = {'small': Namespace(width=5, pretrain=True), 'large': Namespace(width=500)}\n"
    )
    files = {
        "detector.py": DETECTOR,
        "train.py": SCRIPT,
        "data/__init__.py": "from .config import *\n",
        "data/config.py": settings,
    }
    repository(tmp_path, files)
    found = scaffold(tmp_path / "detector.py")
    config = load_config(found.config)
    # Trained weights that are not there are left out, and what the script leaves unknown has a usual value.
    assert config.model_kwargs == {"opt": {"width": 5, "pretrain": False, "mode": "dense", "num_classes": 4}}
    assert "as in train.py, line 13" in found.config.read_text()
    assert model_source(config).build().backbone.out_channels == 5
    assert set(found.factory.guessed) == {"opt", "opt.mode", "opt.num_classes"}


def test_a_part_that_acts_is_called_where_the_model_only_gives_arrays(tmp_path: Path) -> None:
    text = (
        "import torch\nfrom torch import nn\n\n"
        "class Agent(nn.Module):\n"
        "    def __init__(self, observation_space):\n"
        "        super().__init__()\n"
        "        self.q = nn.Linear(observation_space.shape[0], 1)\n"
        "        self.pi = nn.Linear(observation_space.shape[0], 2)\n"
        "    def act(self, obs):\n"
        "        with torch.no_grad():\n"
        "            return self.pi(obs).numpy()\n"
    )
    repository(tmp_path, {"agent.py": text})
    found = scaffold(tmp_path / "agent.py")
    assert found.factory.part == "pi"
    assert ".pi\n" in (tmp_path / "modeltiers_model.py").read_text()
    names = [name for name, _ in model_source(load_config(found.config)).build().named_parameters()]
    assert names == ["weight", "bias"]  # of the actor only: what its training alone calls is no finding


USED = """
import numpy as np
import torch
from net import Net, Sizes

class Wrapped(torch.nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, scale=2):
        return self.net(x.reshape(-1, 6 * scale))

def test_it(rows=5):
    wrapped = Wrapped(Net(Sizes()).eval().to("cuda"))
    for batch in load_everything():
        wrapped(torch.randn(rows, 3, len(np.linspace(0, 1, 4))))
"""

CELL = ["%time\n", "import torch, net\n", "net.Net(1)(torch.ones(4, 3))"]
NOTEBOOK = json.dumps({"cells": [{"cell_type": "code", "source": CELL}]})


@pytest.mark.parametrize(
    ("name", "text", "shape"),
    [
        ("tests/test_net.py", USED, (5, 12)),
        ("README.md", "```python\nimport torch\nfrom net import Net\nNet(...)(torch.rand(2, 7))\n```\n", (2, 7)),
        ("demo.ipynb", NOTEBOOK, (4, 3)),
        ("train.py", "from net import Net\nfor x in loader:\n    Net(2)(x)\n", None),
    ],
)  # fmt: skip
def test_an_input_is_read_from_what_the_repository_tries_its_model_with(
    name: str, text: str, shape: tuple[int, ...] | None, tmp_path: Path
) -> None:
    module = repository(tmp_path, {name: text})
    made = written_examples(module, module.Net(module.Sizes(width=4, depth=1)))
    assert (tuple(made["x"][0].shape) if made else None) == shape
    assert all(name.rpartition("/")[2] in where for _, where in made.values())


def test_a_call_of_something_unknown_that_gives_every_argument_makes_the_model(tmp_path: Path) -> None:
    script = """
import argparse, net
parser = argparse.ArgumentParser()
commands = parser.add_subparsers(dest="mode")
train = commands.add_parser("train")
train.add_argument("--name", required=True)
train.add_argument("--width", type=int, default=24)
args = parser.parse_args()
if args.mode == "train":
    model = getattr(net, args.name)(width=args.width, depths=[2, args.more], drop=0.5)
"""
    found = call_of(tmp_path, {"main.py": script}, "Plain", ("width", "depths", "drop"))
    assert found.values == {"width": 24, "drop": 0.5}


def test_of_a_condition_that_is_not_known_the_branch_where_it_holds_is_followed(tmp_path: Path) -> None:
    script = """
import argparse, net
args = argparse.ArgumentParser().parse_args()
width = 3
if args.help_me:
    raise SystemExit
if args.kind == "wide":
    width = 48
elif args.kind == "narrow":
    width = 2
model = net.Plain(width, [2], 0.5)
"""
    assert call_of(tmp_path, {"main.py": script}, "Plain", ("width",)).values["width"] == 48


def test_what_the_files_call_a_model_comes_before_later_classes(tmp_path: Path) -> None:
    text = "from torch import nn\n\nclass Net(nn.Module):\n    pass\n\nclass Head(nn.Module):\n    pass\n"
    train = "from two import *\nself.model = Net().to(device)\nhead = Head()\n"
    for name, content in {"two.py": text, "train.py": train}.items():
        (tmp_path / name).write_text(content)
    assert [made.name for made in factories(import_file(tmp_path / "two.py", "two.py"), {})] == ["Net", "Head"]


def test_a_size_that_the_files_set_comes_before_a_usual_one(tmp_path: Path) -> None:
    config = "conf = edict()\nconf.width = 40\nconf.drop = -1\nparser.add_argument('--depths', default=7)\n"
    made = next(factories(repository(tmp_path, {"config.py": config}), {}, "Plain"))
    assert (made.kwargs["width"], made.kwargs["drop"]) == (40, 0.1)
    assert "width" in made.guessed


def test_options_of_a_documented_command_line_lead_to_their_config(tmp_path: Path) -> None:
    script = '''
"""
Usage:
    train.py [options]

Options:
    --config=<path>     The config [default: ./configs/small.yaml]
    --cpu               No GPU
"""
from docopt import docopt
from ruamel.yaml import YAML
from net import Plain
options = docopt(__doc__)
for each in YAML().load_all(open(options["--config"], "r")):
    found = dict(each)
Plain(found["sizes"]["width"], [1], 0.5)
'''
    call = call_of(tmp_path, {"train.py": script, "configs/small.yaml": "sizes: {width: 33}\n"}, "Plain", ("width",))
    assert call.values["width"] == 33


def test_a_dict_of_settings_counts_where_the_space_beside_it_is_unknown(tmp_path: Path) -> None:
    net = """
from torch import nn

class Net(nn.Module):
    def __init__(self, config, observation_space, action_space_shape):
        super().__init__()
        self.body = nn.Linear(observation_space.shape[0], config["sizes"]["width"])
        self.head = nn.Linear(config["sizes"]["width"], action_space_shape[0])

    def forward(self, x):
        return self.head(self.body(x))
"""
    train = "from net import Net\nenv = make()\nNet({'sizes': {'width': 33}}, env.observation_space, (env.action_space.n,))\n"
    made = next(factories(repository(tmp_path, {"net.py": net, "train.py": train}), {}))
    model = made.source.build()
    assert (model.body.in_features, model.body.out_features, model.head.out_features) == (8, 33, 4)


def test_an_entry_that_is_unknown_now_is_not_what_it_was_before(tmp_path: Path) -> None:
    script = """
import json, os
from net import Net, Sizes
table = json.loads("TABLE")
settings = dict(width=8, depth=3)
words = None
if os.path.exists("words.bin"):
    words = len(open("words.bin").read())
settings["depth"] = words if words is not None else 5
model = Net(Sizes(**settings))
"""
    found = call_of(tmp_path, {"train.py": script.replace("TABLE", "[1, 2]" * 200)})
    assert found.values == {"cfg": {"width": 8, "depth": 32, "rate": None}}


def test_a_script_that_is_the_models_own_file_comes_first(tmp_path: Path) -> None:
    own = MODEL
    own += "\ndef main():\n    sizes = {'width': 4, 'depths': [1], 'drop': 0.0}\n    Plain(**sizes)\n\nif __name__ == '__main__':\n    main()\n"
    other = "from net import Plain\nPlain(width=16, depths=[2, 2], drop=0.1)\n"
    found = call_of(tmp_path, {"net.py": own, "train.py": other}, "Plain", ("width", "depths", "drop"))
    assert (found.values["width"], found.place) == (4, f"net.py, line {own[: own.index('Plain(**')].count(chr(10)) + 1}")


def test_classes_that_a_script_counts_in_data_which_are_not_here_are_guessed(tmp_path: Path) -> None:
    script = "from net import Plain\nnames = []\n"
    script += "for name in open('names.txt'):\n    names.append(load(name))\nPlain(width=16, n_out=len(names))\n"
    module = repository(
        tmp_path, {"net.py": MODEL.replace("depths, drop", "n_out").replace("sum(depths)", "n_out"), "train.py": script}
    )
    made = next(each for each in factories(module, {}) if each.name == "Plain")
    assert made.kwargs["width"] == 16
    assert made.kwargs["n_out"] > 0
