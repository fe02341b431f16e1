"""What in a file makes its model, and with which arguments, where nobody gives them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness.errors import ModelSourceError
from harness.models.factories import factories
from harness.models.factory import Factory
from harness.models.usual_values import usual_value
from harness.user_code import import_file

HEAD = "import torch\nfrom torch import nn\n\n\n"


def first(tmp_path: Path, text: str) -> Factory:
    file = tmp_path / "a_model_of_factories.py"
    file.write_text(HEAD + text)
    return next(factories(import_file(file, "MODEL.py"), {}))


def test_a_word_that_the_code_compares_an_argument_with_is_tried(tmp_path: Path) -> None:
    made = first(
        tmp_path,
        "class Net(nn.Module):\n"
        "    def __init__(self, mode, width):\n"
        "        super().__init__()\n"
        "        self.mode = mode\n"
        "        self.layer = nn.Linear(width, 2)\n"
        "    def forward(self, x):\n"
        "        return self.layer(x) if self.mode in ('plain', 'other') or self.mode == 'plain' else None\n",
    )
    assert made.kwargs == {"mode": "plain", "width": 64}
    assert made.guessed == ("mode", "width")


@pytest.mark.parametrize("argument", ["configs", "h"])
def test_settings_of_any_name_are_read_from_the_code_with_words_too(tmp_path: Path, argument: str) -> None:
    made = first(
        tmp_path,
        "class Model(nn.Module):\n"
        f"    def __init__(self, {argument}):\n"
        "        super().__init__()\n"
        f"        self.task_name = {argument}.task_name\n"
        f"        self.layer = nn.Linear({argument}.enc_in, 2)\n"
        "    def forward(self, x):\n"
        "        if self.task_name == 'forecast':\n"
        "            return self.layer(x)\n",
    )
    assert made.objects
    assert made.objects[0].argument == argument
    assert made.objects[0].expression == "SimpleNamespace(task_name='forecast', enc_in=8)"


def test_a_function_that_the_model_uses_makes_no_model(tmp_path: Path) -> None:
    made = first(
        tmp_path,
        "def block(in_channels, channels):\n"
        "    return nn.Sequential(nn.Conv2d(in_channels, channels, 3), nn.ReLU())\n\n\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, in_channels):\n"
        "        super().__init__()\n"
        "        self.layers = block(in_channels, 8)\n"
        "    def forward(self, x):\n"
        "        return self.layers(x)\n",
    )
    assert made.name == "Net"


def test_a_function_of_tensors_and_a_part_that_is_given_read_no_settings(tmp_path: Path) -> None:
    refused: dict[str, str] = {}
    file = tmp_path / "a_model_of_parts.py"
    file.write_text(
        HEAD + "def penalty(trans):\n"
        "    return trans.mean() if trans.is_cuda or trans.shape else trans.sum()\n\n\n"
        "class Head(nn.Module):\n"
        "    def __init__(self, backbone):\n"
        "        super().__init__()\n"
        "        self.backbone, self.layer = backbone, nn.Linear(backbone.num_channels, 2)\n"
    )
    assert not list(factories(import_file(file, "MODEL.py"), {}, refused=refused))
    assert refused == {"penalty": "needs `trans`", "Head": "needs `backbone`"}


def test_a_class_that_a_static_method_names_is_a_part_and_so_is_its_base(tmp_path: Path) -> None:
    made = first(
        tmp_path,
        "class Net(nn.Module):\n"
        "    def __init__(self, hidden_dim1, hidden_dim2):\n"
        "        super().__init__()\n"
        "        self.block, self.last = self.chosen()(hidden_dim1), nn.Linear(hidden_dim1, hidden_dim2)\n"
        "    @staticmethod\n"
        "    def chosen():\n"
        "        return Block\n"
        "    def forward(self, x):\n"
        "        return self.last(self.block(x))\n\n\n"
        "class Base(nn.Module):\n"
        "    def __init__(self, dim):\n"
        "        super().__init__()\n"
        "        self.layer = nn.Linear(dim, dim)\n"
        "    def forward(self, x):\n"
        "        return self.layer(x)\n\n\n"
        "class Block(Base):\n"
        "    pass\n",
    )
    assert (made.name, made.guessed) == ("Net", ("hidden_dim1", "hidden_dim2"))


def test_settings_are_those_of_a_file_beside_the_model_that_has_them_all(tmp_path: Path) -> None:
    (tmp_path / "config_v1.json").write_text('{"rates": [8, 4], "resblock": "1", "learning_rate": 0.1}')
    (tmp_path / "other.json").write_text('{"rates": [2]}')
    made = first(
        tmp_path,
        "class Generator(nn.Module):\n"
        "    def __init__(self, h):\n"
        "        super().__init__()\n"
        "        self.layer = nn.Linear(h.rates[0], h.rates[1], bias=h.resblock == '1')\n"
        "    def forward(self, x):\n"
        "        return self.layer(x)\n",
    )
    assert made.objects
    assert made.objects[0].expression == "SimpleNamespace(rates=[8, 4], resblock='1')"
    assert (made.guessed, made.place) == ((), "config_v1.json")


def test_names_in_camel_case_say_the_same_and_a_discriminator_is_not_the_model(tmp_path: Path) -> None:
    made = first(
        tmp_path,
        "class Generator(nn.Module):\n"
        "    def __init__(self, hiddenSize, nHead, isTrained, classCount):\n"
        "        super().__init__()\n"
        "        self.layer = nn.Linear(hiddenSize, classCount)\n"
        "    def forward(self, x):\n"
        "        return self.layer(x)\n\n\n"
        "class Discriminator(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.layer = nn.Linear(4, 1)\n"
        "    def forward(self, x):\n"
        "        return self.layer(x)\n",
    )
    assert (made.name, made.kwargs) == ("Generator", {"hiddenSize": 64, "nHead": 4, "isTrained": False, "classCount": 4})


HALVES = (
    "class Encoder(nn.Module):\n"
    "    def __init__(self, input_dim, hidden_dim):\n"
    "        super().__init__()\n"
    "        self.layer = nn.Linear(input_dim, hidden_dim)\n"
    "    def forward(self, x):\n"
    "        return self.layer(x)\n\n\n"
    "class Whole(nn.Module):\n"
    "    def __init__(self, encoder, num_classes):\n"
    "        super().__init__()\n"
    "        self.encoder, self.last = encoder, nn.Linear(64, num_classes)\n"
    "    def forward(self, x):\n"
    "        return self.last(self.encoder(x))\n"
)


def test_a_part_that_is_passed_is_an_instance_of_the_class_that_is_called_so(tmp_path: Path) -> None:
    made = first(tmp_path, HALVES)
    assert made.call == "Whole(encoder=Encoder(input_dim=16, hidden_dim=64), num_classes=4)"
    assert made.guessed == ("num_classes", "input_dim", "hidden_dim")
    assert made.source.build()(torch.zeros(2, 16)).shape == (2, 4)


def test_a_table_that_names_the_class_as_its_target_says_the_arguments(tmp_path: Path) -> None:
    (tmp_path / "README.md").touch()
    (tmp_path / "configs" / "model").mkdir(parents=True)
    (tmp_path / "configs" / "other.yaml").write_text("_target_: nets.Whole\nencoder: ${somewhere}\nnum_classes: 9\n")
    (tmp_path / "configs" / "model" / "whole.yaml").write_text(
        "_target_: nets.Whole\nnum_classes: 3\nencoder:\n  _target_: torch.nn.Linear\n  in_features: 5\n  out_features: 64\n"
        "optimizer:\n  _target_: torch.optim.Adam\n  _partial_: true\n  lr: 0.1\n"
    )
    made = first(tmp_path, HALVES.replace("encoder, num_classes):", "encoder, num_classes, optimizer):"))
    assert made.kwargs == {"num_classes": 3}
    assert [each.expression for each in made.objects] == ["Linear(in_features=5, out_features=64)", "partial(Adam, lr=0.1)"]
    assert made.objects[1].imports == ("from functools import partial", "from torch.optim import Adam")
    assert made.place == "whole.yaml"
    assert made.source.build()(torch.zeros(2, 5)).shape == (2, 3)


def test_a_value_of_a_table_that_refers_to_another_is_guessed(tmp_path: Path) -> None:
    (tmp_path / "README.md").touch()
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "actor.yaml").write_text("params:\n  obs_dim: ${agent.obs_dim}\n  action_dim: ???\n  depth: 3\n")
    actor = (
        "from torch import nn\n\n\nclass Actor(nn.Sequential):\n    def __init__(self, obs_dim, action_dim, depth):\n"
        "        super().__init__(*(nn.Linear(obs_dim, obs_dim) for _ in range(depth)), nn.Linear(obs_dim, action_dim))\n"
    )
    made = first(tmp_path, actor)
    assert made.kwargs["depth"] == 3
    assert made.guessed == ("obs_dim", "action_dim")
    assert made.source.build()(torch.zeros(2, made.kwargs["obs_dim"])).shape == (2, made.kwargs["action_dim"])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_action", 1.0),
        ("model_path", ""),
        ("last_stride", 1),
        ("categories", [10, 6, 4]),
        ("obs_shape", [8]),
        ("growth", None),
    ],
)
def test_usual_names_say_what_an_argument_is_tried_with(name: str, value: object) -> None:
    assert usual_value(name) == value


def test_a_part_whose_layers_are_read_is_no_object_of_settings(tmp_path: Path) -> None:
    file = tmp_path / "a_model_around_another.py"
    file.write_text(
        HEAD + "class Head(nn.Module):\n"
        "    def __init__(self, model, num_classes):\n"
        "        super().__init__()\n"
        "        self.features = nn.Sequential(model.conv1, model.layer1)\n"
    )
    refused: dict[str, str] = {}
    assert not list(factories(import_file(file, "MODEL.py"), {}, refused=refused))
    assert refused == {"Head": "needs `model`"}


def test_a_name_behind_a_colon_belongs_to_another_key(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(HEAD)
    with pytest.raises(ModelSourceError, match="give the name in it as `model_factory`: Net"):
        import_file(tmp_path / "net.py:Net", "model_file")


def test_settings_of_no_usual_name_are_those_of_an_object_of_settings_beside_the_model(tmp_path: Path) -> None:
    (tmp_path / "hparams.py").write_text("def create():\n    return training.HParams(masked=True, symbols=len(TEXT), grain=7)\n")
    made = first(
        tmp_path,
        "class Net(nn.Module):\n"
        "    def __init__(self, hparams):\n"
        "        super().__init__()\n"
        "        self.masked, self.layer = hparams.masked, nn.Linear(hparams.grain, hparams.n_symbols)\n",
    )
    assert made.objects[0].expression == "SimpleNamespace(masked=True, grain=7, n_symbols=50)"


def names_in_order(tmp_path: Path, text: str, file: str) -> list[str]:
    path = tmp_path / file
    path.write_text(HEAD + text)
    return [each.name for each in factories(import_file(path, file), {})]


def part_and_whole(build: str) -> str:
    """A part, and a whole whose ``__init__`` is decorated or finds the part in a table."""
    return (
        "from functools import wraps\n"
        "def noted(function):\n"
        "    @wraps(function)\n"
        "    def noting(self, *args, **kwargs):\n"
        "        return function(self, *args, **kwargs)\n"
        "    return noting\n"
        "class Block(nn.Module):\n"
        "    def __init__(self, width=2):\n"
        "        super().__init__()\n"
        "        self.layer = nn.Linear(width, width)\n"
        "blocks = {'basic': Block}\n"
        "class Whole(nn.Module):\n"
        "    @noted\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        f"        self.block = {build}\n"
    )


@pytest.mark.parametrize("build", ["Block()", "blocks['basic']()"], ids=["a decorated __init__", "a table of blocks"])
def test_a_part_is_no_model_where_a_wrapped_method_or_a_table_uses_it(tmp_path: Path, build: str) -> None:
    assert names_in_order(tmp_path, part_and_whole(build), "a_part_and_a_whole.py") == ["Whole"]


def test_the_class_that_is_called_like_its_file_comes_first(tmp_path: Path) -> None:
    classes = "".join(
        f"class {name}(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        for name in ("UNetModel", "EncoderUNet", "Upsampler")
    )
    assert names_in_order(tmp_path, classes, "u_net.py") == ["UNetModel", "Upsampler", "EncoderUNet"]


def test_the_class_of_an_annotation_is_made_of_usual_sizes(tmp_path: Path) -> None:
    made = first(
        tmp_path,
        "from dataclasses import dataclass\n"
        "@dataclass\n"
        "class Dims:\n"
        "    n_audio_ctx: int\n"
        "    n_audio_state: int\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, dims: Dims):\n"
        "        super().__init__()\n"
        "        self.layer = nn.Linear(dims.n_audio_ctx, dims.n_audio_state)\n",
    )
    assert [each.expression for each in made.objects] == ["Dims(n_audio_ctx=16, n_audio_state=32)"]


def test_spaces_of_a_policy_are_objects_with_shapes(tmp_path: Path) -> None:
    made = first(
        tmp_path,
        "class Policy(nn.Module):\n"
        "    def __init__(self, observation_space, action_space):\n"
        "        super().__init__()\n"
        "        self.pi = nn.Linear(observation_space.shape[0], action_space.shape[0])\n"
        "        self.limit = action_space.high[0]\n",
    )
    assert [each.argument for each in made.objects] == ["observation_space", "action_space"]
    assert made.source.build().limit == 1.0
