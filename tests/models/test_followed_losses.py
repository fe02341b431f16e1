"""The losses that a repository trains its model by, read from the code that calls the model, and what a config says of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.config import load_config
from harness.models.followed.losses import written_losses
from harness.scaffold import scaffold
from harness.user_code import import_file

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=6, count=3):
        super().__init__()
        self.body, self.head, self.back = nn.Linear(width, 12), nn.Linear(12, count), nn.Linear(12, width)

    def forward(self, x):
        hidden = self.body(x)
        return {returned}
"""


def outputs_of(tmp_path: Path, train: str, returned: str = "self.head(hidden)") -> dict[str, Any]:
    """What `init` declares of a model that a script trains, by table."""
    (tmp_path / "README.md").touch()
    (tmp_path / "net.py").write_text(NET.replace("{returned}", returned))
    (tmp_path / "train.py").write_text(f"from torch import nn\nimport torch.nn.functional as F\nfrom net import Net\n{train}")
    written = scaffold(tmp_path / "net.py", tmp_path / "modeltiers.toml")
    load_config(written.config)
    assert written.declared is not None
    return written.declared.keys


LOOP = """
model = Net()
for x, y in loader:
    {line}
    loss.backward()
"""


@pytest.mark.parametrize(
    ("line", "returned", "found"),
    [
        ("loss = F.cross_entropy(model(x), y)", "self.head(hidden)[:, :, None]", {"kind": "class_scores", "classes": 1}),
        ("loss = F.l1_loss(y, model(x).squeeze(1))", "self.head(hidden)", {"loss": "l1"}),
        ("loss = nn.BCEWithLogitsLoss()(model(x), y)", "self.head(hidden)", {"kind": "binary_scores"}),
        ("loss = F.binary_cross_entropy(model(x).sigmoid(), y)", "self.head(hidden)", {"kind": "binary_scores"}),
        ("loss = nn.BCELoss()(model(x), y)", "self.head(hidden).sigmoid()", {"kind": "probabilities"}),
        ("loss = F.cross_entropy(model(x), y)", "self.head(hidden).sigmoid()[:, :, None]", {"range": [0.0, 1.0]}),
        ("loss = F.mse_loss(model(x), y)", "self.head(hidden)", {}),
    ],
)
def test_a_loss_says_what_an_output_is(line: str, returned: str, found: dict[str, Any], tmp_path: Path) -> None:
    keys = outputs_of(tmp_path, LOOP.format(line=line), returned)["outputs"]["output"]
    assert {key: value for key, value in keys.items() if key != "axes"} == found


def test_of_several_outputs_each_has_its_own_and_one_without_is_not_learnt(tmp_path: Path) -> None:
    train = """
def run(net, loader, criterion):
    for x, y in loader:
        scores, hidden = net(x)
        scores = scores.view(-1, 3)
        loss = criterion(scores, y[:, 0])

run(Net(), [], nn.CrossEntropyLoss())
criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
"""
    keys = outputs_of(tmp_path, train, "self.head(hidden), hidden")["outputs"]
    assert keys["0"]["kind"] == "class_scores"
    assert keys["hidden"]["fits"] is False


AUTOENCODER = """
def total(recon, x, code):
    return F.binary_cross_entropy(recon.view(-1, 6), x.view(-1, 6), reduction="sum") + code.pow(2).sum()

vae = Net()
for x, _ in loader:
    recon, code = vae(x)
    loss = total(recon, x, code)
"""


def test_an_autoencoder_is_trained_towards_its_input(tmp_path: Path) -> None:
    keys = outputs_of(tmp_path, AUTOENCODER, "self.back(hidden).sigmoid(), hidden")
    assert keys["labels"] == {"0": {"from": "x"}}
    assert keys["inputs"]["x"]["values"] == {"range": [0.0, 1.0]}
    assert keys["outputs"]["0"]["kind"] == "probabilities"
    assert keys["outputs"]["hidden"]["kind"] == "other"
    assert "[labels]" in (tmp_path / "modeltiers.toml").read_text()


@pytest.mark.parametrize(
    "train",
    [
        "other = Critic()\nfor x, y in loader:\n    loss = F.mse_loss(other(x), y)\n",  # of another class
        "model = load()\nfor x, y in loader:\n    loss = F.mse_loss(model(x), y)\n",  # what is called a model has this one in it
        "model = Net()\nfor x, y in loader:\n    out = model(x)\n    out = mix(out)\n    loss = F.mse_loss(out, y)\n",
        "model = Net()\nfor x, y in loader:\n    loss = F.mse_loss(model(x), y) + F.l1_loss(model(x), y)\n",  # two of one output
        "criterion = nn.L1Loss()\ncriterion = nn.MSELoss()\nfor x, y in loader:\n    loss = criterion(Net()(x), y)\n",
    ],
)
def test_what_is_not_sure_says_nothing(train: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").touch()
    (tmp_path / "train.py").write_text(f"from torch import nn\nimport torch.nn.functional as F\nfrom net import Net\n{train}")
    around = "class Whole(nn.Module):\n    def __init__(self):\n        self.part = Net()\n"
    (tmp_path / "net.py").write_text(NET.replace("{returned}", "self.head(hidden)") + around)
    assert written_losses(import_file(tmp_path / "net.py", "net.py").Net, ["x"]) == {}


def test_the_loss_of_a_function_in_another_file_and_of_a_readme_are_found(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NET.replace("{returned}", "self.head(hidden)"))
    (tmp_path / "parts.py").write_text("def masked(out, y, mask):\n    return (F.cross_entropy(out, y) * mask).mean()\n")
    readme = "```python\nfrom net import Net\nmodel = Net()\nloss = masked(model(x)[0], y, mask)\n```\n"
    (tmp_path / "README.md").write_text(readme)
    found = written_losses(import_file(tmp_path / "net.py", "net.py").Net, ["x"])
    assert {output: (loss.name, loss.place) for output, loss in found.items()} == {"0": ("cross_entropy", "parts.py, line 2")}
