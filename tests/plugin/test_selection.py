"""Which tests a command line runs, under which ids, and how often."""

from __future__ import annotations

import re
from typing import Any

import pytest
from small_models import GOOD, HIDING, LEAKY

from harness.catalogue import CATALOGUE

OWN = "def test_own():\n    assert True\n"
CAUSAL = "cfg.json::TestTier1::test_causal"
TWO = ("causal", "batch_independence")
IDS = [
    CAUSAL,
    "cfg.json::TestTier1::test_batch_independence[forward]",
    "cfg.json::TestTier1::test_batch_independence[gradient]",
]


def test_a_config_alone_runs_the_config_alone(project: Any) -> None:
    project.config()
    project.write("test_own.py", OWN)

    result = project.run("--model-config", "cfg.json", "-v")

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines([f"{CAUSAL} PASSED*"])


def test_a_config_and_a_typed_path_run_both(project: Any) -> None:
    project.config()
    project.write("test_own.py", OWN)

    assert sorted(project.ids("--model-config", "cfg.json", "test_own.py")) == [CAUSAL, "test_own.py::test_own"]


def test_a_typed_folder_that_holds_the_config_runs_it_once(project: Any) -> None:
    project.config()
    project.write("test_own.py", OWN)

    assert sorted(project.ids("--model-config", "cfg.json", ".")) == [CAUSAL, "test_own.py::test_own"]


def test_without_a_config_a_run_is_an_ordinary_one(project: Any) -> None:
    project.config()
    project.write("test_own.py", OWN)

    assert project.ids() == ["test_own.py::test_own"]


def test_configs_run_in_the_order_they_are_given(project: Any) -> None:
    project.config("b.json")
    project.config("a.json")

    assert project.ids("--model-config", "b.json", "--model-config", "a.json") == [
        "b.json::TestTier1::test_causal",
        "a.json::TestTier1::test_causal",
    ]


def test_a_config_given_twice_runs_once(project: Any) -> None:
    project.config()

    assert project.ids("--model-config", "cfg.json", "--model-config", "cfg.json") == [CAUSAL]


