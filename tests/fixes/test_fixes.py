"""Changes that fix a finding: found by rules, tried in memory, offered only where the property then holds."""

from __future__ import annotations

import ast
from functools import partial
from pathlib import Path

import pytest
import torch

from harness.evidence import Status
from harness.excerpts import Fix
from harness.fixes import find_fix
from harness.fixes.edits import CannotChangeError, Change, Source, changed, edits_of, scopes_of
from harness.fixes.rules import RULES
from harness.fixes.state_rules import STATE_RULES, rules_of_training
from harness.tasks import TaskSpec, TaskType
from harness.user_code import import_file
from pytest_modeltiers.live import judge_model

TASK = TaskSpec(TaskType.CAUSAL_LM, vocab_size=23, max_seq_len=12)

SOUND = """
import torch
from torch import nn
from torch.nn import functional as F


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.places = nn.Embedding(23, 8), nn.Embedding(12, 8)
        self.mix = nn.Linear(8, 8)
        self.register_buffer("scale", torch.full((8,), 0.5))
        self.head = nn.Linear(8, 23)

    def forward(self, input_ids):
        length = input_ids.shape[1]
        x = self.words(input_ids) + self.places.weight[:length]
        x = F.dropout(x, 0.2, training=self.training)
        ahead = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
        scores = (x @ x.mT).masked_fill(ahead, float("-inf"))
        return self.head(self.mix(scores.softmax(-1) @ x) * self.scale)
"""

BUGS = {
    "causal": ("triu(1)", "triu(2)"),
    "eval_deterministic": ("F.dropout(x, 0.2, training=self.training)", "F.dropout(x, 0.2)"),
}


def fix_of(folder: Path, text: str, name: str, seconds: float = 20.0) -> Fix | None:
    file = folder / "model.py"
    file.write_text(text)
    model = import_file(file, "model_file").Decoder
    found = judge_model(model, TASK, only=(name,), fix_seconds=seconds)
    assert file.read_text() == text
    return next((evidence.fix for evidence in found.values() if evidence.fix is not None), None)


@pytest.mark.parametrize("name", ["causal", "eval_deterministic"])
def test_a_usual_mistake_is_fixed_on_its_line(name: str, tmp_path: Path) -> None:
    right, wrong = BUGS[name]

    found = fix_of(tmp_path, SOUND.replace(right, wrong), name)

    assert found is not None
    assert (right in found.new[0], wrong in found.old[0]) == (True, True)
    assert found.line == SOUND.splitlines().index(next(line for line in SOUND.splitlines() if right in line)) + 1


def test_one_mistake_on_several_lines_is_fixed_on_all_of_them(tmp_path: Path) -> None:
    wrong = SOUND.replace(*BUGS["eval_deterministic"]).replace(
        "        return self.head(self.mix(scores.softmax(-1) @ x) * self.scale)\n",
        "        x = self.mix(scores.softmax(-1) @ x) * self.scale\n        x = F.dropout(x, 0.3)\n        return self.head(x)\n",
    )

    found = fix_of(tmp_path, wrong, "eval_deterministic")

    assert found is not None
    assert {each.new[0].strip() for each in (found, *found.also)} == {
        "x = F.dropout(x, 0.2, training=self.training)",
        "x = F.dropout(x, 0.3, training=self.training)",
    }
    assert Fix.from_json(found.to_json()) == found
    assert found.place == "model.py:18 and model.py:22"


def test_what_two_mistakes_break_is_fixed_on_top_of_the_fix_of_one(tmp_path: Path) -> None:
    file = tmp_path / "model.py"
    file.write_text(SOUND.replace(*BUGS["causal"]).replace(*BUGS["eval_deterministic"]))
    decoder = import_file(file, "model_file").Decoder
    ids = torch.arange(24).view(2, 12) % 23
    other = torch.cat([ids[:, :-1], ids[:, -1:] + 1], dim=1) % 23

    def repeats() -> bool:
        model = decoder().eval()
        return torch.equal(model(ids), model(ids))

    def reads_nothing_later() -> bool:
        model = decoder().eval()
        return torch.equal(model(ids)[:, :-1], model(other)[:, :-1])

    earlier: list[Change] = []
    assert find_fix(None, [str(file)], repeats, frozenset, 20.0, earlier=earlier) is not None
    found = find_fix(None, [str(file)], reads_nothing_later, frozenset, 20.0, earlier=earlier)

    assert found is not None
    assert [each.new[0].strip() for each in (found[0], *found[0].also)] == [
        "ahead = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)",
        "x = F.dropout(x, 0.2, training=self.training)",
    ]
    assert [len(change) for change in earlier] == [1, 1]


def test_a_new_tensor_gets_the_dtype_of_numbers_before_that_of_ids() -> None:
    source = Source(
        "model.py", "class Model:\n    def forward(self, ids):\n        h = self.words(ids)\n        m = torch.ones(3)\n"
    )
    (scope,) = scopes_of(source)
    texts = [edit.new[0].strip() for edit in edits_of(scope, RULES) if "dtype=" in edit.new[0]]
    assert texts == ["m = torch.ones(3, dtype=h.dtype)", "m = torch.ones(3, dtype=ids.dtype)"]


