"""``modeltiers init`` on models of tasks that no task type names: the config declares the signature, and it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import any_models as models
import odd_models as odd
import pytest

from harness.cli import main
from harness.config import load_config
from harness.errors import FactoryError
from harness.evidence import Status
from harness.models.loading import model_source
from harness.scaffold import scaffold
from harness.scaffold.task import Told
from pytest_modeltiers.live import judge_model


def declared(source: str, folder: Path, overwrite: bool = False, **told: Any) -> dict[str, Any]:
    """The keys that are written for a model."""
    (folder / "model.py").write_text(source)
    found = scaffold(folder / "model.py", told=Told(**told), overwrite=overwrite)
    assert found.declared is not None
    assert load_config(found.config).is_declared
    return found.declared.keys


@pytest.mark.parametrize(
    ("source", "inputs", "outputs"),
    [
        (
            models.U_NET,
            {"x": {"axes": ["batch", 1, "height", "width"]}},
            {"output": {"axes": ["batch", 2, "height", "width"]}},
        ),
        (
            models.CLICKS,
            {"sparse": {"axes": ["batch", 3], "values": {"ids": [10, 6, 4]}}, "dense": {"axes": ["batch", 3]}},
            {"output": {"axes": ["batch"], "range": [0.0, 1.0]}},
        ),
        (
            models.NODES,
            {"x": {"axes": ["nodes", 6]}, "edge_index": {"axes": [2, "edges"], "values": {"index_of": "nodes"}}},
            {"output": {"axes": ["nodes", 3]}},
        ),
        (
            models.MATCHES,
            {"user": {"axes": ["batch"], "values": {"ids": 50}}, "item": {"axes": ["batch"], "values": {"ids": 80}}},
            {"output": {"axes": ["batch"], "range": [0.0, 1.0]}},
        ),
        (
            models.DENOISER,
            {"x": {"axes": ["batch", 1, "height", "width"]}, "t": {"axes": ["batch"], "values": {"ids": 50}}},
            {"output": {"axes": ["batch", 1, "height", "width"]}},
        ),
        (
            models.POLICY,
            {"obs": {"axes": ["batch", 8]}},
            {"0": {"axes": ["batch", 4], "kind": "probabilities", "classes": -1}, "1": {"axes": ["batch"]}},
        ),
        (
            models.BOXES,
            {"batch.image": {"axes": ["batch", 3, "height", "width"]}},
            {"logits": {"axes": ["batch", 5]}, "boxes": {"axes": ["batch", 4], "range": [0.0, 1.0]}},
        ),
        (models.EXAMPLE, {"signal": {"axes": ["batch", 4, "time"]}}, {"output": {"axes": ["batch", 2, "time"]}}),
        (models.SHAPED, {"series": {"axes": ["batch", "time", 5]}}, {"output": {"axes": ["batch", 1, 7]}}),
        (odd.AUTOENCODER, {"x": {"axes": ["batch", 24]}}, {"output": {"axes": ["batch", 24]}}),  # no classes are made up
    ],
    ids=["u_net", "clicks", "nodes", "matches", "denoiser", "policy", "boxes", "example", "shaped", "autoencoder"],
)
def test_the_signature_is_found(source: str, inputs: dict[str, Any], outputs: dict[str, Any], tmp_path: Path) -> None:
    keys = declared(source, tmp_path)
    assert keys["inputs"] == inputs
    assert keys["outputs"] == outputs


@pytest.mark.parametrize("name", ["modeltiers.toml", "modeltiers.json"])
def test_what_is_written_is_quiet_in_tier_1(name: str, tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(models.DENOISER)
    config = load_config(scaffold(tmp_path / "model.py", tmp_path / name).config)
    found = judge_model(model_source(config).build, config.task_spec())
    assert {label: each.message for label, each in found.items() if each.status is Status.FAIL} == {}
    assert sum(each.status is Status.OK for each in found.values()) >= 20


def test_the_config_says_what_was_guessed_and_what_to_edit(tmp_path: Path) -> None:
    declared(models.EXAMPLE, tmp_path)
    text = (tmp_path / "modeltiers.toml").read_text()
    assert "an input that the file makes, line 17" in text
    assert 'kind = "class_scores"' in text
    assert "axes.time" not in text


@pytest.mark.parametrize(("file", "name"), [("model.py", "unet"), ("net.py", "unet"), ("vessels.py", "vessels")])
def test_the_task_is_named_after_the_class_where_the_file_says_nothing(file: str, name: str, tmp_path: Path) -> None:
    (tmp_path / file).write_text(models.U_NET)
    assert load_config(scaffold(tmp_path / file).config).task_name == name


def test_a_failure_takes_four_lines_however_many_models_there_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = "class {}(nn.Module):\n    def __init__(self, foo):\n        super().__init__()\n\n"
    (tmp_path / "model.py").write_text(models.HEAD + "".join(model.format(name) for name in ("A", "B", "C", "D")))
    assert main(["init", str(tmp_path / "model.py")]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 4
    assert "needs `foo`" in said[1]
    assert "3 more: " in said[2]


def test_an_unknown_output_is_never_taken_for_classes(tmp_path: Path) -> None:
    for source in (models.U_NET, models.SHAPED, models.NODES):
        keys = declared(source, tmp_path, overwrite=True)
        assert all("kind" not in output for output in keys["outputs"].values())


def test_what_cannot_be_known_is_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model.py").write_text(models.OBJECT)
    assert main(["init", str(tmp_path / "model.py")]) == 2
    said = capsys.readouterr().err
    assert "no call of Net.forward(data) that works was found" in said
    assert "'Tensor' object has no attribute 'messages'" in said
    assert "--input data=batch" in said


def test_a_given_input_is_believed(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(models.RUNS_AT_10)
    options = ["--input", "x=batch,10,4:range=0,1", "--input", "mask=batch,10:mask_of=steps"]
    assert main(["init", str(tmp_path / "model.py"), "--no-run", *options[:2]]) == 0
    signature = load_config(tmp_path / "modeltiers.toml").task_spec().signature
    assert signature.inputs[0].axes == ("batch", 10, 4)
    assert signature.inputs[0].values.written() == {"range": [0, 1]}


def test_a_number_that_is_said_fixes_an_axis_and_a_name_names_it(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(models.U_NET)
    model = str(tmp_path / "model.py")
    assert main(["init", model, "--no-run", "--input", "x=batch,1,64,columns"]) == 0
    signature = load_config(tmp_path / "modeltiers.toml").task_spec().signature
    assert signature.inputs[0].axes == ("batch", 1, 64, "columns")
    assert signature.outputs[0].axes == ("batch", 2, 64, "columns")
    assert signature.axes["columns"].multiple_of == 2


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("x", "expected NAME=AXES"),
        ("x=batch,a b", "'a b' is not an axis"),
        ("x=batch,3:colour=2", "no values 'colour'"),
        ("image=batch,3", "UNet.forward(x) has no parameter `image`. It has x"),
        ("x=batch,7,32,32", "no call of UNet.forward(x) that works was found"),
        ("x=batch,1,32,32:range=1", "`range` of"),
    ],
)
def test_a_given_input_that_is_wrong_is_said_in_a_line(
    option: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model.py").write_text(models.U_NET)
    try:
        status = main(["init", str(tmp_path / "model.py"), "--no-run", "--input", option])
    except SystemExit as left:  # what argparse does
        status = int(left.code or 0)
    assert status == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "attend", "task"),
    [
        ("TextLM", "x.mean(1, keepdim=True) + x", "masked_lm"),  # a name is no proof
        ("TextLM", "x + torch.roll(x, 1, 1) + torch.roll(x, -1, 1)", "masked_lm"),  # a window to both sides
        ("TextLM", "x.cumsum(1)", "causal_lm"),
        ("TextLM", "x.cumsum(1) + torch.roll(x, -1, 1)", "causal_lm"),  # looks back further than ahead: a leak
        ("TinyGPT", "x.mean(1, keepdim=True) + x", "causal_lm"),
        ("TextLM", "(x @ x.mT).triu(1).softmax(-1) @ x", "causal_lm"),  # a mask of what is later, made the wrong way
        # Heads by a view that works only at as many tokens as there are heads.
        ("TinyGPT", "torch.cat((x, x), -1).chunk(2, -1)[0].view(len(x), 4, x.shape[1], -1).cumsum(2).view_as(x)", "causal_lm"),
    ],
)
def test_a_model_of_tokens_is_causal_as_far_as_trying_shows(name: str, attend: str, task: str, tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(models.TEXT.format(name=name, attend=attend))
    assert load_config(scaffold(tmp_path / "model.py").config).task_type == task


def test_a_policy_without_a_forward_is_called_by_its_method_and_judged_for_given_actions(tmp_path: Path) -> None:
    keys = declared(models.AGENT, tmp_path)
    config = load_config(tmp_path / "modeltiers.toml")
    assert config.call == "get_action_and_value"
    assert keys["inputs"]["action"] == {"axes": ["batch"], "values": {"ids": 3}}
    found = judge_model(model_source(config).build, config.task_spec())
    assert {label: each.message for label, each in found.items() if each.status is Status.FAIL} == {}
    assert declared(models.AGENT, tmp_path, call="get_value", overwrite=True)["outputs"] == {"output": {"axes": ["batch", 1]}}


def test_the_files_own_call_builds_the_model_without_a_gpu(tmp_path: Path) -> None:
    keys = declared(models.NEEDS_A_GPU, tmp_path)
    config = load_config(tmp_path / "modeltiers.toml")
    assert config.model_kwargs == {"channels": 5, "width": 4, "device": "cpu"}
    assert keys["inputs"]["x"]["axes"] == ["batch", 5, "height", "width"]
    assert keys["inputs"]["t"]["axes"] == ["batch"]


def test_a_hidden_state_that_every_call_needs_begins_with_zeros(tmp_path: Path) -> None:
    keys = declared(models.STEPPED, tmp_path)
    assert keys["inputs"]["hidden"] == {"axes": [1, "batch", 12], "state": {"from": "hidden", "initial": "zeros"}}
    assert keys["outputs"] == {"0": {"axes": ["batch", 30]}, "hidden": {"axes": [1, "batch", 12], "kind": "state"}}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.json", '{"data": {"path": "x"}, "model": {"spam": 7, "eggs": 5, "seed": 3}}'),
        ("configs/small.yaml", "model:\n  args: {spam: 7, eggs: 5}\n"),
        ("train.py", 'parser.add_argument("--spam", default=7)\nparser.add_argument("-e", "--eggs", type=int, default=5)\n'),
    ],
)
def test_settings_beside_the_model_are_its_arguments(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
    declared(models.SETTINGS, tmp_path)
    assert load_config(tmp_path / "modeltiers.toml").model_kwargs == {"spam": 7, "eggs": 5}


def test_settings_that_a_class_leaves_open_get_usual_sizes(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(models.OPEN_SETTINGS)
    config = load_config(scaffold(tmp_path / "model.py").config)
    assert (config.task_type, config.vocab_size, config.num_classes) == ("sequence_classification", 256, 3)
    assert "vars(TokenModel.get_default_config())" in (tmp_path / "modeltiers_model.py").read_text()


def test_guessed_sizes_that_have_to_agree_are_made_equal(tmp_path: Path) -> None:
    text = (
        "class Net(nn.Module):\n"
        "    def __init__(self, input_size, output_size):\n"
        "        super().__init__()\n"
        "        self.sizes, self.layer = output_size, nn.GRUCell(input_size, 8)\n"
        "        self.last = nn.Linear(8, output_size)\n"
        "    def forward(self, items):\n"
        "        return self.last(self.layer(torch.nn.functional.one_hot(items, self.sizes).float()))\n"
    )
    keys = declared(models.HEAD + text, tmp_path)
    assert keys["inputs"] == {"items": {"axes": ["batch"], "values": {"ids": 16}}}
    assert load_config(tmp_path / "modeltiers.toml").model_kwargs == {"input_size": 16, "output_size": 16}


def test_a_part_and_a_table_of_a_config_reach_the_file_that_builds_the_model(tmp_path: Path) -> None:
    text = (
        "class Net(nn.Module):\n"
        "    def __init__(self, backbone, num_classes):\n"
        "        super().__init__()\n"
        "        self.backbone, self.last = backbone, nn.Linear(6, num_classes)\n"
        "    def forward(self, x):\n"
        "        return self.last(self.backbone(x)), x.sum()\n"
    )
    (tmp_path / "setup.py").touch()
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "net.yaml").write_text(
        "net:\n  _target_: nets.Net\n  num_classes: 3\n  backbone:\n    _target_: parts_of_nets.layers.Layer\n    width: 5\n"
    )
    (tmp_path / "parts_of_nets").mkdir()
    (tmp_path / "parts_of_nets" / "layers.py").write_text(
        "from torch import nn\n\n\nclass Layer(nn.Linear):\n    def __init__(self, width):\n        super().__init__(width, 6)\n"
    )
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets" / "model.py").write_text(models.HEAD + text)
    found = scaffold(tmp_path / "nets" / "model.py")
    assert found.bridge is not None
    assert "from parts_of_nets.layers import Layer" in found.bridge.read_text()
    assert "Net(backbone=Layer(width=5), num_classes=num_classes)" in found.bridge.read_text()
    assert model_source(load_config(found.config)).build().last.out_features == 3


def test_a_default_of_none_that_the_model_cannot_do_without_gets_a_usual_size(tmp_path: Path) -> None:
    text = (
        "class Net(nn.Module):\n"
        "    def __init__(self, hidden_dims=None):\n"
        "        super().__init__()\n"
        "        self.layers = nn.Sequential(*[nn.Linear(5, 5) for _ in range(len(hidden_dims))])\n"
        "    def forward(self, x):\n"
        "        return self.layers(x), x\n"
    )
    declared(models.HEAD + text, tmp_path)
    assert load_config(tmp_path / "modeltiers.toml").model_kwargs == {"hidden_dims": [16, 16]}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("    def __init__(self, foo, bar):\n        super().__init__()\n", "modeltiers init model.py --arg foo=8 --arg bar=8;"),
        (
            "    def __init__(self):\n        super().__init__()\n        self.layer = nn.Linear(3, 3)\n"
            "    def forward(self, data):\n        return self.layer(data.whatever())\n",
            "modeltiers init model.py --input data=batch,",
        ),
    ],
)
def test_the_last_line_is_the_command_that_says_what_was_missing(
    body: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model.py").write_text(f"{models.HEAD}class Net(nn.Module):\n{body}")
    assert main(["init", str(tmp_path / "model.py")]) == 2
    assert says in capsys.readouterr().err.splitlines()[-1]


def test_a_loss_that_is_returned_before_the_images_is_no_score(tmp_path: Path) -> None:
    text = (
        "class Net(nn.Module):\n"
        "    def __init__(self, mode):\n"
        "        super().__init__()\n"
        "        if mode == 'pretrained':\n"
        "            raise FileNotFoundError\n"
        "        self.layer = nn.Conv2d(3, 3, 1)\n"
        "    def forward(self, x):\n"
        "        x_hat = self.layer(x)\n"
        "        return (x_hat - x).square().mean(), x_hat\n"
    )
    keys = declared(models.HEAD + text, tmp_path)
    assert {name: each["axes"] for name, each in keys["outputs"].items()} == {
        "0": [],
        "x_hat": ["batch", 3, "height", "width"],
    }
    assert load_config(tmp_path / "modeltiers.toml").model_kwargs == {"mode": "none"}


def test_sizes_of_each_layer_are_lists_of_which_one_is_longer(tmp_path: Path) -> None:
    text = (
        "class Net(nn.Module):\n"
        "    def __init__(self, num_layers, num_heads_per_layer, num_features_per_layer):\n"
        "        super().__init__()\n"
        "        assert num_layers == len(num_heads_per_layer) == len(num_features_per_layer) - 1\n"
        "        sizes = zip(num_features_per_layer, num_features_per_layer[1:])\n"
        "        self.layers = nn.Sequential(*(nn.Linear(*pair) for pair in sizes))\n"
        "    def forward(self, x):\n"
        "        return self.layers(x), x\n"
    )
    declared(models.HEAD + text, tmp_path)
    kwargs = load_config(tmp_path / "modeltiers.toml").model_kwargs
    assert {name: len(value) for name, value in kwargs.items() if isinstance(value, list)} == {
        "num_heads_per_layer": 2,
        "num_features_per_layer": 3,
    }


def test_trained_weights_are_not_downloaded_where_there_is_no_network(tmp_path: Path) -> None:
    text = (
        "from urllib.error import URLError\n\n\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, pretrained=True):\n"
        "        super().__init__()\n"
        "        self.layer = nn.Linear(3, 3)\n"
        "        if pretrained:\n"
        "            raise URLError('Name or service not known')\n"
        "    def forward(self, x):\n"
        "        return self.layer(x), x\n"
    )
    declared(models.HEAD + text, tmp_path)
    assert load_config(tmp_path / "modeltiers.toml").model_kwargs == {"pretrained": False}
    (tmp_path / "other.py").write_text(models.HEAD + text.replace("pretrained=True", "pretrained=1"))
    with pytest.raises(FactoryError, match="there is no network here: is there an argument such as pretrained=False"):
        scaffold(tmp_path / "other.py", overwrite=True)


MIXES = (
    odd.HEAD
    + """