def test_a_config_is_found_by_a_path_with_dots(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    project.config()
    (project.path / "sub").mkdir()
    monkeypatch.chdir(project.path / "sub")

    assert [node.rpartition("::")[2] for node in project.ids("--model-config", "../cfg.json")] == ["test_causal"]


def test_a_config_is_found_by_its_absolute_path(project: Any) -> None:
    assert project.ids("--model-config", project.config()) == [CAUSAL]


def test_a_config_given_twice_in_two_spellings_runs_once(project: Any) -> None:
    project.config()
    (project.path / "sub").mkdir()

    assert project.ids("--model-config", "cfg.json", "--model-config", "sub/../cfg.json") == [CAUSAL]


def test_a_toml_config_runs(project: Any) -> None:
    off = ", ".join(f"{name} = false" for name in CATALOGUE if name != "causal")
    project.write("cfg.toml", f'task_name = "lm_tiny"\ntier = "1"\nproperties = {{{off}}}\n')

    project.run("--model-config", "cfg.toml").assert_outcomes(passed=1)


def test_the_config_of_the_ini_file_runs_beside_the_testpaths(project: Any) -> None:
    project.config()
    project.write("tests/test_own.py", OWN)
    project.pytester.makeini("[pytest]\nmodel_config = cfg.json\ntestpaths = tests\n")

    assert sorted(project.ids()) == [CAUSAL, "tests/test_own.py::test_own"]


def test_the_config_of_the_ini_file_yields_to_typed_paths(project: Any) -> None:
    project.config()
    project.write("tests/test_own.py", OWN)
    project.pytester.makeini("[pytest]\nmodel_config = cfg.json\ntestpaths = tests\n")

    assert project.ids("tests") == ["tests/test_own.py::test_own"]


def test_the_config_of_the_ini_file_yields_to_the_option(project: Any) -> None:
    project.config()
    project.config("other.json")
    project.pytester.makeini("[pytest]\nmodel_config = cfg.json\n")

    assert project.ids("--model-config", "other.json") == ["other.json::TestTier1::test_causal"]


def test_an_id_can_be_typed_back_and_runs_once(project: Any) -> None:
    project.config(only=TWO)

    assert project.ids("--model-config", "cfg.json") == IDS
    for node in IDS:
        assert project.ids("--model-config", "cfg.json", node) == [node]


def test_several_ids_run_each_once(project: Any) -> None:
    project.config(only=TWO)

    assert project.ids("--model-config", "cfg.json", IDS[0], IDS[2]) == [IDS[0], IDS[2]]


def test_an_id_of_the_ini_files_config_can_be_typed_back(project: Any) -> None:
    project.config(only=TWO)
    project.pytester.makeini("[pytest]\nmodel_config = cfg.json\n")

    assert project.ids(IDS[0]) == [IDS[0]]


def test_an_id_typed_from_another_folder_runs_once(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    project.config()
    project.pytester.makeini("[pytest]\n")
    (project.path / "sub").mkdir()
    monkeypatch.chdir(project.path / "sub")

    found = project.ids("--model-config", "../cfg.json", "../cfg.json::TestTier1::test_causal")

    assert [node.rpartition("::")[2] for node in found] == ["test_causal"]


@pytest.mark.parametrize(
    ("option", "ids"),
    [
        (["-k", "causal"], IDS[:1]),
        (["-k", "not gradient"], IDS[:2]),
        (["-k", "forward or causal"], IDS[:2]),
        (["-m", "tier1"], IDS),
        (["-m", "tier1 and not slow"], IDS),
        (["-m", "tier4"], []),
        (["--deselect", CAUSAL], IDS[1:]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) and value and value[0].startswith("-") else "",
)
def test_the_usual_options_choose_among_the_tests(project: Any, option: list[str], ids: list[str]) -> None:
    project.config(only=TWO)

    assert project.ids("--model-config", "cfg.json", *option) == ids


def test_markers_are_known(project: Any) -> None:
    project.config()

    project.run("--model-config", "cfg.json", "--strict-markers", "-W", "error").assert_outcomes(passed=1)


def test_the_last_failed_runs_alone(project: Any) -> None:
    project.config(only=TWO, model=LEAKY)
    project.run("--model-config", "cfg.json").assert_outcomes(passed=2, failed=1)

    project.run("--model-config", "cfg.json", "--lf").assert_outcomes(failed=1)


def test_collecting_does_not_import_the_model(project: Any) -> None:
    project.config(model="raise RuntimeError('imported')\n")

    assert project.ids("--model-config", "cfg.json") == [CAUSAL]


def test_properties_that_do_not_apply_are_not_generated(project: Any) -> None:
    project.write("cfg.json", '{"task_name": "vision_tiny", "tier": "1"}')
    names = {node.rpartition("::")[2] for node in project.ids("--model-config", "cfg.json")}

    assert "test_shape_contract" in names
    assert "test_input_dependence[channels]" in names
    assert not {"test_causal", "test_padding_ignored", "test_full_vocabulary", "test_input_dependence[tokens]"} & names


def test_ids_need_no_quoting_and_have_no_characters_that_options_trip_on(project: Any) -> None:
    project.config(only=None)
    ids = project.ids("--model-config", "cfg.json")

    assert len(ids) == len(set(ids)) > 30
    for node in ids:
        assert not set(node) & set("=@ '\"\\"), node
        assert node.count("]") <= 1, node


def test_plain_and_no_workers_collect_the_same_in_order(project: Any) -> None:
    project.config(only=None)

    assert project.ids("--model-config", "cfg.json", "-n", "0") == project.ids("--model-config", "cfg.json")


ADAPTERS = ("causal", "adapter_layers")
LORA = GOOD.replace("import torch", "import torch\nlora_rank = 4", 1)
ANOTHER_MODEL = """
import pytest
from harness.models.stubs import LMStub

@pytest.fixture
def model(task_spec):
    return LMStub(task_spec).eval()
"""


def test_what_the_code_of_a_model_names_nothing_of_is_left_out_and_told_once(project: Any) -> None:
    project.config(only=ADAPTERS)

    result = project.run("--model-config", "cfg.json", "--model-report", "out", "-v")

    result.assert_outcomes(passed=1, deselected=4)
    told = [
        "*(causal_lm, 1 tests)",
        "tier 1 *: 1 ok, 1 not applicable *",
        "  none adapter_layers: the model's code names no adapters*",
    ]
    result.stdout.fnmatch_lines(told)
    report = project.json("out/health_report.json")
    assert [check["check_name"] for check in report["skipped"]] == ["tier1::adapter_layers"]
    assert report["coverage"] == ""


@pytest.mark.parametrize("asked", [("-k", "adapter"), ("cfg.json::TestTier1::test_adapter_layers",)])
def test_what_is_left_out_runs_where_it_is_asked_for(project: Any, asked: tuple[str, ...]) -> None:
    project.config(only=ADAPTERS)

    project.run("--model-config", "cfg.json", *asked).assert_outcomes(skipped=4, passed=0, deselected=asked[0] == "-k")


def test_nothing_is_left_out_where_the_code_speaks_of_it_or_another_model_is_tested(project: Any) -> None:
    project.config(only=ADAPTERS, model=LORA)
    assert len(project.ids("--model-config", "cfg.json")) == 5

    project.config(only=ADAPTERS)
    assert len(project.ids("--model-config", "cfg.json")) == 1
    project.write("conftest.py", ANOTHER_MODEL)
    assert len(project.ids("--model-config", "cfg.json")) == 5


STUB = """\
from pytest_modeltiers.suite import tests_for

globals().update(tests_for("cfg.json"))
"""


def test_a_stub_of_three_lines_collects_the_suite(project: Any) -> None:
    project.config(only=TWO)
    project.write("test_model.py", STUB)

    assert project.ids() == [node.replace("cfg.json", "test_model.py") for node in IDS]


@pytest.mark.parametrize("how", [(), ("--model-config", "cfg.json", "test_model.py")], ids=["ini", "typed"])
def test_a_stub_beside_its_config_runs_each_test_once(project: Any, how: tuple[str, ...]) -> None:
    project.config(only=TWO)
    project.write("test_model.py", STUB)
    project.pytester.makeini("[pytest]\nmodel_config = cfg.json\n")

    assert project.ids(*how) == [node.replace("cfg.json", "test_model.py") for node in IDS]


def test_a_stub_of_three_lines_runs(project: Any) -> None:
    project.config(only=TWO)
    project.write("test_model.py", STUB)

    project.run().assert_outcomes(passed=3)


def test_a_stub_runs_beside_an_ini_file_that_names_the_config(project: Any) -> None:
    project.config(only=TWO)
    project.write("test_model.py", STUB)
    project.pytester.makeini("[pytest]\nmodel_config = cfg.json\n")

    project.run("test_model.py").assert_outcomes(passed=3)


def test_a_stub_finds_its_config_from_another_folder(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    project.config("sub/cfg.json", only=TWO)
    project.write("sub/test_model.py", STUB)

    assert len(project.ids("sub")) == 3


def test_a_stub_of_a_refused_config_says_why_in_one_line(project: Any) -> None:
    project.config(vocab_sise=3)
    project.write("test_model.py", STUB)

    result = project.run()

    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(["*cfg.json:1:*: unknown key `vocab_sise`. Did you mean 'vocab_size'?*"])


def test_an_unused_plugin_imports_nothing_heavy_and_prints_nothing(project: Any) -> None:
    heavy = ("torch", "harness", "pydantic", "numpy", "jinja2")
    project.write(
        "test_own.py",
        "import sys\n\n"
        "def test_light():\n"
        "    assert 'pytest_modeltiers.plugin' in sys.modules\n"
        f"    assert not [name for name in {heavy} if name in sys.modules]\n",
    )

    result = project.run_apart("-p", "no:metadata", "-p", "no:hypothesispytest")

    result.assert_outcomes(passed=1)
    body = "\n".join(line for line in result.outlines if not line.startswith("plugins:"))
    assert "tier" not in body
    assert "health" not in body


NOTE_IDS = """\
import os
import pathlib

def pytest_collection_finish(session):
    name = os.environ.get("PYTEST_XDIST_WORKER") if hasattr(session.config, "workerinput") else "main"
    (pathlib.Path(__file__).parent / f"ids-{name}").write_text("\\n".join(item.nodeid for item in session.items))
"""


def test_ids_outcomes_and_reports_are_the_same_on_two_workers(project: Any) -> None:
    names = ("shape_contract", "batch_independence", "causal", "stateless", "gradient_flow", "registration", "initialisation")
    project.config(only=names, model=LEAKY)
    project.config("warns.json", only=("registration", "eval_deterministic"), model=HIDING)
    project.write("conftest.py", NOTE_IDS)
    both = ("--model-config", "cfg.json", "--model-config", "warns.json", "-v")

    alone = project.run(*both, "--model-report", "alone")
    spread = project.run(*both, "--model-report", "spread", "-n", "2")

    ids = {name: (project.path / f"ids-{name}").read_text() for name in ("main", "gw0", "gw1")}
    assert ids["main"] == ids["gw0"] == ids["gw1"]
    assert set(words(alone)) == set(ids["main"].split())
    assert words(alone) == words(spread)
    assert {"PASSED", "FAILED", "WARN", "SKIPPED"} == set(words(alone).values())
    assert alone.ret == spread.ret == pytest.ExitCode.TESTS_FAILED
    for config in ("cfg", "warns"):
        one, two = (timeless(project.json(f"{run}/{config}/health_report.json")) for run in ("alone", "spread"))
        for check, other in zip(one.pop("checks"), two.pop("checks"), strict=True):
            assert check == other
        assert one == two


def words(result: pytest.RunResult) -> dict[str, str]:
    """Outcome by node id, of plain (``id PASSED``) and of distributed (``[gw0] [ 10%] PASSED id``) verbose output."""
    lines = [re.sub(r"\[[ \d]+%\]|\[gw\d\]", "", line).split() for line in result.outlines]
    lines = [line[:2] if line[1:2] == ["SKIPPED"] else line for line in lines]  # a reason follows
    pairs = [line for line in lines if len(line) == 2 and any("::TestTier" in part for part in line)]
    return {node: word for node, word in (pair if "::" in pair[0] else pair[::-1] for pair in pairs) if word.isupper()}


def timeless(value: Any) -> Any:
    """A report without what differs from run to run: how and when it ran, and calls, which the first test of a process makes for all."""
    if isinstance(value, dict):
        left_out = ("timestamp", "environment", "duration_seconds", "forwards", "rows")
        return {key: timeless(item) for key, item in value.items() if key not in left_out}
    return [timeless(item) for item in value] if isinstance(value, list) else value


@pytest.mark.long
def test_tier_one_imports_nothing_that_only_other_tiers_need(project: Any) -> None:
    project.config(only=None)
    heavy = {"lightning", "matplotlib", "onnx", "pandas", "scipy", "sqlalchemy", "torchmetrics", "transformers"}
    project.write(
        "conftest.py",
        f"import sys\ndef pytest_terminal_summary(terminalreporter):\n"
        f"    terminalreporter.write_line('loaded: ' + repr(sorted({heavy!r} & set(sys.modules))))\n",
    )
    result = project.run_apart("--model-config", "cfg.json")
    assert "loaded: []" in result.outlines
