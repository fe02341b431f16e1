"""``modeltiers init`` on files of odd styles: what it takes, what it refuses in a line, and what it never makes up."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import odd_models as odd
import pytest
import torch
import unknown_models as unknown
from torch import nn

from harness.adapters import make_adapter
from harness.batches import make_batch, typical_sizes
from harness.cli import main
from harness.cli.init import Progress
from harness.config import SuiteConfig, load_config
from harness.export.program import make_program
from harness.models.attempts import Patience, SideSearch
from harness.models.inspection import guess_task
from harness.models.loading import model_source
from harness.scaffold import Scaffold, scaffold
from harness.scaffold.task import Told
from harness.tasks import TaskType


def written(source: str, folder: Path, name: str = "model.py") -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(source)
    return file


def logits(config: SuiteConfig) -> torch.Tensor:
    """What the suite gets from the model when it follows the config."""
    task = config.task_spec()
    adapter = make_adapter(task, config.adapter, config.path.parent)
    with torch.no_grad():
        return adapter.logits(model_source(config).build(), make_batch(task, typical_sizes(task)))


@pytest.mark.parametrize(
    "source",
    [
        odd.PARSES_AT_IMPORT,
        odd.PARSES_WHEN_BUILT,
        odd.NAMESPACE,
        odd.PARSER,
        odd.CFG_NODE,
        odd.DATACLASS,
        odd.MAIN_BLOCK,
        odd.CONSTANTS,
        odd.KERAS_LIKE,
        odd.NO_FORWARD,
    ],
    ids=[
        "at_import",
        "when_built",
        "namespace",
        "parser",
        "cfg_node",
        "dataclass",
        "main_block",
        "constants",
        "keras",
        "no_forward",
    ],
)
def test_the_file_is_taken_with_its_own_sizes(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["pytest", "--of-somebody-else", "7"])
    config = load_config(scaffold(written(source, tmp_path)).config)
    assert (config.num_features, config.num_classes) == (9, 3)
    assert logits(config).shape == (3, 3)
    assert sys.argv == ["pytest", "--of-somebody-else", "7"]


def test_settings_that_the_model_reads_get_usual_sizes_or_given_ones(tmp_path: Path) -> None:
    model = written(odd.READS_SETTINGS, tmp_path)
    found = scaffold(model)
    assert found.factory.objects
    assert set(found.factory.guessed) == {"num_features", "num_classes"}
    assert "SimpleNamespace(num_features=16, num_classes=4)" in (tmp_path / "modeltiers_model.py").read_text()
    given = scaffold(model, overwrite=True, told=Told(arguments={"num_features": 5}))
    config = load_config(given.config)
    assert config.num_features == 5
    assert logits(config).shape == (3, 4)


def test_a_setting_that_is_only_asked_whether_it_holds_is_off(tmp_path: Path) -> None:
    asked = odd.READS_SETTINGS.replace(
        "        super().__init__()\n", "        super().__init__()\n        if config.frozen:\n            raise ValueError\n"
    )
    assert "frozen=False" in scaffold(written(asked, tmp_path)).factory.objects[0].expression


def test_a_setting_of_no_usual_name_is_a_number(tmp_path: Path) -> None:
    found = scaffold(written(odd.READS_SETTINGS.replace("config.num_features", "config.foo"), tmp_path))
    assert "foo=8" in found.factory.call


def test_a_setting_that_is_no_number_is_named(tmp_path: Path) -> None:
    model = written(odd.READS_SETTINGS.replace("config.num_features", "len(config.foo)"), tmp_path)
    with pytest.raises(Exception, match="reads its settings from `config`; give `foo` as --arg foo=VALUE"):
        scaffold(model)


def test_settings_that_the_model_refuses_are_told_with_the_line_that_refuses_them(tmp_path: Path) -> None:
    refusing = odd.READS_SETTINGS.replace(
        "        super().__init__()\n", "        super().__init__()\n        assert config.n_layer is None\n"
    )
    with pytest.raises(
        Exception, match=r"with n_layer=2 it raises AssertionError: `assert config.n_layer is None` \(model.py, line"
    ):
        scaffold(written(refusing, tmp_path))


def test_arguments_are_read_from_the_file_that_makes_the_model(tmp_path: Path) -> None:
    model = written(odd.HEAD + odd.mlp("foo, bar", "foo", "bar"), tmp_path)
    written("from model import Net\n\ndef build(width):\n    return Net(width, 3)\n", tmp_path, "elsewhere.py")
    assert scaffold(model).factory.guessed == ("foo", "bar")
    written("from model import Net\n\nnet = Net(9, bar=3)\n", tmp_path, "train.py")
    found = scaffold(model, overwrite=True)
    assert found.factory.place == "train.py, line 3"
    assert load_config(found.config).model_kwargs == {"foo": 9, "bar": 3}


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (odd.READS_REQUIRED_ARGUMENT, ["the following arguments are required: --data", "__main__", "model.py, line 7"]),
        (odd.NEEDS_TRAINING, ["model.py, line 17: .backward() trains a model (when the file is imported)", "__main__"]),
    ],
    ids=["argument", "trains"],
)
def test_what_is_refused_is_refused_in_a_true_sentence(
    source: str, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", str(written(source, tmp_path))]) == 2
    said = capsys.readouterr().err
    assert all(word in said for word in words), said
    assert "usage:" not in said
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["model.py"]


@pytest.mark.parametrize(
    "source", [odd.REQUIRED_ARGUMENT, odd.TRAINS_AT_IMPORT, odd.READS_DATA], ids=["arguments", "trains", "data"]
)
def test_of_a_script_only_what_the_model_needs_is_run(source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", str(written(source, tmp_path)), "--no-run"]) == 0
    assert "only what its models need is run: line " in capsys.readouterr().out
    assert load_config(tmp_path / "modeltiers.toml").num_features == 9


def test_labels_that_are_asked_for_are_no_invention(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", str(written(odd.AUTOENCODER, tmp_path)), "--no-run", "--task", "tabular_classification"]) == 0
    config = load_config(tmp_path / "modeltiers.toml")
    assert (config.task_type, config.num_classes) == ("tabular_classification", 24)
    assert main(["init", str(tmp_path / "model.py"), "--no-run", "--force", "--task", "tabular_regression"]) == 2
    assert "are those of tabular_classification" in capsys.readouterr().err


@pytest.mark.parametrize("source", [odd.IMAGE_TO_IMAGE, odd.TWO_IMAGES], ids=["answer", "signature"])
def test_a_model_is_built_once_however_often_it_is_called(source: str, tmp_path: Path) -> None:
    model = written(source, tmp_path)
    assert scaffold(model).guess is None
    (module,) = [m for name, m in sys.modules.items() if getattr(m, "__file__", None) == str(model)]
    assert len([model for model in module.BUILT if not next(model.parameters()).is_meta]) == 1


@pytest.mark.parametrize("side", [28, 32, 37, 45, 224, 300])
def test_the_side_of_images_is_found_in_a_few_calls(side: int, tmp_path: Path) -> None:
    found = scaffold(written(odd.flattening(side), tmp_path))
    assert found.guess is not None
    assert found.guess.task.image_size is not None
    assert (found.guess.task.image_size[1] - 2) // 2 == (side - 2) // 2
    (module,) = [m for m in sys.modules.values() if getattr(m, "__file__", None) == str(tmp_path / "model.py")]
    assert len(module.CALLS) <= 12, module.CALLS


class Patches(nn.Module):
    """As einops' ``Rearrange``: a layer that says by its pattern how many axes its input has."""

    pattern = "b c (h p) (w q) -> b (h w) (p q c)"

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        batch, channels, height, width = input.shape
        parts = input.reshape(batch, channels, height // 8, 8, width // 8, 8)
        return parts.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, 64 * channels)


