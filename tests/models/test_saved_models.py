"""Models that were saved whole: a folder of save_pretrained, a Lightning checkpoint; and models that another method than forward calls."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.adapters import make_adapter
from harness.batches import make_batch, typical_sizes
from harness.config import SuiteConfig, load_config
from harness.errors import ConfigError, FactoryError, ModelSourceError, UserError, WeightsError
from harness.evidence import Status
from harness.model_file import task_of
from harness.models.copies import Copies
from harness.models.loading import model_source
from pytest_modeltiers.live import judge_model

AGENT = """
import torch
from torch import nn

class Agent(nn.Module):
    def __init__(self, width=8, classes=4):
        super().__init__()
        self.actor, self.critic = nn.Linear(width, classes), nn.Linear(width, 1)

    def value_of(self, x):
        return self.critic(x)

    def act(self, x, action=None):
        scores = self.actor(x)
        action = torch.distributions.Categorical(logits=scores).sample() if action is None else action
        return {"action": action, "scores": scores, "value": self.value_of(x)}

def example_inputs():
    return torch.randn(5, 8), torch.randint(4, (5,))
"""


def config(folder: Path, **keys: Any) -> SuiteConfig:
    file = folder / "cfg.json"
    file.write_text(json.dumps(keys), encoding="utf-8")
    return load_config(file)


def check(found: SuiteConfig) -> None:
    """Calls the model of a config with random inputs of its task."""
    task = found.task_spec()
    sizes = typical_sizes(task)
    logits = make_adapter(task, folder=found.path.parent).logits(model_source(found).build(), make_batch(task, sizes))
    assert tuple(logits.shape) == task.signature.main.shape(task.signature.complete(sizes.by_axis(task)))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELTIERS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def agent(tmp_path: Path) -> Path:
    (tmp_path / "agent.py").write_text(AGENT, encoding="utf-8")
    return tmp_path


def test_a_class_without_forward_is_called_by_the_method_that_is_named(agent: Path) -> None:
    found = config(agent, model_file="agent.py", model_factory="Agent", call="act")
    model = model_source(found).build()

    check(found)
    outputs = {each.name: each.axes for each in found.task_spec().signature.outputs}
    assert outputs == {"scores": ("batch", 4), "value": ("batch", 1)}  # the action comes out as it came in
    copied = Copies(model).fresh()
    with torch.no_grad():
        copied.actor.weight.zero_()
    rows = torch.ones(1, 8)
    assert not torch.equal(copied(rows)["scores"], model(rows)["scores"])


def test_a_method_that_is_not_there_is_refused_with_those_that_are(agent: Path) -> None:
    found = config(agent, model_file="agent.py", model_factory="Agent", call="acts")
    with pytest.raises(FactoryError, match=r"no method 'acts'. Did you mean 'act'\? It has: act, value_of"):
        model_source(found).build()


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("pretrained")
    small = {"vocab_size": 40, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    torch.manual_seed(0)
    gpt = transformers.GPT2Config(vocab_size=40, n_positions=16, n_embd=8, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=1)
    transformers.GPT2LMHeadModel(gpt).save_pretrained(folder / "shards", max_shard_size="2KB")
    transformers.BertModel(transformers.BertConfig(max_position_embeddings=16, **small)).save_pretrained(folder / "encoder")
    return folder


def test_a_folder_of_save_pretrained_is_a_model_with_its_task(pretrained: Path) -> None:
    assert len(list((pretrained / "shards").glob("*.safetensors"))) > 1
    found = config(pretrained, model="shards/")
    source = model_source(found)

    assert (found.task_type, found.vocab_size, found.max_seq_len) == ("causal_lm", 40, 16)
    assert not source.has_fresh_weights
    assert torch.equal(source.build(1).lm_head.weight, source.build(2).lm_head.weight)
    check(found)


def test_a_folder_of_no_task_type_is_read_from_the_model_s_own_example(pretrained: Path) -> None:
    found = config(pretrained, model="encoder")

    check(found)
    assert found.task_spec().signature.main.axes == ("batch", "seq", 8)
    assert found.task_spec().signature.axes["seq"].most == 16


def test_what_the_config_says_of_the_task_wins(pretrained: Path) -> None:
    assert config(pretrained, model="shards", max_seq_len=9).max_seq_len == 9
    declared = config(
        pretrained,
        model="shards",
        inputs={"input_ids": {"axes": ["batch", "seq"], "values": {"ids": 40}}},
        outputs={"logits": {"axes": ["batch", "seq", 40]}},
        axes={"seq": {"max": 12}},
    )
    assert declared.is_declared
    check(declared)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"architectures": ["BertForSequenceClassification"], "vocab_size": 9, "id2label": {"0": "a", "1": "b", "2": "c"}},
         {"task_type": "sequence_classification", "vocab_size": 9, "max_seq_len": 128, "num_classes": 3}),
        ({"architectures": ["BertForMaskedLM"], "vocab_size": 9, "max_position_embeddings": 64, "pad_token_id": 0},
         {"task_type": "masked_lm", "vocab_size": 9, "max_seq_len": 64, "pad_token_id": 0}),
        ({"architectures": ["ViTForImageClassification"], "image_size": 32, "num_labels": 5},
         {"task_type": "image_classification", "image_size": [3, 32, 32], "num_classes": 5}),
        ({"architectures": ["MarianMTModel"], "vocab_size": 9}, {"task_type": "seq2seq_lm", "vocab_size": 9, "max_seq_len": 128}),
        ({"architectures": ["BertForSequenceClassification"], "vocab_size": 9, "id2label": {"0": "score"}}, {}),
        ({"architectures": ["LlavaForConditionalGeneration"], "vocab_size": 9, "vision_config": {}}, {}),
        ({"architectures": ["BertModel"], "vocab_size": 9}, {}),
        ({}, {}),
    ],
)  # fmt: skip
def test_the_task_of_an_architecture(settings: dict[str, Any], expected: dict[str, Any]) -> None:
    assert task_of(settings) == expected


@pytest.mark.parametrize(
    ("files", "model", "message"),
    [
        ({}, "absent/", "`model`: no such folder .*absent; a model of the Hub is downloaded first"),
        (
            {"empty/notes.txt": ""},
            "empty",
            "is a folder without a readable config.json, expected .* or a folder of save_pretrained",
        ),
        ({"model.onnx": ""}, "model.onnx", r"is a file, expected FILE\.py, .*, or a folder of save_pretrained"),
        ({"own/config.json": '{"auto_map": {"AutoModel": "x.Y"}}'}, "own", "is made by code in the folder, which is not run"),
        ({"odd/config.json": '{"architectures": ["NoSuchModel"]}'}, "odd", "transformers .* has no NoSuchModel"),
    ],
)
def test_a_folder_that_is_no_model_is_refused_in_one_line(
    tmp_path: Path, files: dict[str, str], model: str, message: str
) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(ModelSourceError, match=message) as refused:
        model_source(config(tmp_path, model=model))
    assert "\n" not in str(refused.value)


def test_transformers_is_asked_for_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "config.json").write_text('{"architectures": ["BertModel"]}', encoding="utf-8")
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)

    with pytest.raises(
        UserError, match=r"needs transformers, which is not installed: pip install 'pytest-modeltiers\[huggingface\]'"
    ):
        model_source(config(tmp_path, model="own"))


def save_checkpoint(folder: Path, **hyper_parameters: Any) -> None:
    linear = {"actor.weight": torch.ones(3, 6), "actor.bias": torch.zeros(3), "critic.weight": torch.ones(1, 6)}
    content = {"state_dict": {**linear, "critic.bias": torch.zeros(1)}, "hyper_parameters": hyper_parameters}
    torch.save(content, folder / "best.ckpt")


def test_a_lightning_checkpoint_brings_weights_and_arguments(agent: Path) -> None:
    save_checkpoint(agent, width=6, classes=3, learning_rate=0.1)
    found = config(agent, model="best.ckpt", model_file="agent.py", model_factory="Agent", call="act", **declared(6, 3))

    check(found)
    assert torch.equal(model_source(found).build().actor.weight, torch.ones(3, 6))


def declared(width: int, classes: int) -> dict[str, Any]:
    inputs = {"x": {"axes": ["batch", width]}, "action": {"axes": ["batch"], "values": {"ids": classes}}}
    return {"inputs": inputs, "outputs": {"scores": {"axes": ["batch", classes], "kind": "class_scores"}}}


def test_given_arguments_win_over_those_of_the_checkpoint(agent: Path) -> None:
    save_checkpoint(agent, width=6, classes=5)
    found = config(
        agent, model="best.ckpt", model_file="agent.py", model_factory="Agent", model_kwargs={"classes": 3}, **declared(6, 3)
    )
    assert model_source(found).build().actor.out_features == 3


SAVES_ITSELF = """
import torch
from torch import nn