def test_a_sound_model_is_offered_nothing(tmp_path: Path) -> None:
    assert fix_of(tmp_path, SOUND, "causal") is None


def test_nothing_is_looked_for_in_no_time(tmp_path: Path) -> None:
    assert fix_of(tmp_path, SOUND.replace("triu(1)", "triu(2)"), "causal", seconds=1e-6) is None


def test_a_fix_is_tried_first_on_what_else_is_found(tmp_path: Path) -> None:
    file = tmp_path / "model.py"
    file.write_text(
        SOUND.replace("self.mix = nn.Linear(8, 8)", "self.mixes = [nn.Linear(8, 8)]").replace("self.mix(", "self.mixes[0](")
    )
    model = import_file(file, "model_file").Decoder

    found = judge_model(model, TASK, only=("registration", "dtype_move"), fix_seconds=1.0)

    fixes = {name: evidence.fix for name, evidence in found.items() if evidence.status is Status.FAIL}
    assert fixes.keys() > {"registration", "dtype_move[float64]"}
    assert {fix.new for fix in fixes.values() if fix} == {("        self.mixes = nn.ModuleList([nn.Linear(8, 8)])",)}
    assert None not in fixes.values()


def test_what_no_rule_fixes_is_offered_nothing(tmp_path: Path) -> None:
    mixed = SOUND.replace("length = input_ids.shape[1]", "length = input_ids.shape[1]\n        input_ids = input_ids.sort(1)[0]")

    assert fix_of(tmp_path, mixed, "causal", seconds=0.4) is None


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("x = m.triu(2)", "x = m.triu(1)"),
        ("x = torch.tril(m, 1)", "x = torch.tril(m)"),
        ("x = F.dropout(x, 0.1)", "x = F.dropout(x, 0.1, training=self.training)"),
        ("x = x.repeat(3)", "x = x.repeat_interleave(3, 0)"),
        ("x, new = m, x + 1; return x, mask", "x, new = m, x + 1; return x, new"),
        ("x = x.softmax(-1)", "x = x"),
        ("x = m * (x + 1).sigmoid()", "x = m * (x + 1)"),
        ("x = (x - m) / x.norm()", "x = (x - m) / (x.norm() + 1e-6)"),
        ("x = x.detach()", "x = x"),
        ("x.mul_(2)", "x = x.mul(2)"),
        ("x += m", "x = x + (m)"),
        ("x = x.mean(0)", "x = x.mean(1)"),
        ("x = x.shape[-1]", "x = x.shape[-2]"),
        ("x = x.mean(1)", "x = (x * mask.unsqueeze(-1).to(x.dtype)).sum(1) / mask.unsqueeze(-1).to(x.dtype).sum(1).clamp(min=1)"),
        ("x = F.interpolate(x, scale_factor=2)", "x = F.interpolate(x, size=m.shape[-2:])"),
        ("x = x.view(4, 2, 3)", "x = x.view(4, 3, 2).transpose(1, 2)"),
        ("x = F.scaled_dot_product_attention(x, m, m)", "x = F.scaled_dot_product_attention(x, m, m, is_causal=True)"),
        (
            "x = self.attention(x, x, x, need_weights=False)",
            "x = self.attention(x, x, x, need_weights=False, key_padding_mask=mask == 0)",
        ),
        ("real = x != 0", "real = mask"),
        ("x = x / x.norm()", "x = x / (x.norm() + 1e-6)"),
        ("x = torch.zeros(3)", "x = torch.zeros(3, device=x.device)"),
        ("x = x.view(-1, 64 * 8)", "x = x.flatten(1)"),
        ("x = self.head(x).squeeze()", "x = self.head(x).squeeze(-1)"),
        ("x = torch.squeeze(x)", "x = x.flatten(1)"),
        ("x = (x + m).cuda()", "x = (x + m).to(x.device)"),
        ("x = x + m.to(device)", "x = x + m.to(x.device)"),
        ("x = checkpoint(self.block, x, use_reentrant=True)", "x = checkpoint(self.block, x, use_reentrant=False)"),
    ],
)
def test_a_rule_knows_what_was_meant(before: str, after: str) -> None:
    source = Source("model.py", f"class Model:\n    def forward(self, x, m, mask):\n        {before}\n")
    (scope,) = scopes_of(source)
    texts = ["\n".join(edit.new).strip() for edit in edits_of(scope, RULES)]
    assert after in texts
    for text in texts:
        ast.parse(text)


