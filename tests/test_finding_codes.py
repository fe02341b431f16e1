"""Codes of findings and of wrong input: every failure and warning has one, and docs/codes.md explains each and no other."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from planted_bugs.register import all_bugs

from harness.catalogue import CATALOGUE
from harness.internal_errors import CODE
from harness.monitoring.drift.verdict import DriftFinding
from harness.monitoring.gate.comparison import ComparisonFinding
from harness.monitoring.thresholds import ThresholdFinding
from harness.monitoring.verdict import ImpactFinding

ROOT = Path(__file__).parent.parent
ROOMS = ("properties", "analysis", "training/checks", "export/checks", "monitoring")
TREES = {
    file.relative_to(ROOT).as_posix(): ast.parse(file.read_text(encoding="utf-8"))
    for room in ROOMS
    for file in sorted((ROOT / "harness" / room).rglob("*.py"))
    if file.name != "errors.py"  # whose codes are of wrong input
}
EXPLAINED = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", (ROOT / "docs" / "codes.md").read_text(encoding="utf-8"), re.MULTILINE))
ALWAYS = ("Evidence.failed", "Evidence.warned", "left_to")
PASSES = ("Status.OK", "Status.SKIPPED")


def findings(tree: ast.AST) -> Iterator[ast.Call]:
    """The calls that make evidence which may be a failure or a warning; a copy of other evidence keeps its code."""
    for node in ast.walk(tree):
        made_by = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
        if not isinstance(node, ast.Call) or made_by not in ("Evidence", "Evidence.judged", *ALWAYS):
            continue
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        status = given.get("status") or (node.args[1] if len(node.args) > 1 else None)
        if made_by in ALWAYS or (status is not None and ast.unparse(status) not in PASSES):
            yield node


def code_of(call: ast.Call) -> ast.expr | None:
    return next((keyword.value for keyword in call.keywords if keyword.arg == "code"), None)


def codes_given(tree: ast.AST) -> set[str]:
    """The codes that a file gives by name, to evidence or to a function or class that takes a code."""
    takes = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            names = [each.arg for each in node.args.args if each.arg != "self"]
            takes.update({node.name: names.index("code")} if "code" in names else {})
        if isinstance(node, ast.ClassDef):
            names = [
                each.target.id for each in node.body if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)
            ]
            takes.update({node.name: names.index("code")} if "code" in names else {})
    found = list[ast.expr | None]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            place = takes.get(node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func))
            found += [code_of(node), *(node.args[place : place + 1] if place is not None else [])]
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "code":
            found.append(node.value)
    named = set[str]()
    for value in found:
        choices = [value.body, value.orelse] if isinstance(value, ast.IfExp) else [value]
        choices += [inner for each in choices if isinstance(each, ast.IfExp) for inner in (each.body, each.orelse)]
        named |= {each.value for each in choices if isinstance(each, ast.Constant) and isinstance(each.value, str)}
    return named - {""}


def of_enumerations() -> set[str]:
    """The codes of tier 5, which follow from the names of what a comparison comes to."""
    kinds = [*DriftFinding, *ComparisonFinding, *ImpactFinding, *ThresholdFinding]
    return {
        kind.value.replace(" ", "_")
        for kind in kinds
        if kind.value not in ("unchanged", "usual", "not worse", "harmless", "meets threshold")
    }


def test_every_failure_and_warning_has_a_code() -> None:
    without = [(file, ast.unparse(call)) for file, tree in TREES.items() for call in findings(tree) if code_of(call) is None]
    assert without == []


def test_two_findings_of_one_function_have_different_codes() -> None:
    functions = [(file, node) for file, tree in TREES.items() for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    for file, function in functions:
        codes = [code.value for call in findings(function) if isinstance(code := code_of(call), ast.Constant)]
        assert [code for code, number in Counter(codes).items() if number > 1] == [], (file, function.name)


def test_every_code_is_explained() -> None:
    given = {code for tree in TREES.values() for code in codes_given(tree)}
    given |= {bug.code for bug in all_bugs()} - {""}
    assert sorted((given | of_enumerations() | {CODE}) - set(EXPLAINED)) == []


def test_every_explained_code_is_in_the_code() -> None:
    written = {node.value for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    assert sorted(set(EXPLAINED) - written - of_enumerations() - {CODE}) == []
    assert list(EXPLAINED) == sorted(EXPLAINED)


def test_a_bug_whose_property_has_several_kinds_has_a_code() -> None:
    assert [str(bug) for bug in all_bugs() if bug.says and not bug.code] == []


def test_a_part_of_a_message_is_compared_once_a_kind() -> None:
    told = Counter((bug.property, bug.code, bug.says) for bug in all_bugs() if bug.says)
    assert [key for key, number in told.items() if number > 1] == []


def test_codes_are_no_names_of_properties() -> None:
    assert set(EXPLAINED) & set(CATALOGUE) == set()


def test_every_kind_of_wrong_input_has_a_code_of_its_own() -> None:
    codes = Counter[str]()
    for file in sorted((ROOT / "harness").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and "UserError" in map(ast.unparse, node.bases):
                given = [
                    each.value for each in node.body if isinstance(each, ast.Assign) and ast.unparse(each.targets[0]) == "code"
                ]
                assert given, node.name
                codes[ast.literal_eval(given[0])] += 1
    assert [code for code, number in codes.items() if number > 1] == []
