"""Where models come from: a file, an import, an embedded stub; and what is said when there is none."""

from __future__ import annotations

import copy
import json
import os
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from harness.config import load_config
from harness.errors import FactoryError, ModelSourceError, UserError
from harness.model_file import names_of_model
from harness.models.loading import model_source
from harness.models.stubs import LMStub, SimpleCNN
from harness.scan import ScanWarning

MODEL = """\
from torch import nn

class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.layer = nn.Linear(3, width)

    def forward(self, features):
        return self.layer(features)

def build_model(**kwargs):
    return Net(**kwargs)

def other_model():
    return nn.Identity()

SIZE = 3
"""


@pytest.fixture(autouse=True)
def imports_are_forgotten() -> Iterator[None]:
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if str(getattr(sys.modules[name], "__file__", "")).startswith("/tmp"):
            del sys.modules[name]


@pytest.fixture
def source(tmp_path: Path) -> Any:
    """Writes the files and returns the model source of a config with these keys."""

    def find(files: dict[str, str], **keys: Any) -> Any:
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        if not {"task_name", "task_type"} & set(keys):
            keys |= {"task_type": "tabular_classification", "num_features": 3, "num_classes": 4}
        (tmp_path / "cfg.json").write_text(json.dumps(keys))
        return model_source(load_config(tmp_path / "cfg.json"))

    return find


@pytest.fixture
def refusal(source: Any) -> Any:
    """The one-line message with which a model is refused."""

    def refused(kind: type[UserError], body: str | None, **keys: Any) -> str:
        with pytest.raises(kind) as caught:
            source({} if body is None else {"model.py": body}, **{"model_file": "model.py", **keys}).build()
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return refused


def test_a_model_comes_from_a_file_beside_the_config(source: Any) -> None:
    model = source({"net/model.py": MODEL}, model_file="net/model.py").build()

    assert type(model).__name__ == "Net"
    assert not model.training


def test_model_kwargs_reach_the_factory(source: Any) -> None:
    assert source({"model.py": MODEL}, model_file="model.py", model_kwargs={"width": 9}).build().layer.out_features == 9


def test_another_factory_may_be_named(source: Any) -> None:
    assert isinstance(source({"model.py": MODEL}, model_file="model.py", model_factory="other_model").build(), nn.Identity)


def test_a_class_may_be_the_factory(source: Any) -> None:
    assert type(source({"model.py": MODEL}, model_file="model.py", model_factory="Net").build()).__name__ == "Net"


def test_a_model_comes_from_an_import(source: Any) -> None:
    built = source({"zoo_pkg/__init__.py": "", "zoo_pkg/nets.py": MODEL}, model_import="zoo_pkg.nets:Net").build()

    assert type(built).__module__ == "zoo_pkg.nets"


@pytest.mark.parametrize("model", ["nets.py", "nets.py:Net", "nets_to_import:Net"])
def test_one_key_names_a_file_a_class_of_it_or_an_import(source: Any, model: str) -> None:
    built = source({"nets.py": MODEL, "nets_to_import.py": MODEL}, model=model).build()

    assert type(built).__name__ == "Net"


def test_an_import_without_a_callable_takes_the_model_factory(source: Any) -> None:
    assert type(source({"zoo_nets.py": MODEL}, model_import="zoo_nets").build()).__name__ == "Net"


@pytest.mark.parametrize(("task_name", "expected"), [("lm_tiny", LMStub), ("vision_tiny", SimpleCNN)])
def test_without_a_model_key_the_stub_of_the_task_is_used(source: Any, task_name: str, expected: type) -> None:
    assert isinstance(source({}, task_name=task_name).build(), expected)