class Mean(nn.Module):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return input.mean(dim=1)


def test_a_layer_of_einops_speaks_of_images() -> None:
    found = guess_task(lambda: nn.Sequential(Patches(), nn.Linear(192, 16), Mean(), nn.Linear(16, 5)).eval())
    assert (found.task.task_type, found.task.num_classes) == (TaskType.IMAGE_CLASSIFICATION, 5)


def test_a_model_that_says_nothing_of_its_side_is_not_tried_for_ever() -> None:
    search = SideSearch([50])
    sides = []
    while (side := search.next_side()) is not None:
        sides.append(side)
        search.learn(side, None)
    assert sides[0] == 50
    assert len(sides) == len(set(sides)) == 12


@pytest.mark.parametrize(
    ("source", "task"),
    [(odd.LENGTH_FIRST, TaskType.CAUSAL_LM), (odd.LENGTH_FIRST_TRANSLATOR, TaskType.SEQ2SEQ_LM)],
    ids=["language_model", "translator"],
)
def test_the_order_of_axes_is_found(source: str, task: TaskType, tmp_path: Path) -> None:
    found = scaffold(written(source, tmp_path))
    config = load_config(found.config)
    assert found.guess is not None
    assert found.guess.task.task_type is task
    assert "[length, batch]" in found.called
    spec = config.task_spec()
    adapter = make_adapter(spec, config.adapter, config.path.parent)
    model = model_source(config).build()
    batch = make_batch(spec, typical_sizes(spec))
    alone = {name: value[:1] for name, value in batch.items()}
    with torch.no_grad():
        assert torch.allclose(adapter.logits(model, batch)[:1], adapter.logits(model, alone), atol=1e-6)