class Agent(nn.Module):
    def __init__(self):
        super().__init__()
        self.actor = nn.Linear(8, 4)

    def act(self, x, action):
        return {"scores": self.actor(x)}

    def save(self, path):
        torch.save(self.state_dict(), path)

    @classmethod
    def load(cls, path):
        agent = cls()
        agent.load_state_dict(torch.load(path))
        return agent
"""


def test_what_a_method_of_the_class_loads_is_called_by_the_same_method(tmp_path: Path) -> None:
    (tmp_path / "agent.py").write_text(SAVES_ITSELF, encoding="utf-8")
    found = config(tmp_path, model_file="agent.py", model_factory="Agent", call="act", **declared(8, 4))
    verdicts = judge_model(model_source(found).build, found.task_spec(), only=("serialisation",), share=0.2)
    assert verdicts["serialisation[own_methods]"].status is Status.OK, verdicts["serialisation[own_methods]"].message


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"model": "best.ckpt"}, "`model`: a .ckpt of Lightning needs its class: give `model_file` with `model_factory`"),
        (
            {"model": "best.ckpt", "model_file": "agent.py", "weights": "w.pt"},
            "`weights` and a `model` that is a .ckpt: give one",
        ),
        ({"model": "folder", "model_file": "agent.py"}, "give one of `model`, `model_file`, not 2"),
        ({"model_file": "agent.py", "call": "no method"}, '`call`: got "no method", expected the name of a method'),
    ],
)
def test_keys_that_contradict_each_other_are_refused(agent: Path, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(agent, **{**declared(6, 3), **keys})


def test_a_checkpoint_that_would_run_code_is_refused(agent: Path) -> None:
    torch.save({"state_dict": {}, "hyper_parameters": {"path": Path("x"), "function": config}}, agent / "best.ckpt")
    found = config(agent, model="best.ckpt", model_file="agent.py", model_factory="Agent", **declared(8, 4))
    with pytest.raises(WeightsError, match=r"`model`: .*best.ckpt is refused: loading it would run code"):
        model_source(found)
