"""JSON with comments, YAML, and pyproject.toml: the same keys, and mistakes at the line where they stand."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.config import load_config
from harness.config_file import read_keys, without_comments
from harness.errors import ConfigError, MissingPackageError

COMMENTED = """\
{
  // the preset
  "task_name": "lm_tiny",   /* small
     and sound */
  "run_name": "a // b /* c */ \\" // d",
  "tier": ["1", "2",],  // two
  "model_kwargs": {"url": "http://x", },
}
"""
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.text(max_size=8)
    | st.sampled_from(["//", "/*", "*/", ",]", ", }", '\\"', "\\"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


def refusal(folder: Path, name: str, text: str) -> str:
    file = folder / name
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_keys(file)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(str(file))


def test_comments_and_trailing_commas_are_taken(tmp_path: Path) -> None:
    (tmp_path / "cfg.json").write_text(COMMENTED)
    config = load_config(tmp_path / "cfg.json")
    assert (config.tiers, config.run_name, config.model_kwargs) == ((1, 2), 'a // b /* c */ " // d', {"url": "http://x"})


@given(VALUES, st.sampled_from([None, 2]))
def test_what_is_json_stays_what_it_is(value: Any, indent: int | None) -> None:
    text = json.dumps(value, indent=indent)
    assert json.loads(without_comments(text)) == value


@given(VALUES)
def test_comments_between_all_parts_change_nothing(value: Any) -> None:
    text = json.dumps(value, indent=1)
    commented = "\n".join(f'/* , */ {line} // ], "' for line in text.splitlines())
    assert json.loads(without_comments(commented)) == value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{\n  // x\n  "task_name": lm_tiny\n}', ":3:16: not JSON"),
        ('{"a": 1, /* no\nend', ":1:10: not JSON: a comment begins here and does not end"),
        ("{,}", ":1:2: not JSON"),
        ('{"tier": [,]}', ":1:11: not JSON"),
        ('{"a": 1,,}', "not JSON"),
        ('{"a": ,}', ":1:7: not JSON"),
        ('/* one\n two */ {"a" 1}', ":2:14: not JSON"),
        ('{"a": "b // c}', ":1:7: not JSON"),
        ('{"a": "b,\n "c": 1}', ':1:7: not JSON: the text "b, is not closed: its second " is missing'),
        ('{"a": [1, 2', ":1:7: not JSON: [ is not closed"),
        ('{\n"a": {"b": 1}', ":1:1: not JSON: { is not closed"),
        ('{"a": "\t"}', ":1:8: not JSON: a tab"),
    ],
    ids=[
        "line",
        "open",
        "only_comma",
        "empty_list",
        "two",
        "no_value",
        "after_lines",
        "string",
        "cut_text",
        "bracket",
        "brace",
        "tab",
    ],
)
def test_mistakes_keep_their_place(text: str, said: str, tmp_path: Path) -> None:
    assert said in refusal(tmp_path, "cfg.json", text)


YAML = """\
task_name: lm_tiny
learning_rate: 5e-4
weight_decay: .01
run_name: on
tier: ["1", "2"]
log_to_db: true
export:
  formats: [onnx]