def test_a_model_that_is_read_batch_first_stays_so(tmp_path: Path) -> None:
    found = scaffold(
        written(odd.LENGTH_FIRST.replace("nn.GRU(width, width)", "nn.GRU(width, width, batch_first=True)"), tmp_path)
    )
    assert load_config(found.config).adapter is None


def test_a_field_that_is_passed_twice_is_one_input_of_an_export(tmp_path: Path) -> None:
    config = load_config(scaffold(written(odd.TARGETS, tmp_path)).config)
    task = config.task_spec()
    adapter = make_adapter(task, config.adapter, config.path.parent)
    sizes = typical_sizes(task)
    program = make_program(model_source(config).build(), adapter, task, make_batch(task, sizes), sizes)
    assert program.fields == ("input_ids",)
    assert program.eager(program.example).shape == (3, 11, 40)


def test_a_call_that_fails_and_changes_the_model_is_forgotten() -> None:
    class Remembers(nn.Module):
        """Keeps the width of the first call, right or wrong."""

        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(7, 5), nn.Linear(4, 7)])
            self.width = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.width = self.width or x.shape[1]
            if self.width != 4:
                raise ValueError("not the width that was first")
            return self.layers[0](self.layers[1](x))

    built: list[nn.Module] = []

    def build() -> nn.Module:
        built.append(Remembers())
        return built[-1].eval()

    guess = guess_task(build)
    assert (guess.task.num_features, guess.task.num_classes, len(built)) == (4, 5, 2)


def test_looking_ends_when_patience_does(tmp_path: Path) -> None:
    said: list[str] = []
    patience = Patience(0.0, said.append)
    with pytest.raises(Exception, match="stopped after 0 s"):
        guess_task(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(1, 2)).eval(), patience=patience)
    assert said[0] == "calling it with images of 32 pixels"
    assert len(said) == 3
    assert Patience().seconds <= 10  # what `modeltiers init` has


class Terminal:
    """A stream that says it is a terminal, or not."""

    def __init__(self, tty: bool) -> None:
        self.text, self._tty = "", tty

    def isatty(self) -> bool:
        return self._tty

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass


def test_progress_is_a_line_that_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream: Any = Terminal(True)
    with Progress(stream) as progress:
        progress.say("building Net()")
        assert "building Net()" in stream.text
    assert stream.text.rpartition("building Net()")[2].count("\x1b[2K") == 1  # the line is erased


def test_what_is_done_soon_is_not_told_where_lines_stay() -> None:
    stream: Any = Terminal(False)
    with Progress(stream) as progress:
        progress.say("building Net()")
    assert stream.text == ""


def test_where_lines_stay_there_is_one_for_each_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.cli.init._QUICK", -1.0)
    stream: Any = Terminal(False)
    with Progress(stream) as progress:
        progress.stage("looking for a call (at most 5 s)")
        for side in range(300):
            progress.say(f"calling it with x=[3, {side}]")
        progress.stage("calling it with other sizes (at most 5 s)")
    assert stream.text == "modeltiers: looking for a call (at most 5 s)\nmodeltiers: calling it with other sizes (at most 5 s)\n"


def in_package(folder: Path, source: str, init: str = "") -> Path:
    """A model file in a package in a package, that needs both."""
    written(init, folder, "outer/__init__.py")
    written("WIDTH = 9\n", folder, "outer/sizes.py")
    written("", folder, "outer/inner/__init__.py")
    return written(f"from ..sizes import WIDTH\n{source}", folder, "outer/inner/mlp.py")


