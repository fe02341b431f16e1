"""What files of published repositories have in common, which `init` has to see through: forecasters, agents, scripts that fetch their data."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from test_init_any_forward import declared

from harness.cli import main
from harness.config import load_config
from harness.errors import FactoryError
from harness.evidence import Status
from harness.models.loading import model_source
from harness.partial_import import LEFT_OUT
from harness.scaffold import scaffold
from pytest_modeltiers.live import judge_model

FORECASTER = """
import torch
from torch import nn

class Model(nn.Module):
    def __init__(self, configs):
        super().__init__()
        self.task_name, self.pred_len = configs.task_name, configs.pred_len
        if self.task_name == "long_forecast" or self.task_name == "short_forecast":
            self.along = nn.Linear(configs.seq_len, configs.pred_len)
        elif self.task_name == "imputation":
            self.along = nn.Linear(configs.seq_len, configs.seq_len)
        self.past = nn.Linear(configs.enc_in + 4, configs.c_out)
        self.ahead = nn.Linear(configs.dec_in + 4, configs.c_out)

    def forward(self, x_enc, x_mark_enc, x_dec, x_mark_dec):
        past = self.past(torch.cat([x_enc, x_mark_enc], -1))
        ahead = self.ahead(torch.cat([x_dec, x_mark_dec], -1))[:, -self.pred_len:]
        return self.along(past.transpose(1, 2)).transpose(1, 2) + ahead + x_enc[:, -1:]
"""


def test_windows_of_a_forecaster_are_as_long_as_its_settings_say(tmp_path: Path) -> None:
    keys = declared(FORECASTER, tmp_path)
    assert keys["inputs"]["x_enc"]["axes"] == ["batch", 64, 8]
    assert keys["inputs"]["x_mark_enc"]["axes"] == ["batch", 64, 4]
    assert [keys["inputs"][name]["axes"][2] for name in ("x_dec", "x_mark_dec")] == [8, 4]
    assert keys["outputs"]["output"]["axes"] == ["batch", 16, 8]


AGENT = """
import torch
from torch import nn

class Agent(nn.Module):
    def __init__(self, action_space, hidden_dim):
        super().__init__()
        self.actions = action_space
        self.layers = nn.Sequential(
            nn.Conv2d(4, 8, 8, 4), nn.ReLU(), nn.Conv2d(8, 8, 4, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, 1), nn.ReLU()
        )
        self.head = nn.Linear(8 * 7 * 7, hidden_dim)
        self.values = nn.Linear(hidden_dim, action_space * 5)

    def forward(self, x):
        x = self.layers(x).view(-1, 8 * 7 * 7)
        return self.values(self.head(x).relu()).view(-1, self.actions, 5).softmax(2)
"""


def test_actions_that_are_counted_are_a_number_and_frames_have_the_size_that_keeps_their_rows(tmp_path: Path) -> None:
    keys = declared(AGENT, tmp_path)
    assert keys["inputs"]["x"]["axes"] == ["batch", 4, 84, 84]
    assert keys["outputs"]["output"]["axes"] == ["batch", 4, 5]


@pytest.mark.parametrize("name", ["n_src_vocab", "src_voc", "target_vocabulary_size", "vocab_len"])
def test_a_vocabulary_has_more_than_a_handful_of_words(name: str, tmp_path: Path) -> None:
    source = (
        f"from torch import nn\nclass Net(nn.Module):\n    def __init__(self, {name}):\n        super().__init__()\n"
        f"        self.table = nn.Embedding({name}, 8)\n        self.head = nn.Linear(8, {name})\n"
        "    def forward(self, ids):\n        return self.head(self.table(ids))\n"
    )
    (tmp_path / "net.py").write_text(source)
    assert scaffold(tmp_path / "net.py").factory.kwargs == {name: 256}


def test_a_script_whose_data_is_not_there_is_run_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    request.addfinalizer(LEFT_OUT.clear)
    package = tmp_path / "site-packages" / "torchvision"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("def load(): raise RuntimeError('Dataset not found. You can use download=True')\n")
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setitem(sys.modules, "torchvision", None)  # so that the one loaded here is not kept
    del sys.modules["torchvision"]
    script = f"import torchvision\nrows = torchvision.load()\n{AGENT}"
    (tmp_path / "script.py").write_text(
        script.replace("def __init__(self, action_space, hidden_dim)", "def __init__(self, action_space=4, hidden_dim=8)")
    )
    assert main(["init", str(tmp_path / "script.py"), "--no-run"]) == 0
    assert "line 2 raises RuntimeError: Dataset not found" in capsys.readouterr().out


def test_an_error_of_the_files_own_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = "from torch import nn\nclass Net(nn.Linear):\n    def __init__(self):\n        super().__init__(5, 2)\nraise RuntimeError('mine')\n"
    (tmp_path / "own_error.py").write_text(script)
    assert main(["init", str(tmp_path / "own_error.py"), "--no-run"]) == 2
    assert "raised RuntimeError: mine" in capsys.readouterr().err


POLICY = """
import torch
from torch import nn
from torch.distributions import Categorical, Independent, Normal