properties: {causal: false}
"""


@pytest.mark.parametrize("name", ["cfg.yaml", "cfg.yml"])
def test_yaml_is_taken(name: str, tmp_path: Path) -> None:
    pytest.importorskip("yaml")
    (tmp_path / name).write_text(YAML)
    config = load_config(tmp_path / name)
    assert (config.learning_rate, config.weight_decay, config.run_name, config.log_to_db) == (5e-4, 0.01, "on", True)
    assert (config.tiers, config.export_options.formats, config.properties) == ((1, 2), ["onnx"], {"causal": False})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("task_name: [lm_tiny\n", ":1:12: not YAML that can be read: [ is opened here and not closed"),
        (
            "inputs:\n  x: {axes: [batch, 3]\noutputs:\n  y: {}\n",
            ":2:6: not YAML that can be read: { is opened here and not closed",
        ),
        ("inputs:\n  x: {axes: [batch, 3\n  y: {}\n", ":2:13: not YAML that can be read: [ is opened here and not closed"),
        ('task_name: "x\nseed: 1\n', ':1:12: not YAML that can be read: " is opened here and not closed'),
        ("inputs: {\n  x: 1 y: 2}\n", ":2:9: not YAML that can be read: expected ',' or '}'"),
        ("epochs: 1\nepochs: 2\n", ":2:1: not YAML that can be read: the key 'epochs' is given twice"),
        ("a: &x [1]\nb: *x\n", ":2:4: not YAML that can be read: a config takes no aliases"),
        ("1: 2\n", ":1:1: not YAML that can be read: the key '1' is not text"),
        ("a: !!python/object:os.system ls\n", "could not determine a constructor"),
        ("", ": expected an object of keys, got NoneType"),
        ("- a\n", ": expected an object of keys, got list"),
        ("a: " + "[" * 500 + "]" * 500, ""),
    ],
    ids=["open", "open_table", "open_list", "open_quote", "comma", "twice", "alias", "number", "python", "empty", "list", "deep"],
)
def test_mistakes_in_yaml_are_a_line(text: str, said: str, tmp_path: Path) -> None:
    pytest.importorskip("yaml")
    assert said in refusal(tmp_path, "cfg.yaml", text)


def test_yaml_without_its_package_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = builtins.__import__

    def refuse(name: str, *rest: Any) -> Any:
        if name == "yaml":
            raise ImportError(name)
        return plain(name, *rest)

    (tmp_path / "cfg.yaml").write_text(YAML)
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingPackageError, match=r"pip install 'pytest-modeltiers\[yaml\]'"):
        read_keys(tmp_path / "cfg.yaml")


def test_pyproject_has_its_own_table(tmp_path: Path) -> None:
    file = tmp_path / "pyproject.toml"
    file.write_text('[project]\nname = "x"\n\n[tool.modeltiers]\ntask_name = "lm_tiny"\nepochs = 3\n')
    assert load_config(file).epochs == 3


@pytest.mark.parametrize("text", ['[project]\nname = "x"\n', "tool = 3\n", "[tool.pytest]\n"])
def test_a_pyproject_without_the_table_says_so(text: str, tmp_path: Path) -> None:
    assert refusal(tmp_path, "pyproject.toml", text).startswith(": no table [tool.modeltiers]")


def test_what_is_no_config_is_named_as_what_it_is(tmp_path: Path) -> None:
    assert f"`modeltiers init {tmp_path / 'model.py'}`" in refusal(tmp_path, "model.py", "x = 1\n")
    (tmp_path / "modeltiers.toml").write_text("")
    with pytest.raises(ConfigError, match=r"is a folder, expected a config file; did you mean .*modeltiers.toml"):
        read_keys(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "places"),
    [
        (
            "cfg.toml",
            'task_name = "lm_tiny" # one\nsead = 3\n\n[train]\ndatset = """\na = 1\n"""\nlr.x = [1,\n 2]\n',
            ["2:1", "5:1", "8:1"],
        ),
        ("cfg.toml", 'task_name = "lm_tiny"\nproperties = {causl = false}\n', ["2:15"]),
        ("cfg.toml", 'task_name = "lm_tiny"\n"seed" = "x"\ntier = [1, 9]\n', ["2:1", "3:12"]),
        (
            "cfg.json",
            '{"task_name": "lm_tiny", // "seed"\n  "sead": 3, "train": {"path": "a\\"b", "datset": [{}]},}',
            ["2:3", "2:40"],
        ),
        ("cfg.yaml", "task_name: lm_tiny\nsead: 3\ntrain:\n  datset: [1]\ntier: [1, 9]\n", ["2:1", "4:3", "5:11"]),
        ("pyproject.toml", '[tool.modeltiers]\ntask_name = "lm_tiny"\n[tool.modeltiers.train]\ndatset = 1\n', ["4:1"]),
        ("cfg.json", '{"seed": 1,\n "seed": 2}', ["2:2"]),
    ],
    ids=["tables", "inline", "items", "json", "yaml", "pyproject", "twice"],
)
def test_every_mistake_has_its_line_and_column(name: str, text: str, places: list[str], tmp_path: Path) -> None:
    if name.endswith("yaml"):
        pytest.importorskip("yaml")
    (tmp_path / name).write_text(text)

    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / name)

    assert [f"{mistake.line}:{mistake.column}" for mistake in caught.value.mistakes] == places
    assert [line.split(": ")[0] for line in str(caught.value).splitlines()] == [f"{tmp_path / name}:{at}" for at in places]