def test_the_file_is_found_from_any_working_directory(source: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")

    assert type(source({"model.py": MODEL}, model_file="./model.py").build()).__name__ == "Net"


def test_a_model_file_imports_its_siblings(source: Any) -> None:
    files = {"net/model.py": "from sibling_layers import Net as build_model\n", "net/sibling_layers.py": MODEL}

    assert type(source(files, model_file="net/model.py").build()).__name__ == "Net"


def test_two_files_of_one_name_are_two_models(source: Any) -> None:
    first = source({"a/model.py": MODEL}, model_file="a/model.py")
    second = source({"b/model.py": MODEL.replace("width=4", "width=5")}, model_file="b/model.py")

    assert (first.build().layer.out_features, second.build().layer.out_features) == (4, 5)


def test_two_model_files_with_siblings_of_one_name_keep_their_own(source: Any) -> None:
    body = "from sibling_net import Net as build_model\n"
    first = source({"a/model.py": body, "a/sibling_net.py": MODEL}, model_file="a/model.py")
    second = source({"b/model.py": body, "b/sibling_net.py": MODEL.replace("width=4", "width=5")}, model_file="b/model.py")

    assert (first.build().layer.out_features, second.build().layer.out_features) == (4, 5)


def test_a_model_file_named_like_a_library_does_not_hide_it(source: Any) -> None:
    model = source({"torch.py": MODEL}, model_file="torch.py").build()

    assert type(model).__name__ == "Net"
    assert sys.modules["torch"] is torch


def test_objects_of_a_model_files_classes_can_be_pickled_and_copied(source: Any) -> None:
    model = source({"model.py": MODEL}, model_file="model.py").build()

    assert torch.equal(pickle.loads(pickle.dumps(model)).layer.weight, model.layer.weight)
    assert torch.equal(copy.deepcopy(model).layer.weight, model.layer.weight)


def test_a_dataclass_with_postponed_annotations_works_in_a_model_file(source: Any) -> None:
    head = "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass Size:\n    width: int = 4\n"

    assert source({"model.py": head + MODEL}, model_file="model.py").build().layer.out_features == 4


def test_the_same_seed_gives_the_same_weights_and_another_one_others(source: Any) -> None:
    found = source({"model.py": MODEL}, model_file="model.py")

    assert torch.equal(found.build(3).layer.weight, found.build(3).layer.weight)
    assert not torch.equal(found.build(3).layer.weight, found.build(4).layer.weight)


def test_building_leaves_the_global_random_state_alone(source: Any) -> None:
    found = source({"model.py": MODEL}, model_file="model.py")
    before = torch.get_rng_state()
    found.build(3)

    assert torch.equal(torch.get_rng_state(), before)


def test_importing_a_model_file_leaves_the_global_random_state_alone(source: Any) -> None:
    before = torch.get_rng_state()
    source({"model.py": "import torch\ntorch.manual_seed(123)\n" + MODEL}, model_file="model.py").build()

    assert torch.equal(torch.get_rng_state(), before)


def test_a_missing_file_is_answered_by_the_nearest(refusal: Any, source: Any, tmp_path: Path) -> None:
    (tmp_path / "modle.py").write_text(MODEL)
    message = refusal(ModelSourceError, None)

    assert f"no such file {tmp_path / 'model.py'}" in message
    assert "Did you mean 'modle.py'?" in message
    assert "`model_file`" in message


def test_a_file_that_is_not_python_is_refused(source: Any) -> None:
    with pytest.raises(ModelSourceError, match=r"net\.txt is not a Python file"):
        source({"net.txt": MODEL}, model_file="net.txt")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("def build_model(:\n    pass\n", ["SyntaxError", "model.py, line 1"]),
        ("x = 1\ny = x / 0\n", ["ZeroDivisionError: division by zero", "model.py, line 2"]),
        (
            "import torch\n\nimport no_such_package_anywhere\n",
            ["ModuleNotFoundError", "no_such_package_anywhere", "model.py, line 3"],
        ),
        ("import sys\nsys.exit(3)\n", ["SystemExit", "model.py, line 2"]),
        ("def check():\n    raise ValueError('not today')\ncheck()\n", ["ValueError: not today", "model.py, line 2"]),
        ("raise RuntimeError\n", ["RuntimeError", "model.py, line 1"]),
    ],
    ids=["syntax", "raises", "missing_package", "exits", "raises_inside", "no_message"],
)
def test_a_file_that_does_not_import_is_answered_by_error_and_line(refusal: Any, body: str, said: list[str]) -> None:
    message = refusal(ModelSourceError, body)

    assert message.startswith("`model_file`: importing ")
    for part in said:
        assert part in message