class Policy(nn.Module):
    def __init__(self):
        super().__init__()
        self.mean, self.value = nn.Linear(6, 2), nn.Linear(6, 1)
        self.deviation = nn.Parameter(torch.ones(1, 2))

    def forward(self, x):
        mean = self.mean(x)
        return DISTRIBUTION
"""


@pytest.mark.parametrize(
    ("returned", "places"),
    [
        ("Normal(mean, self.deviation.expand_as(mean)), self.value(x)", {"loc": 0, "scale": 0, "1": None}),
        ("Categorical(logits=mean * self.deviation), self.value(x)", {"logits": 0, "1": None}),
        ("Independent(Normal(mean + self.value(x), self.deviation.expand_as(mean)), 1)", {"mean": None, "stddev": None}),
    ],
    ids=["in a tuple", "of classes", "with another in it"],
)
def test_the_distribution_of_a_policy_is_judged_by_its_parameters(
    returned: str, places: dict[str, int | None], tmp_path: Path
) -> None:
    keys = declared(POLICY.replace("DISTRIBUTION", returned), tmp_path)
    assert {name: each.get("at") for name, each in keys["outputs"].items()} == places
    assert {name for name, each in keys["outputs"].items() if each.get("constant")} == {*places} & {"scale", "stddev"}
    config = load_config(tmp_path / "modeltiers.toml")
    found = judge_model(model_source(config).build, config.task_spec())
    assert {label: each.message for label, each in found.items() if each.status is Status.FAIL} == {}


def test_a_script_that_trains_leads_to_the_file_of_its_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "nets.py").write_text(AGENT)
    (tmp_path / "scripts").mkdir()
    script = tmp_path / "scripts" / "train.py"
    script.write_text("import nets\nnet = nets.Agent(4, 8).to('cpu')\nfor batch in load():\n    net(batch).sum().backward()\n")
    assert main(["init", str(script), "--no-run"]) == 2
    command = capsys.readouterr().err.partition("modeltiers init ")[2].split()
    assert command[1:] == ["--factory", "Agent"]
    assert main(["init", *command, "--no-run"]) == 0


def test_no_number_is_offered_for_an_argument_that_takes_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = (
        "from torch import nn\nclass Net(nn.Module):\n    def __init__(self, thing, other):\n        super().__init__()\n"
        "        self.layers = nn.Sequential(thing, {})\n    def forward(self, x):\n        return self.layers(x)\n"
    )
    (tmp_path / "net.py").write_text(source.format("other"))
    assert main(["init", str(tmp_path / "net.py"), "--no-run"]) == 2
    said = capsys.readouterr().err
    assert "--arg" not in said
    assert "that returns the model: `thing`, `other` take more than a number" in said


ZOO = """
import torch.utils.model_zoo as model_zoo
from torch import nn

class Net(nn.Module):
    def __init__(self, depth):
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(6, 6) for _ in range(depth)))

    def forward(self, x):
        return self.layers(x)

def net40(pretrained=True):
    model = Net(40)
    if pretrained:
        model.load_state_dict(model_zoo.load_url("https://nowhere.example/net40.pth"))
    return model

