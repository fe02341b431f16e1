"""Tiers on a model object: chosen by number, refused where a model is not enough."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import pytest
import torch
from planted_bugs.tasks import TABLE
from planted_bugs.tier1.tabular import Perceptron
from small_models import Leaking
from torch import nn

from harness.errors import ExampleError
from harness.evidence import Status
from pytest_modeltiers.live import judge, judge_model, task_of_example
from pytest_modeltiers.progress import shown_progress


def test_tier_one_is_judged_by_default() -> None:
    assert set(judge_model(Perceptron, TABLE, only=["causal", "gradient_flow", "gradcheck"])) == {
        "gradient_flow[reaches_every_parameter]",
        "gradient_flow[finite]",
    }


def test_two_tiers_are_judged_together() -> None:
    findings = judge_model(Perceptron, TABLE, only=["inputs_unchanged", "gradcheck"], tiers=(1, 2))
    assert {name: finding.status for name, finding in findings.items()} == {
        "inputs_unchanged": Status.OK,
        "gradcheck": Status.OK,
    }


class Lazy(types.ModuleType):
    """A module that is imported at its first use, and lacks a package then."""

    def __getattr__(self, name: str) -> object:
        raise ImportError(f"install something to use {name}")


def test_a_loaded_module_that_cannot_be_looked_at_disturbs_no_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    module = Lazy("lazy")
    del module.__dict__["__loader__"]
    monkeypatch.setitem(sys.modules, "lazy", module)
    with pytest.raises(ImportError):
        module.__file__  # noqa: B018

    found = judge_model(Perceptron, TABLE, only=["shape_contract", "finite_output", "batch_independence"])

    assert {name: finding.status for name, finding in found.items() if finding.status is not Status.OK} == {}


def test_a_tier_that_needs_more_than_a_model_is_refused() -> None:
    with pytest.raises(ValueError, match="tier 3 needs more than a model"):
        judge_model(Perceptron, TABLE, tiers=(1, 3))


def test_a_task_is_read_from_an_example() -> None:
    task = task_of_example(Perceptron(), torch.randn(3, TABLE.num_features or 1))

    assert task.signature.inputs[0].axes == ("batch", TABLE.num_features)
    found = judge_model(Perceptron, task, only=["shape_contract", "inputs_unchanged"])
    assert {name: finding.status for name, finding in found.items()} == {
        "shape_contract": Status.OK,
        "inputs_unchanged": Status.OK,
    }


def test_an_example_that_cannot_be_called_with_is_refused() -> None:
    with pytest.raises(ExampleError, match=r"Perceptron called with the example \(.* \[3, 99\]\) raised RuntimeError"):
        task_of_example(Perceptron(), torch.randn(3, 99))


class Mixing(nn.Module):
    """Subtracts the mean of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(20, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x - x.mean(0))


def test_an_instance_is_judged_as_it_is_and_left_as_it_was() -> None:
    model = Mixing().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    example = torch.randn(4, 20)
    state = torch.get_rng_state()

    found = judge(model, example, only=["batch_independence", "initialisation", "inputs_unchanged"])

    assert list(found.failed) == ["batch_independence[forward]", "batch_independence[gradient]"]
    assert not found.ok
    assert found["initialisation[symmetry]"].message == "the weights are loaded, not freshly initialised"
    assert model.training
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())
    assert {value.grad for value in model.parameters()} == {None}
    assert state.equal(torch.get_rng_state())


def test_a_class_is_judged_with_fresh_weights() -> None:
    found = judge(Mixing, torch.randn(4, 20), only=["initialisation", "serialisation"])
    assert found["initialisation[symmetry]"].status is not Status.SKIPPED
    assert found["serialisation[state_dict]"].status is Status.OK
    assert found.report.grade == ""  # of a selection


def test_a_language_model_is_known_by_its_calls() -> None:
    found = judge(Leaking(), torch.randint(0, 50, (2, 9)), only=["causal"])
    assert repr(found).startswith("Leaking, causal_lm: Broken: 1 problem (1 failed check)")
    assert '<td aria-label="reads, and must not"' in found._repr_html_()
    assert found["causal"].status is Status.FAIL


def test_a_model_without_an_example_is_asked_for_one() -> None:
    class Two(nn.Module):
        def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
            return left[:, :7] @ right[:, 2, :7, None]

    with pytest.raises(ExampleError, match="Two gives no example of a call: pass one, such as judge"):
        judge(Two())


def test_a_mistyped_property_gets_a_suggestion() -> None:
    with pytest.raises(ValueError, match=r"no property 'casual'\. Did you mean 'causal'\?"):
        judge(Perceptron(), only=["casual"])


def test_a_notebook_shows_findings_and_folds_the_rest(tmp_path: Path) -> None:
    found = judge(Mixing(), torch.randn(4, 20), only=["batch_independence", "inputs_unchanged", "initialisation"])
    html = found._repr_html_()
    assert html.count("<div") == html.count("</div>")
    assert "Failed</strong> <code>tier1::batch_independence[forward]</code>" in html
    assert re.search(r"<pre[^>]*>[^<]*&gt; \d+ \| [^<]*</pre>", html)  # the line of the code
    assert re.search(r"<summary>\d+ passed</summary>", html)
    assert not re.search("<script|<style|<link|class=|id=", html)  # nothing that reaches beyond the output
    page = found.save(tmp_path)
    assert "tier1::" in page.read_text()
    assert "--model-config" not in page.read_text()  # there is no config to run it again with


def test_a_bar_is_shown_on_a_terminal_and_in_a_notebook_and_nowhere_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with shown_progress(2, None) as tell:
        tell(1, "causal")
    assert capsys.readouterr() == ("", "")
    shown: list[str] = []
    handle = types.SimpleNamespace(update=lambda html: shown.append(html))
    display = types.SimpleNamespace(HTML=str, display=lambda html, display_id: shown.append(html) or handle)
    shell = types.SimpleNamespace(kernel=None)
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell, display=display))  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "IPython.display", display)  # type: ignore[arg-type]
    with shown_progress(2, None) as tell:
        tell(1, "<b>")
    assert [re.findall(r'value="(\d)" max="2"', html) for html in shown] == [["0"], ["1"], []]
    assert "&lt;b&gt;" in shown[1]
    with shown_progress(2, False) as tell:
        tell(1, "causal")
    assert len(shown) == 3