def test_a_syntax_error_in_a_sibling_names_the_sibling(source: Any) -> None:
    with pytest.raises(ModelSourceError, match=r"broken_sibling\.py, line 2"):
        source({"model.py": "import broken_sibling\n", "broken_sibling.py": "x = 1\ndef f(:\n"}, model_file="model.py")


def test_a_file_that_failed_is_tried_again_once_it_is_corrected(source: Any) -> None:
    with pytest.raises(ModelSourceError):
        source({"model.py": "1 / 0\n"}, model_file="model.py")

    assert source({"model.py": MODEL}, model_file="model.py").build().layer.out_features == 4


def test_a_module_that_does_not_exist_is_named(source: Any) -> None:
    with pytest.raises(ModelSourceError, match=r"importing 'no_such_zoo\.nets' raised ModuleNotFoundError"):
        source({}, model_import="no_such_zoo.nets:build")


def test_a_module_that_exits_is_refused(source: Any) -> None:
    with pytest.raises(ModelSourceError, match="SystemExit"):
        source({"zoo_exits.py": "raise SystemExit(2)\n"}, model_import="zoo_exits:build")


def test_a_missing_factory_is_answered_by_what_the_file_defines(refusal: Any) -> None:
    message = refusal(FactoryError, MODEL, model_factory="biuld_model")

    assert "no 'biuld_model'" in message
    assert "Did you mean 'build_model'?" in message
    assert "Net, build_model, other_model" in message


def test_a_file_without_callables_says_so(refusal: Any) -> None:
    assert "nothing callable" in refusal(FactoryError, "SIZE = 3\n")


def test_a_factory_that_is_no_callable_is_described(refusal: Any) -> None:
    assert "'SIZE'" in refusal(FactoryError, MODEL, model_factory="SIZE")
    assert "is a int, expected a callable" in refusal(FactoryError, MODEL, model_factory="SIZE")


@pytest.mark.parametrize(
    ("body", "returned"),
    [
        ("def build_model():\n    pass\n", "returned None"),
        ("from torch import nn\ndef build_model():\n    return nn.Linear\n", "returned the class Linear"),
        ("def build_model():\n    return {'model': 1}\n", "returned a dict"),
    ],
)
def test_a_factory_that_returns_no_module_is_told_what_it_returned(refusal: Any, body: str, returned: str) -> None:
    message = refusal(FactoryError, body)

    assert returned in message
    assert message.endswith("expected an nn.Module")
    assert "model.py:build_model" in message


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("def build_model():\n    width = 0\n    return 1 / width\n", ["ZeroDivisionError", "model.py, line 3"]),
        ("from torch import nn\ndef build_model():\n    return nn.Linear(3, -1)\n", ["RuntimeError", "model.py, line 3"]),
        ("import sys\ndef build_model():\n    sys.exit(1)\n", ["SystemExit", "model.py, line 3"]),
    ],
    ids=["own_code", "inside_torch", "exits"],
)
def test_a_factory_that_raises_is_answered_by_the_users_own_line(refusal: Any, body: str, said: list[str]) -> None:
    message = refusal(FactoryError, body)

    for part in ("model.py:build_model raised", *said):
        assert part in message


def test_model_kwargs_that_the_factory_does_not_take_are_named(refusal: Any) -> None:
    message = refusal(FactoryError, MODEL, model_kwargs={"widht": 3})

    assert "TypeError" in message
    assert "widht" in message


