"""``pytest --model``: a model without a config, on what `modeltiers init` would write."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from projects import Project
from small_models import GOOD, output

from pytest_modeltiers import without_config

ONLY = ("-m", "tier1", "-k", "shape_contract or rng_untouched")
AGAIN = GOOD.replace("return Model(**kwargs)", "return Model(**kwargs)\n\nclass Second(Model):\n    pass\n")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELTIERS_CACHE", str(tmp_path / "cache"))


def test_a_file_runs_without_a_config_which_is_printed(project: Project) -> None:
    project.write("net.py", GOOD)

    result = project.run("--model", "net.py", *ONLY)

    result.assert_outcomes(passed=2, deselected=result.parseoutcomes()["deselected"])
    said = output(result)
    assert "net.py, as found (to keep it and edit it: modeltiers init net.py):" in said
    assert '  task_type = "causal_lm"' in said
    assert '  model_file = "net.py"' in said
    assert "modeltiers: net.py (causal_lm, " in said
    assert "More, when you want it" not in said
    assert sorted(path.name for path in project.path.iterdir() if path.suffix in (".toml", ".py")) == ["net.py"]


HALVED = """
import torch
from torch import nn

class Halved(nn.Module):
    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 4, 3, 2, 1), nn.ConvTranspose2d(4, 2, 2, 2)

    def forward(self, image):
        return self.up(self.down(image)) + image[:, :2]
"""


def test_sizes_that_do_not_work_are_said_with_the_line_that_refuses_them(project: Project) -> None:
    project.write("halved.py", HALVED)

    result = project.run("--model", "halved.py", "-m", "tier1", "-k", "rng_untouched")

    said = "note: height and width judged only in steps of 2: 33 raises RuntimeError at halved.py, line 11"
    assert said in " ".join(output(result).split())


TURNED = """
from torch import nn

class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.lstm, self.head = nn.Embedding(40, 8), nn.LSTM(8, 8), nn.Linear(8, 5)

    def forward(self, sentence):
        return self.head(self.lstm(self.embed(sentence))[0])
"""


def test_the_order_of_axes_that_a_recurrent_layer_reads_by_default_is_said(project: Project) -> None:
    project.write("tagger.py", TURNED)

    result = project.run("--model", "tagger.py", "-m", "tier1", "-k", "rng_untouched")

    assert "if you pass [batch, length], its rows mix: give the layers batch_first=True" in " ".join(output(result).split())


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("heads = 4", ["heads = 4"]),
        ("a_path_that_is_as_long_as_this_one = 1  # a path", ["a_path_that_is_as_long_as_this_one = 1  # a path"]),
        ("kind = 1    # one of the kinds that there are", ["kind = 1    # one of the kinds that", "            # there are"]),
    ],
)
def test_a_comment_fits_the_terminal(line: str, shown: list[str]) -> None:
    assert without_config._wrapped(line, 38) == shown


def test_the_same_model_has_the_same_tests_in_the_next_run(project: Project) -> None:
    project.write("net.py", GOOD)
    assert project.ids("--model", "net.py", *ONLY) == project.ids("--model=net.py", *ONLY) != []


def test_ids_name_the_model_and_can_be_typed_back_also_from_another_folder(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.write("pkg/net.py", GOOD)
    project.pytester.makeini("[pytest]\n")
    node = "pkg/net.py::TestTier1::test_rng_untouched"

    assert node in project.ids("--model", "pkg/net.py", *ONLY)
    assert project.ids("--model", "pkg/net.py", node) == [node]
    monkeypatch.chdir(project.path / "pkg")
    assert project.ids("--model", "net.py", "net.py::TestTier1::test_rng_untouched") == [node]


def test_the_report_says_how_to_run_a_test_again(project: Project) -> None:
    project.write("net.py", GOOD)

    project.run("--model", "net.py", *ONLY, "--model-report", "out")

    checks = project.json("out/health_report.json")["checks"]
    assert checks[0]["details"]["rerun"] == "pytest --model net.py net.py::TestTier1::test_shape_contract"


def test_workers_run_the_config_of_the_main_process(project: Project) -> None:
    project.write("pkg/__init__.py", "")
    project.write("pkg/sizes.py", "VOCABULARY = 32\n")
    project.write("pkg/net.py", f"from .sizes import VOCABULARY\n{AGAIN}")

    result = project.run_apart("--model", "pkg.net:Second", "-n", "2", *ONLY)

    result.assert_outcomes(passed=2)
    assert 'model_import = "pkg.net:Second"' in output(result)


def test_a_config_and_a_model_run_together(project: Project) -> None:
    project.config("cfg.json", only=("causal",))
    project.write("net.py", GOOD)

    ids = project.ids("--model-config", "cfg.json", "--model", "net.py", "-m", "tier1", "-k", "causal or shape_contract")

    assert sorted({line.partition("::")[0].rpartition("/")[2] for line in ids}) == ["cfg.json", "net.py"]


def test_a_folder_of_save_pretrained_runs(project: Project) -> None:
    transformers = pytest.importorskip("transformers")
    settings = transformers.GPT2Config(
        vocab_size=32, n_positions=16, n_embd=8, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=1
    )
    transformers.GPT2LMHeadModel(settings).save_pretrained(project.path / "checkpoint")

    result = project.run_apart("--model", "./checkpoint/", *ONLY)

    assert result.parseoutcomes()["passed"] == 2
    assert "GPT2LMHeadModel; `modeltiers explain` shows its task" in output(result)
    assert "to keep it and edit it: modeltiers init ./checkpoint/" in output(result)


def test_what_is_no_model_ends_the_run_in_words(project: Project) -> None:
    result = project.run_apart("--model", "absent.py")

    assert result.ret == 2
    assert output(result).strip() == "Exit: --model: no such file absent.py."


OWN_OPTION = """
def pytest_addoption(parser):
    parser.addoption("--model", default="small")
"""


def test_an_option_of_that_name_of_the_user_s_own_stays_theirs(project: Project) -> None:
    project.write("conftest.py", OWN_OPTION)
    project.write("test_own.py", "def test_own(request):\n    assert request.config.getoption('--model') == 'large'\n")

    project.run_apart("--model", "large").assert_outcomes(passed=1)


IDLE = """
import json, sys

def pytest_unconfigure(config):
    heavy = [name for name in sys.modules if name.partition(".")[0] in ("torch", "harness")]
    open("heavy.json", "w").write(json.dumps(heavy))
"""


def test_a_run_without_a_model_imports_neither_torch_nor_harness(project: Project) -> None:
    project.write("conftest.py", IDLE)
    project.write("test_own.py", "def test_own():\n    pass\n")

    project.run_apart().assert_outcomes(passed=1)
    assert json.loads((project.path / "heavy.json").read_text(encoding="utf-8")) == []