class Mixes(nn.Module):
    def __init__(self, c1, T, fancy, mode, k=2):
        super().__init__()
        self.T = T
        self.first, self.steps = nn.Linear(c1, c1 * T), nn.ModuleList(nn.Linear(c1, c1) for _ in range(T))
        if fancy:
            raise ValueError("fancy is not written yet")
        self.act = nn.ReLU() if mode == "relu" else nn.Tanh()

    def forward(self, x):
        return sum(step(each) for step, each in zip(self.steps, self.first(x).chunk(self.T, -1)))
"""
)


def test_an_argument_of_which_nothing_is_known_is_a_number(tmp_path: Path) -> None:
    source = MIXES.replace("fancy, mode", "mode").replace("if fancy", "if not c1")
    (tmp_path / "model.py").write_text(source)
    found = scaffold(tmp_path / "model.py")

    assert found.factory.kwargs == {"c1": 8, "T": 8, "mode": "relu"}
    assert "c1, T, mode: guesses, put in your own" in found.config.read_text().replace("mode, c1, T", "c1, T, mode")


def test_a_number_that_does_not_do_is_another_one_or_asked_for(tmp_path: Path) -> None:
    even = MIXES.replace("fancy, mode", "mode").replace("if fancy", "if T > 3")
    (tmp_path / "even.py").write_text(even)
    assert scaffold(tmp_path / "even.py", tmp_path / "even.toml").factory.kwargs["T"] in (1, 2)

    (tmp_path / "model.py").write_text(MIXES.replace("if fancy:", "if T != 77:").replace("fancy, ", ""))
    with pytest.raises(
        FactoryError, match="needs `c1`, `T`: with 8 for each it raised ValueError: fancy is not written yet"
    ) as said:
        scaffold(tmp_path / "model.py")
    assert "modeltiers init model.py --arg c1=8 --arg T=8" in str(said.value)


def test_a_function_is_not_called_with_a_number_that_nobody_gave(tmp_path: Path) -> None:
    made = tmp_path / "made.txt"
    (tmp_path / "model.py").write_text(
        f"{odd.HEAD}def clean(foo):\n    open({str(made)!r}, 'w').close()\n    return nn.Linear(foo, 2)\n"
    )
    with pytest.raises(FactoryError, match="clean needs `foo`"):
        scaffold(tmp_path / "model.py")
    assert not made.exists()


PARAMETERLESS = odd.HEAD + "class Pool(nn.Module):\n    def forward(self, a, b):\n        return {}\n"


@pytest.mark.parametrize(
    ("body", "axes"),
    [
        ("nn.functional.avg_pool2d(a * b, 2).flatten(2)", 4),
        ("torch.einsum('btc,bsc->bts', a, b)", 3),
        ("(a * b).sum(2).sum(2)", 4),
    ],
)
def test_without_parameters_the_code_may_say_the_axes(body: str, axes: int, tmp_path: Path) -> None:
    keys = declared(PARAMETERLESS.format(body), tmp_path)

    assert {len(each["axes"]) for each in keys["inputs"].values()} == {axes}


def test_what_takes_any_shape_is_asked_for_one(tmp_path: Path) -> None:
    with pytest.raises(FactoryError, match="--input a=batch,16 --input b=batch,16; or add"):
        declared(PARAMETERLESS.format("(a - b).abs()"), tmp_path)


def test_an_input_has_the_axes_of_the_weight_that_it_is_added_to(tmp_path: Path) -> None:
    source = (
        odd.HEAD
        + """