def test_an_unknown_device_is_refused_with_the_valid_ones(source: Any) -> None:
    with pytest.raises(UserError, match="`device`: got 'gpu', expected cpu, cuda"):
        source({"model.py": MODEL}, model_file="model.py", device="gpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_device_that_is_not_here_is_refused(source: Any) -> None:
    with pytest.raises(UserError, match="`device`: 'cuda' is not available"):
        source({"model.py": MODEL}, model_file="model.py", device="cuda")


HOSTILE = f"import os\nos.system('echo started >> {{marker}}')\n{MODEL}"


def test_a_file_that_starts_a_program_is_refused_before_it_runs(refusal: Any, tmp_path: Path) -> None:
    message = refusal(ModelSourceError, HOSTILE.format(marker=tmp_path / "marker"))
    assert f"{tmp_path / 'model.py'}, line 2: os.system starts or stops a process (when the file is imported)" in message
    assert '"trust_model": true' in message
    assert "--trust" in message
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("by", ["config", "environment"])
def test_a_file_that_is_trusted_runs(by: str, source: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if by == "environment":
        monkeypatch.setenv("MODELTIERS_TRUST_MODEL", "1")
    keys = {"trust_model": True} if by == "config" else {}
    with pytest.warns(ScanWarning):
        source({"model.py": HOSTILE.format(marker=tmp_path / "marker")}, model_file="model.py", **keys).build()
    assert (tmp_path / "marker").read_text() == "started\n"


def test_what_the_factory_would_do_counts_with_its_arguments(refusal: Any, source: Any) -> None:
    body = (
        f"{MODEL}\ndef downloads(pretrained=False):\n    if pretrained:\n        import urllib.request\n"
        "        urllib.request.urlopen('http://x')\n    return Net()\n"
    )
    source({"model.py": body}, model_file="model.py", model_factory="downloads").build()
    message = refusal(ModelSourceError, body, model_factory="downloads", model_kwargs={"pretrained": True})
    assert "urllib.request.urlopen reaches the network (when the file builds its model)" in message


def test_the_user_s_command_line_is_not_ours(source: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["pytest", "--strange"])
    body = f"import argparse\nargparse.ArgumentParser().parse_args()\n{MODEL}"
    source({"model.py": body}, model_file="model.py").build()
    assert sys.argv == ["pytest", "--strange"]


def test_a_folder_of_save_pretrained_is_named_as_what_it_is(refusal: Any, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "config.json").write_text('{"architectures": ["GPT2LMHeadModel"]}')
    message = refusal(ModelSourceError, None, model_file="folder")
    assert "is a folder, expected a .py file. It looks like a folder of save_pretrained" in message
    assert f'with GPT2LMHeadModel: write "model": "{tmp_path / "folder"}" instead' in message
    (tmp_path / "plain").mkdir()
    assert refusal(ModelSourceError, None, model_file="plain").endswith("is a folder, expected a .py file")


def test_a_path_among_the_arguments_that_is_not_found_is_explained(refusal: Any) -> None:
    body = f"{MODEL}\ndef reads(file):\n    open(file)\n\ndef reads_another(file):\n    open('another.txt')\n"
    message = refusal(FactoryError, body, model_factory="reads", model_kwargs={"file": "words.txt"})
    assert f"A path in `model_kwargs` is relative to the current folder, {Path.cwd()}" in message
    other = refusal(FactoryError, body, model_factory="reads_another", model_kwargs={"file": "words.txt"})
    assert "relative to the current folder" not in other


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_named_pipe_is_not_waited_for(tmp_path: Path) -> None:
    for name in ("pipe.py", "pipe.json", "pipe.pt"):
        os.mkfifo(tmp_path / name)
    (tmp_path / "model.py").write_text(MODEL)
    keys = {"task_type": "tabular_classification", "num_features": 3, "num_classes": 4}
    said = "is a named pipe, a socket or a device"
    for more in ({"model_file": "pipe.py"}, {"model_file": "model.py", "weights": "pipe.pt"}):
        (tmp_path / "cfg.json").write_text(json.dumps({**keys, **more}))
        with pytest.raises(UserError, match=said):
            model_source(load_config(tmp_path / "cfg.json")).build(0)
    assert names_of_model(tmp_path / "pipe.py") is None
    with pytest.raises(UserError, match=said):
        load_config(tmp_path / "pipe.json")