@pytest.fixture
def forgotten_packages(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "outer"]:
        del sys.modules[name]


@pytest.mark.usefixtures("forgotten_packages")
def test_a_file_of_a_package_in_a_package_is_imported_as_part_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = in_package(tmp_path, odd.HEAD + odd.mlp("", "WIDTH", "3"))
    found: Scaffold = scaffold(model)
    assert found.config == tmp_path / "modeltiers.toml"
    config = load_config(found.config)
    assert (config.model_import, config.num_features) == ("outer.inner.mlp:Net", 9)
    assert logits(config).shape == (3, 3)
    assert main(["init", str(model), "--output", str(tmp_path / "elsewhere" / "cfg.toml")]) == 2
    assert f"--output {tmp_path}/cfg.toml" in capsys.readouterr().err


@pytest.mark.usefixtures("forgotten_packages")
def test_a_file_that_imports_its_package_by_name_is_part_of_it_too(tmp_path: Path) -> None:
    model = in_package(tmp_path, odd.HEAD + odd.mlp("", "WIDTH", "3"))
    model.write_text(model.read_text().replace("from ..sizes", "from outer.sizes"))
    assert load_config(scaffold(model).config).model_import == "outer.inner.mlp:Net"


@pytest.mark.usefixtures("forgotten_packages")
def test_a_package_that_does_not_import_is_said_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = in_package(
        tmp_path, odd.HEAD + odd.mlp("", "WIDTH", "3"), "import nothing_like_this\nSIZE = 3 + nothing_like_this.SIZE\n"
    )
    assert main(["init", str(model)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "No module named 'nothing_like_this' (__init__.py, line 1)" in line
    assert "Install the package that has `nothing_like_this`" in line


@pytest.mark.usefixtures("forgotten_packages")
def test_a_config_may_name_a_file_of_a_package(tmp_path: Path) -> None:
    in_package(tmp_path, odd.HEAD + odd.mlp("", "WIDTH", "3"))
    cfg = written('task_type = "tabular_regression"\nnum_features = 9\nmodel_file = "outer/inner/mlp.py"\n', tmp_path, "cfg.toml")
    model = model_source(load_config(cfg)).build()
    assert type(model).__module__ == "outer.inner.mlp"


def test_a_model_of_billions_is_not_built(tmp_path: Path) -> None:
    model = written(odd.VAST, tmp_path)
    with pytest.raises(Exception, match=r"a model of 10.0 billion parameters, .* those of Options\(\), as --arg NAME=VALUE"):
        scaffold(model)
    found = scaffold(model, told=Told(arguments={"width": 9}))
    assert load_config(found.config).num_features == 9
    assert "Options(width=9)" in (tmp_path / "modeltiers_model.py").read_text()


def test_a_method_of_the_class_may_be_the_factory(tmp_path: Path) -> None:
    model = written(odd.CLASS_METHOD, tmp_path)
    with pytest.raises(Exception, match=r"another way: --factory Net\.from_name"):
        scaffold(model)
    config = load_config(scaffold(model, told=Told(factory="Net.from_name")).config)
    assert (config.model_factory, config.num_features) == ("Net.from_name", 9)


def test_settings_that_cannot_be_made_without_arguments_get_usual_sizes(tmp_path: Path) -> None:
    found = scaffold(written(odd.REQUIRED_SETTINGS, tmp_path))
    assert found.factory.guessed == ("d_model",)
    assert "ModelArgs(d_model=64)" in (tmp_path / "modeltiers_model.py").read_text()
    assert load_config(found.config).num_features == 128


def test_arguments_that_speak_of_images_are_believed(tmp_path: Path) -> None:
    config = load_config(scaffold(written(odd.MIXER, tmp_path)).config)
    assert (config.image_size, config.num_classes, config.model_factory) == ([3, 32, 32], 4, "Mixer")


def test_functions_that_are_no_factories_are_not_listed_beside_classes(tmp_path: Path) -> None:
    source = unknown.NO_NUMBERS + "\ndef helper(x):\n    return x\n"
    with pytest.raises(Exception, match="Net") as caught:
        scaffold(written(source, tmp_path))
    assert "helper" not in str(caught.value)