class Shifts(nn.Module):
    def __init__(self, channel):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, channel, 1, 1))

    def forward(self, x):
        return nn.functional.leaky_relu(x + self.bias, 0.2)
"""
    )
    assert declared(source, tmp_path)["inputs"] == {"x": {"axes": ["batch", 8, "height", "width"]}}


def test_axes_that_a_docstring_says_stay_as_they_are_said(tmp_path: Path) -> None:
    source = (
        odd.HEAD
        + '''
class Attends(nn.Module):
    def __init__(self, d_model):
        super().__init__()
        self.out = nn.Linear(d_model, d_model)

    def forward(self, queries, keys, attention_mask=None):
        """
        Args:
            queries: Queries (b_s, nq, d_model)
            keys: Keys (b_s, nk, d_model)
            attention_mask: Where not to look (b_s, nq, nk)
        """
        scores = queries @ keys.transpose(1, 2)
        if attention_mask is not None:
            scores = scores.masked_fill(attention_mask, -1e4)
        return self.out(scores.softmax(-1) @ keys)
'''
    )
    keys = declared(source, tmp_path)
    assert [each["axes"] for each in keys["inputs"].values()][:2] == [["batch", "nq", 64], ["batch", "nk", 64]]


def test_queries_keys_and_values_are_alike(tmp_path: Path) -> None:
    source = (
        odd.HEAD
        + """
class Attends(nn.Module):
    def __init__(self, n_head, d_model, d_k):
        super().__init__()
        self.shape, self.norm = (n_head, d_k), nn.LayerNorm(d_model)
        self.w_q, self.w_k, self.w_v = (nn.Linear(d_model, n_head * d_k) for _ in range(3))

    def forward(self, q, k, v, mask=None):
        q, k, v = self.norm(q.transpose(0, 1)), k.transpose(0, 1), v.transpose(0, 1)
        q, k, v = (each(x).unflatten(-1, self.shape).transpose(1, 2) for each, x in ((self.w_q, q), (self.w_k, k), (self.w_v, v)))
        return ((q @ k.transpose(2, 3)).softmax(-1) @ v).transpose(1, 2).flatten(2).transpose(0, 1)
"""
    )
    keys = declared(source, tmp_path)
    assert [len(each["axes"]) for each in keys["inputs"].values()][:3] == [3, 3, 3]
