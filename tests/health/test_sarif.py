"""The SARIF log has the structure that the schema of SARIF 2.1.0 demands: every required property, no other ones, of the right types."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.health import ExportHealthReport, to_sarif
from harness.health.checks import CheckResult

REQUIRED, OPTIONAL = "required", "optional"
TEXT: dict[str, Any] = {REQUIRED: {"text": str}}
ARTIFACT: dict[str, Any] = {OPTIONAL: {"uri": str, "uriBaseId": str, "index": int}}
REGION: dict[str, Any] = {
    OPTIONAL: {"startLine": int, "endLine": int, "startColumn": int, "endColumn": int, "snippet": {OPTIONAL: {"text": str}}}
}
LOCATION: dict[str, Any] = {
    OPTIONAL: {
        "physicalLocation": {OPTIONAL: {"artifactLocation": ARTIFACT, "region": REGION, "contextRegion": REGION}},
        "logicalLocations": [{OPTIONAL: {"fullyQualifiedName": str, "kind": str}}],
    }
}
CHANGE: dict[str, Any] = {
    REQUIRED: {
        "artifactLocation": ARTIFACT,
        "replacements": [{REQUIRED: {"deletedRegion": REGION}, OPTIONAL: {"insertedContent": {OPTIONAL: {"text": str}}}}],
    }
}
RULE: dict[str, Any] = {REQUIRED: {"id": str}, OPTIONAL: {"name": str, "shortDescription": TEXT, "help": TEXT}}
RESULT: dict[str, Any] = {
    REQUIRED: {"message": TEXT},
    OPTIONAL: {
        "ruleId": str,
        "ruleIndex": int,
        "level": ("none", "note", "warning", "error"),
        "locations": [LOCATION],
        "partialFingerprints": str,
        "fixes": [{REQUIRED: {"artifactChanges": [CHANGE]}, OPTIONAL: {"description": TEXT}}],
    },
}
RUN: dict[str, Any] = {
    REQUIRED: {"tool": {REQUIRED: {"driver": {REQUIRED: {"name": str}, OPTIONAL: {"version": str, "rules": [RULE]}}}}},
    OPTIONAL: {"results": [RESULT], "columnKind": ("utf16CodeUnits", "unicodeCodePoints")},
}
LOG: dict[str, Any] = {REQUIRED: {"version": ("2.1.0",), "runs": [RUN]}, OPTIONAL: {"$schema": str}}
"""What of the schema a log of ours can use. The whole schema, of 85,000 characters, found nothing to object to in November 2026."""


def mistakes(value: Any, schema: Any, place: str = "log") -> list[str]:
    if isinstance(schema, list):
        is_list = isinstance(value, list)
        return (
            [found for number, one in enumerate(value) for found in mistakes(one, schema[0], f"{place}[{number}]")]
            if is_list
            else [place]
        )
    if isinstance(schema, tuple):
        return [] if value in schema else [f"{place}: {value!r}"]
    if isinstance(schema, type):
        values = value.values() if isinstance(value, Mapping) else [value]  # a mapping is one from names to values of that type
        return [
            f"{place}: {one!r}"
            for one in values
            if not isinstance(one, schema) or (schema is int and (isinstance(one, bool) or one < 0))
        ]
    if not isinstance(value, dict):
        return [place]
    known = schema.get(REQUIRED, {}) | schema.get(OPTIONAL, {})
    found = [f"{place}: no {name}" for name in schema.get(REQUIRED, {}).keys() - value.keys()]
    found += [f"{place}: {name} is not known" for name in value.keys() - known.keys()]
    return found + [
        each for name in value.keys() & known.keys() for each in mistakes(value[name], known[name], f"{place}.{name}")
    ]


def log_of(*checks: CheckResult) -> dict[str, Any]:
    return to_sarif({Path("cfg.json"): ExportHealthReport("net", checks=list(checks))}, "0.1.0", Path.cwd())


def test_a_log_has_the_structure_of_the_schema() -> None:
    code = {"file": "model.py", "line": 17, "first": 16, "lines": ["def forward(self, x):", "    return x.softmax(-1)"]}
    fix = {"file": "model.py", "line": 17, "old": ["    return x.softmax(-1)"], "new": ["    return x"]}
    details = {"tier": 1, "module": "head", "code": "probabilities", "excerpt": code, "cause": "a softmax", "fix": fix}
    log = log_of(
        CheckResult("tier1::logit_range", "failed", "probabilities", details),
        CheckResult("tier2::noise[input]", "warning", "no line is known"),
        CheckResult("tier1::causal", "passed", "holds"),
    )

    assert mistakes(log, LOG) == []
    first, second = log["runs"][0]["results"]
    assert [set(first), set(second)] == [
        {*RESULT[REQUIRED], *RESULT[OPTIONAL]},
        {*RESULT[REQUIRED], *RESULT[OPTIONAL]} - {"fixes"},
    ]
    assert mistakes(log_of(), LOG) == []


def test_a_log_that_is_not_as_the_schema_says_is_seen() -> None:
    log = log_of(CheckResult("tier1::causal", "failed", "leaks"))
    (result,) = log["runs"][0]["results"]
    result["level"], result["ruleIndex"], result["colour"] = "fatal", -1, "red"
    del result["message"], log["runs"][0]["tool"]["driver"]["name"]

    assert len(mistakes(log, LOG)) == 5