def net3(pretrained=True):
    model = Net(3)
    if pretrained:
        model.load_state_dict(model_zoo.load_url("https://nowhere.example/net3.pth"))
    return model
"""


def test_of_several_functions_the_smallest_is_built_without_its_trained_weights(tmp_path: Path) -> None:
    (tmp_path / "zoo.py").write_text(ZOO)
    found = scaffold(tmp_path / "zoo.py")
    assert (found.factory.name, found.factory.kwargs) == ("net3", {"pretrained": False})


BROKEN = """
from torch import nn

class Part(nn.Module):
    def __init__(self, size):
        super().__init__()

class Net(nn.Module):
    def __init__(self, width=3):
        super().__init__()
        self.part = Part()

    def forward(self, x):
        return self.part(x)
"""


def test_what_no_argument_changes_is_no_reason_to_give_one(tmp_path: Path) -> None:
    (tmp_path / "broken_inside.py").write_text(BROKEN)
    with pytest.raises(FactoryError, match=r"Correct the call in broken_inside.py, line 11, which no argument of Net changes"):
        scaffold(tmp_path / "broken_inside.py")


RECOGNISER = """
from torch import nn

class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layer = nn.Linear(width, width)

    def forward(self, x):
        return self.layer(x)

class Recurrent(nn.Module):
    def __init__(self, width, rnn_type=nn.GRU):
        super().__init__()
        self.rnn = rnn_type(width, width, batch_first=True)

    def forward(self, x):
        return self.rnn(x)[0]

class Net(nn.Module):
    def __init__(self, rnn_type, labels, audio_conf, block):
        super().__init__()
        width = audio_conf["hidden_size"]
        self.table = nn.Embedding(20, width, padding_idx=1)
        self.rnn = Recurrent(width, rnn_type)
        self.block = block(width)
        self.head = nn.Linear(width, len(labels))

    def forward(self, ids):
        return self.head(self.block(self.rnn(self.table(ids))))

class Padded(Net):
    def __init__(self, pad_idx, rnn_type, labels, audio_conf, block):
        super().__init__(rnn_type, labels, audio_conf, block)
        self.pad_idx = pad_idx
        self.out = len(labels), audio_conf["hidden_size"], block(3)
"""


def test_classes_of_layers_labels_and_settings_by_key_are_what_the_code_does_with_them(tmp_path: Path) -> None:
    (tmp_path / "recogniser.py").write_text(RECOGNISER)
    found = scaffold(tmp_path / "recogniser.py")
    assert found.factory.kwargs == {"labels": "abcdefgh", "pad_idx": 1}  # the token that the table pads with, not a usual one
    assert {each.argument: each.expression for each in found.factory.objects} == {
        "rnn_type": "nn.GRU",
        "block": "Block",
        "audio_conf": "Table({'hidden_size': 64}, 'audio_conf')",
    }
    model = model_source(load_config(found.config)).build()
    assert (type(model).__name__, type(model.block).__name__, model.head.out_features) == ("Padded", "Block", 8)


GRAPH = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, in_features, num_nodes, adj_mat):
        super().__init__()
        self.register_buffer("adjacency", adj_mat.float())
        self.layer = nn.Linear(in_features, 6)

    def forward(self, x):
        return self.layer(self.adjacency @ x)
"""


def test_the_matrix_of_a_graph_is_that_of_a_ring_with_as_many_nodes_as_are_said(tmp_path: Path) -> None:
    (tmp_path / "graph_net.py").write_text(GRAPH.replace("num_nodes, adj_mat", "adj_mat, num_nodes=5"))
    assert scaffold(tmp_path / "graph_net.py").factory.objects[0].expression.startswith("torch.eye(8) / 2")

    (tmp_path / "graph_net2.py").write_text(GRAPH)
    found = scaffold(tmp_path / "graph_net2.py", overwrite=True)
    nodes = found.factory.kwargs["num_nodes"]
    adjacency = model_source(load_config(found.config)).build().adjacency
    assert adjacency.shape == (nodes, nodes)
    assert bool((adjacency.sum(0) == 1).all())
    assert load_config(found.config).task_spec().signature.inputs[0].axes[1] == nodes