def test_a_mask_is_no_condition() -> None:
    line = "x = m if x.dtype == torch.half else m + 1"
    (scope,) = scopes_of(Source("model.py", f"class Model:\n    def forward(self, x, m, mask):\n        {line}\n"))
    assert not [edit.new for edit in edits_of(scope, RULES) if "mask" in "".join(edit.new)]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("self.mean = torch.zeros(3)", 'self.register_buffer("mean", torch.zeros(3))'),
        ("self.count = 0", 'self.register_buffer("count", torch.tensor(0))'),
        ("self.blocks = [nn.Linear(2, 2)]", "self.blocks = nn.ModuleList([nn.Linear(2, 2)])"),
        ("self.scales = [nn.Parameter(s)]", "self.scales = nn.ParameterList([nn.Parameter(s)])"),
        ("self.weigh = nn.Softmax(dim=0)", "self.weigh = nn.Softmax(dim=1)"),
        ("self.steps = nn.LSTM(2, 3)", "self.steps = nn.LSTM(2, 3, batch_first=True)"),
        ("self.head.weight = nn.Parameter(self.words.weight.data)", "self.head.weight = self.words.weight"),
        ("self.words.requires_grad = False", "self.words.requires_grad_(False)"),
        ('self.register_buffer("edges", edges, persistent=False)', 'self.register_buffer("edges", edges)'),
    ],
)
def test_a_rule_knows_what_was_meant_of_a_models_parts(before: str, after: str) -> None:
    source = Source("model.py", f"class Model:\n    def __init__(self, edges):\n        {before}\n")
    (scope,) = scopes_of(source)
    assert after in ["\n".join(edit.new).strip() for edit in edits_of(scope, (*RULES, *STATE_RULES))]


STREAMING = """\
class Stream:
    def __init__(self):
        self.keys, self.count = None, 0
        self.kept = ("layer",)
        self.layer, self.extra = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x, real):
        self.keys = x if self.keys is None else self.keys + x
        self.count += 1
        if self.layer.enabled:
            x = self.layer(x)
        x = self.extra(x)
        return x.sum() / x.numel()

    def reset(self):
        pass
"""


@pytest.mark.parametrize(
    ("method", "after"),
    [
        ("reset", "        self.keys = None\n        self.count = 0"),
        ("reset", "        self.count = 0"),
        ("__init__", '        self.kept = ("layer", "extra")'),
        ("forward", "        if self.extra.enabled:\n            x = self.extra(x)"),
        ("forward", "        return x.sum() / real.sum().clamp(min=1)"),
    ],
)
def test_a_rule_knows_what_a_model_keeps(method: str, after: str) -> None:
    scope = next(scope for scope in scopes_of(Source("model.py", STREAMING)) if scope.function.name == method)
    assert after in ["\n".join(edit.new) for edit in edits_of(scope, (*RULES, *STATE_RULES))]


def test_a_reset_that_sets_everything_back_is_left_alone() -> None:
    whole = STREAMING.replace("        pass", "        self.keys, self.count = None, 0")
    scope = next(scope for scope in scopes_of(Source("model.py", whole)) if scope.function.name == "reset")
    assert [edit for edit in edits_of(scope, STATE_RULES) if edit.rule == "set back to its start"] == []


def test_the_text_of_a_node_is_that_of_pythons_own_function() -> None:
    text = "def f(é, x):\n    return (é +\n            'ü'.join(x))  # ß\n"
    source = Source("model.py", text)
    nodes = [node for node in ast.walk(source.tree) if isinstance(node, (ast.expr, ast.stmt))]
    assert [source.segment(node) for node in nodes] == [ast.get_source_segment(text, node) for node in nodes]


def test_a_change_is_in_effect_in_its_block_only(tmp_path: Path) -> None:
    file = tmp_path / "changing.py"
    file.write_text(SOUND)
    model = import_file(file, "model_file").Decoder().eval()
    source = Source(str(file), SOUND)
    (scope,) = [scope for scope in scopes_of(source) if scope.function.name == "forward"]
    edit = next(edit for edit in edits_of(scope, RULES) if edit.rule == "diagonal of a mask")
    ids, code = torch.arange(6)[None], type(model).forward.__code__
    with torch.no_grad():
        before = model(ids)
        with changed(source, edit):
            during = model(ids)
        after = model(ids)
    assert not torch.equal(before, during)
    assert torch.equal(before, after)
    assert type(model).forward.__code__ is code


def test_a_change_that_is_no_code_is_none(tmp_path: Path) -> None:
    file = tmp_path / "changing_too.py"
    file.write_text(SOUND)
    import_file(file, "model_file")
    source = Source(str(file), SOUND)
    edit = next(edits_of(scopes_of(source)[-1], RULES))
    broken = partial(type(edit), edit.line, edit.end, ("    return ((",), edit.rule, edit.cost)
    with pytest.raises(CannotChangeError), changed(source, broken()):
        pass


def test_a_training_is_not_fixed_by_another_mask_or_without_decay() -> None:
    names = {rule.name for rule in (*RULES, *STATE_RULES)}
    assert rules_of_training("training_loss[targets]") < names
    assert "no activation" in rules_of_training("training_loss[scores]") - rules_of_training("training_loss[targets]")
    assert not {"the other way round", "the default of an argument", "a usual start"} & rules_of_training("initial_loss")
